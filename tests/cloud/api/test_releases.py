"""Releases, locks and single-device OTAs over the API, with devices that answer through the store."""

import threading
import time
from typing import Any

import pytest

from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, DeviceState, Entry, Report
from protocol.values import ComponentState, Via
from tests.cloud.homes import PRODUCT, Api

CHANNEL = {"product": PRODUCT, "group": "everyone", "component": "app"}


def release(api: Api, version: str, **more: Any) -> dict[str, Any]:
    page: dict[str, Any] = api("POST", "/releases", CHANNEL | {"version": version} | more, expect=201)
    return page


class Journal:
    """The reports of one device."""

    def __init__(self, api: Api, device_id: str) -> None:
        self.api, self.device_id, self.seq = api, device_id, 0

    def report(self, source: str, version: str, digest: str, *, via: Via = Via.RELEASE, **how: Any) -> None:
        self.seq += 1
        entry = AttemptEntry(
            attempt_id=how.pop("attempt_id", f"{self.device_id}-{source}"),
            source_id=source,
            via=via,
            component="app",
            version=version,
            digest=digest,
            phase=how.pop("phase", Phase.DOWNLOADING),
            **how,
        )
        report = Report(journal_id="j1", entries=(Entry(seq=self.seq, at_ms=1, attempt=entry),))
        assert self.api.home.store.journal.receive_report(self.device_id, report) == self.seq
        self.api.backend.changes.bump()

    def succeed(self, page: dict[str, Any]) -> None:
        firmware, source = page["release"]["firmware"], page["release"]["release_id"]
        version, digest = firmware["version"], firmware["digest"]
        self.report(source, version, digest, phase=Phase.DOWNLOADING)
        self.report(source, version, digest, phase=Phase.INSTALLING)
        runs = ComponentState(component="app", version=version, build=1, digest=digest)
        state = DeviceState(session=1, seq=10 + self.seq, phase=Phase.COMMITTING, components=(runs,))
        assert self.api.home.store.journal.receive_state(self.device_id, state)
        done = Outcome.SUCCEEDED
        self.report(source, version, digest, phase=Phase.COMMITTING, outcome=done, booted_digest=digest)


@pytest.fixture
def fleet(api: Api) -> Api:
    """Three devices on 1.0.0, `pi-1` of them in the group `pilot`; 1.0.0 and 1.1.0 are published."""
    for version in ("1.0.0", "1.1.0"):
        api.home.publish(version)
    for number in (1, 2, 3):
        api.home.join(f"pi-{number}")
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    api("POST", f"/groups/{PRODUCT}/pilot/members", {"add": ["pi-1"]})
    return api


def test_labels_begin_at_one_per_channel_and_the_newest_is_live(fleet: Api) -> None:
    labels = [release(fleet, version)["release"]["label"] for version in ("1.0.0", "1.1.0")]
    pilot = release(fleet, "1.1.0", group="pilot")["release"]
    assert labels == [1, 2]
    assert pilot["label"] == 1
    pages = fleet("GET", "/releases", params=CHANNEL)
    assert [(page["release"]["label"], page["release"]["live"]) for page in pages] == [(2, True), (1, False)]
    assert pages[0]["link"] == f"http://api.test/releases/{pages[0]['release']['release_id']}"


def test_disabling_the_live_release_makes_the_one_before_live_again(fleet: Api) -> None:
    first, second = release(fleet, "1.0.0")["release"], release(fleet, "1.1.0")["release"]
    assert fleet("PATCH", f"/releases/{second['release_id']}", {"enabled": False})["release"]["live"] is False
    assert fleet("GET", f"/releases/{first['release_id']}")["release"]["live"] is True
    code, _ = fleet.refusal("PATCH", f"/releases/{second['release_id']}", {"percentage": 100}, status=409)
    assert code == "conflict"
    assert fleet("PATCH", f"/releases/{second['release_id']}", {"enabled": True})["release"]["live"] is True


@pytest.mark.parametrize("percentage", [0, 101, -1, "ten", 50.5, True, None])
def test_a_percentage_is_a_whole_number_from_1_to_100(fleet: Api, percentage: object) -> None:
    body = CHANNEL | {"version": "1.1.0", "percentage": percentage}
    assert fleet.refusal("POST", "/releases", body, status=422)[0] == "invalid"
    assert fleet("GET", "/releases") == []


def test_a_percentage_only_rises(fleet: Api) -> None:
    made = release(fleet, "1.1.0", percentage=40)["release"]
    assert fleet("PATCH", f"/releases/{made['release_id']}", {"percentage": 60})["release"]["percentage"] == 60
    fleet.refusal("PATCH", f"/releases/{made['release_id']}", {"percentage": 50}, status=409)
    assert fleet("GET", f"/releases/{made['release_id']}")["release"]["percentage"] == 60


