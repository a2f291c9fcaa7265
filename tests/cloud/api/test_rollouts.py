"""Rollouts over the API: plans that are checked word by word, pages that say why, and the words that steer."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cloud.access.roles import Role
from cloud.api.backend import hash_token
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, Entry, Report
from protocol.values import Via
from tests.cloud.homes import PRODUCT, Api

CHANNEL = {"product": PRODUCT, "group": "everyone", "component": "app"}
PLAN = {"phases": [{"group": "pilot", "soak_s": 60}, {"percentage": 100, "soak_s": 60}], "gates": {"silence": None}}


@pytest.fixture
def fleet(api: Api) -> Api:
    """Two devices, `pi-1` of them in the group `pilot`; 1.1.0 is published."""
    api.home.publish("1.1.0")
    for number in (1, 2):
        api.home.join(f"pi-{number}")
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    api("POST", f"/groups/{PRODUCT}/pilot/members", {"add": ["pi-1"]})
    return api


@pytest.fixture
def second(fleet: Api) -> Iterator[httpx.Client]:
    """Somebody else, with a token of their own."""
    token = hashlib.sha256(b"second").hexdigest()
    fleet.home.store.people.add("second", {PRODUCT: Role.RELEASE_MANAGER}, by="test")
    fleet.home.store.tokens.add("second", hash_token(token), person="second", by="test")
    with httpx.Client(base_url=fleet.http.base_url, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def push(api: Api, **more: Any) -> str:
    page = api("POST", "/releases", CHANNEL | {"version": "1.1.0", "plan": PLAN} | more, expect=201)
    return str(page["release"]["release_id"])


def fail(api: Api, device_id: str, release_id: str) -> None:
    firmware = api("GET", f"/releases/{release_id}")["release"]["firmware"]
    entry = AttemptEntry(
        attempt_id=f"{device_id}-1",
        source_id=release_id,
        via=Via.RELEASE,
        component="app",
        version=firmware["version"],
        digest=firmware["digest"],
        phase=Phase.PROVING,
        from_version="1.0.0",
        outcome=Outcome.ROLLED_BACK,
        reason=Reason.HEALTH_FAILED,
    )
    api.home.store.journal.receive_report(
        device_id, Report(journal_id="j1", entries=(Entry(seq=1, at_ms=1, attempt=entry),))
    )


def test_a_page_says_where_it_stands_by_kind_of_device_and_why(fleet: Api) -> None:
    release_id = push(fleet, terms={"windows": [{"start_minute": 60, "duration_minutes": 60}]})
    page = fleet("GET", f"/releases/{release_id}/rollout")
    assert (page["status"], page["phase"], page["covered_percent"], page["devices"]) == ("running", 1, 0, 2)
    assert page["phases"][0] == {"percentage": None, "group": "pilot", "soak_s": 60, "ramp_s": 0}
    assert page["release"]["terms"]["canaries"] == ["pilot"]
    assert page["release"]["terms"]["windows"][0]["start_minute"] == 60
    assert "phase 1 of 2 (group pilot): soaks for" in page["waits_for"]
    fail(fleet, "pi-1", release_id)
    (stratum,) = fleet("GET", f"/releases/{release_id}/rollout")["strata"]
    assert (stratum["from_version"], stratum["started"], stratum["failed"]) == ("1.0.0", 1, 1)
    assert stratum["failures"] == [{"phase": "proving", "reason": "health_failed", "count": 1}]


def test_the_words_that_steer_and_their_refusals(fleet: Api) -> None:
    release_id = push(fleet)

    def say(word: str, **body: str) -> Any:
        return fleet("POST", f"/releases/{release_id}/{word}", body)

    assert say("pause", why="lunch")["why"] == "lunch"
    code, message = fleet.refusal("POST", f"/releases/{release_id}/pause", {}, status=409)
    assert (code, "nothing was changed" in message) == ("conflict", True)
    assert say("resume")["status"] == "running"
    assert say("advance")["phase"] == 2
    assert say("retry")["release"]["terms"]["retried_at"] > 0
    code, message = fleet.refusal("PATCH", f"/releases/{release_id}", {"percentage": 100}, status=409)
    assert "goes by a plan" in message
    assert say("abort")["status"] == "aborted"
    assert fleet("GET", f"/releases/{release_id}")["release"]["enabled"] is False


def test_whoever_made_it_cannot_approve_it_and_somebody_else_can(fleet: Api, second: httpx.Client) -> None:
    release_id = push(fleet, plan=PLAN | {"approvals": 1})
    assert fleet("GET", f"/releases/{release_id}/rollout")["status"] == "awaiting_approval"
    _, message = fleet.refusal("POST", f"/releases/{release_id}/approve", {}, status=409)
    assert "whoever makes one cannot approve it" in message
    answer = second.post(f"/releases/{release_id}/approve", json={}).json()
    assert (answer["status"], answer["approved_by"]) == ("running", ["second"])
    assert fleet("GET", f"/releases/{release_id}")["release"]["enabled"] is True


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"plan": {"phasez": []}}, "'phasez' is not known"),
        ({"plan": {"phases": [{"percentage": 5, "soak": 1}]}}, "'soak' is not known"),
        ({"plan": {"phases": [{"percentage": 0}]}}, "percentage is 0"),
        ({"plan": {"phases": []}}, "a phase at least"),
        ({"plan": {"gates": {"failures": {"then": "explode"}}}}, "not one of pause, roll_back"),
        ({"plan": {"terms": {}}}, "stand beside its plan"),
        ({"terms": {"paused": True}}, "'paused' is not among"),
        ({"terms": {"optional": True}}, "optional without attention"),
        ({"percentage": 50}, "give one of the two"),
        ({"plan": {"phases": [{"group": "nobody"}]}}, "no group 'nobody'"),
    ],
)
def test_a_plan_that_is_none_is_refused_and_nothing_is_released(fleet: Api, more: dict[str, Any], why: str) -> None:
    body = CHANNEL | {"version": "1.1.0", "plan": PLAN} | more
    answer = fleet.http.post("/releases", json=body)
    assert answer.status_code in (404, 422)
    assert why in answer.json()["message"]
    assert "othing was changed" in answer.json()["message"]
    assert fleet("GET", "/releases") == []


def test_a_plain_release_is_paused_resumed_and_retried_and_has_no_rollout(fleet: Api) -> None:
    page = fleet("POST", "/releases", CHANNEL | {"version": "1.1.0"}, expect=201)
    release_id = page["release"]["release_id"]
    code, message = fleet.refusal("GET", f"/releases/{release_id}/rollout", status=404)
    assert (code, "has no plan" in message) == ("not_found", True)
    assert "disable it" in fleet.refusal("POST", f"/releases/{release_id}/abort", {}, status=404)[1]
    page = fleet("POST", f"/releases/{release_id}/pause", {"why": "lunch"})
    assert (page["release"]["release_id"], page["release"]["terms"]["paused"], "phases" in page) == (
        *(release_id, True),
        False,
    )
    code, message = fleet.refusal("POST", f"/releases/{release_id}/pause", {}, status=409)
    assert (code, "nothing was changed" in message) == ("conflict", True)
    assert fleet("GET", f"/releases/{release_id}/progress")["verdict"] == "open"
    assert fleet("POST", f"/releases/{release_id}/resume", {})["release"]["terms"]["paused"] is False
    assert fleet("POST", f"/releases/{release_id}/retry", {})["release"]["terms"]["retried_at"] > 0
    fleet.refusal("POST", "/releases/rel-nowhere/pause", {}, status=404)