def test_a_forecast_holds_for_the_release_of_its_id(fleet: Api) -> None:
    request = CHANNEL | {"version": "1.1.0", "percentage": 50}
    forecast = fleet("POST", "/releases/forecast", request)
    assert fleet("GET", "/releases") == []
    made = release(fleet, "1.1.0", percentage=50, release_id=forecast["release_id"])["release"]
    assert made["release_id"] == forecast["release_id"]
    progress = fleet("GET", f"/releases/{made['release_id']}/progress")
    assert sorted(device["device_id"] for device in progress["devices"]) == sorted(forecast["takes"])
    assert len(forecast["takes"]) + len(forecast["holds"]) == 3


def test_a_forecast_of_what_is_not_published_yet(fleet: Api) -> None:
    fleet("PUT", "/devices/pi-3/lock/app", {"version": "1.0.0"})
    firmware = {"seq": 3, "digest": "a" * 64, "size_bytes": 10, "hardware_models": ["raspberrypi4"]}
    forecast = fleet("POST", "/releases/forecast", CHANNEL | {"version": "9.0.0", "firmware": firmware})
    assert forecast["reach"] == 2
    assert [(hold["device_id"], hold["reason"]) for hold in forecast["holds"]] == [("pi-3", "pinned")]
    needs = firmware | {"requires": {"components": {"os": ">=2.0.0"}}}
    forecast = fleet("POST", "/releases/forecast", CHANNEL | {"version": "9.0.0", "firmware": needs})
    assert (forecast["reach"], {hold["reason"] for hold in forecast["holds"]}) == (0, {"requirement", "pinned"})


def test_a_range_that_no_device_is_in_is_accepted_and_says_so(fleet: Api) -> None:
    forecast = fleet("POST", "/releases/forecast", CHANNEL | {"version": "1.1.0", "target_range": "7.x"})
    assert forecast["reach"] == 0
    assert "nobody" in forecast["sentence"]
    made = release(fleet, "1.1.0", target_range="7.x")
    assert made["release"]["live"] is True
    assert fleet("GET", f"/releases/{made['release']['release_id']}/progress")["devices"] == []


def test_progress_follows_a_device_from_waiting_to_success(fleet: Api) -> None:
    made = release(fleet, "1.1.0", group="pilot")
    path = f"/releases/{made['release']['release_id']}/progress"

    def device() -> dict[str, Any]:
        (found,) = fleet("GET", path)["devices"]
        assert found["device_id"] == "pi-1"
        return dict(found)

    assert device()["stage"] == "waiting"
    journal = Journal(fleet, "pi-1")
    firmware = made["release"]["firmware"]
    journal.report(made["release"]["release_id"], "1.1.0", firmware["digest"])
    assert (device()["stage"], device()["phase"]) == ("under_way", "downloading")
    journal.succeed(made)
    assert device()["stage"] == "succeeded"
    metrics = fleet("GET", f"/releases/{made['release']['release_id']}")["metrics"]
    assert (metrics["downloads"], metrics["installs"], metrics["rollbacks"]) == (1, 1, {})


def test_a_rollback_of_the_device_is_seen_with_its_reason(fleet: Api) -> None:
    made = release(fleet, "1.1.0", group="pilot")
    firmware, source = made["release"]["firmware"], made["release"]["release_id"]
    how: dict[str, Any] = {"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED, "detail": "503 from /health"}
    Journal(fleet, "pi-1").report(source, "1.1.0", firmware["digest"], phase=Phase.ROLLING_BACK, **how)
    (device,) = fleet("GET", f"/releases/{source}/progress")["devices"]
    assert (device["stage"], device["reason"], device["detail"]) == ("rolled_back", "health_failed", "503 from /health")
    assert fleet("GET", f"/releases/{source}")["metrics"]["rollbacks"] == {"health_failed": 1}
    (attempt,) = fleet("GET", "/devices/pi-1/history")
    assert (attempt["outcome"], attempt["steps"][-1]["reason"]) == ("rolled_back", "health_failed")


def test_rolling_back_needs_a_label_that_succeeded(fleet: Api) -> None:
    first = release(fleet, "1.0.0", group="pilot")
    second = release(fleet, "1.1.0", group="pilot")
    path = f"/releases/{first['release']['release_id']}/rollback"
    code, message = fleet.refusal("POST", path, {}, status=409)
    assert code == "conflict"
    assert "succe" in message
    Journal(fleet, "pi-1").succeed(first)
    made = fleet("POST", path, {"description": "too warm"}, expect=201)["release"]
    assert (made["label"], made["references_label"], made["live"], made["percentage"]) == (3, 1, True, 100)
    assert fleet("GET", f"/releases/{second['release']['release_id']}")["release"]["live"] is False


def test_what_succeeded_is_promoted_to_another_group(fleet: Api) -> None:
    tried = release(fleet, "1.1.0", group="pilot")
    path = f"/releases/{tried['release']['release_id']}/promote"
    assert fleet.refusal("POST", path, {"group": "everyone"}, status=409)[0] == "conflict"
    Journal(fleet, "pi-1").succeed(tried)
    assert "Did you mean 'everyone'?" in fleet.refusal("POST", path, {"group": "everyon"}, status=404)[1]
    made = fleet("POST", path, {"group": "everyone", "percentage": 25}, expect=201)["release"]
    assert (made["channel"]["group"], made["percentage"], made["promoted_from"]) == (
        "everyone",
        25,
        tried["release"]["release_id"],
    )


def test_a_locked_device_stays_and_an_unlocked_one_follows(fleet: Api) -> None:
    made = release(fleet, "1.1.0")["release"]
    assert fleet("PUT", "/devices/pi-2/lock/app", {"version": "1.0.0"})["version"] == "1.0.0"
    takers = fleet("GET", f"/releases/{made['release_id']}/progress")["devices"]
    assert [device["device_id"] for device in takers] == ["pi-1", "pi-3"]
    assert (
        "Did you mean '1.0.0'?" in fleet.refusal("PUT", "/devices/pi-2/lock/app", {"version": "1.0.9"}, status=404)[1]
    )
    fleet("DELETE", "/devices/pi-2/lock/app", expect=204)
    fleet.refusal("DELETE", "/devices/pi-2/lock/app", status=404)
    assert len(fleet("GET", f"/releases/{made['release_id']}/progress")["devices"]) == 3


def test_a_single_device_ota_is_followed_and_cancelled(fleet: Api) -> None:
    page = fleet("POST", "/devices/pi-2/ota", {"component": "app", "version": "1.1.0"}, expect=201)
    assert (page["device"]["stage"], page["ota"]["urgency"], page["ota"]["status"]) == ("waiting", "immediate", "open")
    ota_id, digest = page["ota"]["ota_id"], page["ota"]["firmware"]["digest"]
    Journal(fleet, "pi-2").report(ota_id, "1.1.0", digest, via=Via.OTA)
    assert fleet("GET", f"/otas/{ota_id}")["device"]["stage"] == "under_way"
    other = fleet("POST", "/devices/pi-3/ota", {"component": "app", "version": "1.1.0"}, expect=201)["ota"]["ota_id"]
    assert fleet("DELETE", f"/otas/{other}")["ota"]["status"] == "cancelled"
    fleet.refusal("DELETE", f"/otas/{other}", status=409)


def test_decisions_tell_every_step(fleet: Api) -> None:
    release(fleet, "1.1.0", percentage=100)
    (decision,) = fleet("GET", "/devices/pi-1/decisions")
    assert (decision["component"], decision["verdict"]) == ("app", "take")
    assert decision["trace"][-1]["rule"] == "release"


def test_a_long_poll_answers_as_soon_as_something_happens(fleet: Api) -> None:
    made = release(fleet, "1.1.0", group="pilot")
    path = f"/releases/{made['release']['release_id']}/progress"
    seen = fleet("GET", path)["revision"]
    answers: list[tuple[float, dict[str, Any]]] = []

    def poll() -> None:
        answers.append((time.monotonic(), fleet("GET", path, params={"seen": seen, "wait": 20})))
        answers.append((time.monotonic(), answers[0][1]))

    began = time.monotonic()
    poller = threading.Thread(target=poll)
    poller.start()
    poller.join(0.3)
    assert poller.is_alive(), "the poll did not wait"
    Journal(fleet, "pi-1").report(made["release"]["release_id"], "1.1.0", made["release"]["firmware"]["digest"])
    poller.join(10)
    assert not poller.is_alive()
    assert answers[1][0] - began < 10
    assert answers[0][1]["devices"][0]["stage"] == "under_way"


def test_a_long_poll_has_a_limit(fleet: Api) -> None:
    made = release(fleet, "1.1.0")["release"]
    path = f"/releases/{made['release_id']}/progress"
    assert fleet.refusal("GET", path, status=422, params={"seen": 0, "wait": 3600})[0] == "invalid"


def test_every_decision_is_in_the_audit(fleet: Api) -> None:
    made = release(fleet, "1.1.0")["release"]
    fleet("PATCH", f"/releases/{made['release_id']}", {"enabled": False})
    actions = [(row["actor"], row["action"]) for row in fleet("GET", "/audit")]
    assert len([actor for actor, _ in actions if actor == "operator"]) >= 4


def test_metrics_have_no_device_in_them(fleet: Api) -> None:
    text = fleet.http.get("/metrics").text
    assert 'fleetlift_devices{product="thermostat"} 3.0' in text
    assert "pi-1" not in text


def test_a_list_without_metrics_tells_where_plans_are(fleet: Api) -> None:
    release(fleet, "1.0.0")
    release(fleet, "1.1.0", plan={"phases": [{"percentage": 10, "soak_s": 60}, {"percentage": 100}]})
    planned, plain = fleet("GET", "/releases", params=CHANNEL | {"metrics": "false"})
    assert planned["metrics"] is plain["metrics"] is None
    assert planned["rollout"] == {
        "status": "running",
        "phase": 1,
        "phases": 2,
        "why": "the first phase is open",
    }
    assert plain["rollout"] is None
    assert fleet("GET", f"/releases/{planned['release']['release_id']}")["rollout"] == planned["rollout"]
