"""How far a device is with a release: every stage, from values alone."""

from dataclasses import replace
from typing import Any

import pytest

from cloud.fleet import AttemptView, DeviceSituation, DeviceView
from cloud.guard.evidence import Status
from cloud.progress import Rollout, Stage, Verdict, device_progress, verdict_of
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.schedule import Ramp, Terms
from protocol.selection import Assignment
from protocol.up import Availability, Pending, Progress
from protocol.values import ComponentState, FirmwareRef, Via
from tests.support.updates import digest_of, firmware

RUNS_OLD = {"app": ComponentState(component="app", version="1.0.0", build=1, digest=digest_of("old"))}
WANTED = firmware("1.1.0")


def situation(device_id: str = "pi-1", **facts: Any) -> DeviceSituation:
    more = {name: facts.pop(name) for name in ("online", "pending", "phase") if name in facts}
    described = {"hardware_model": "pi4", "agent_version": "0.1.0", "components": RUNS_OLD} | facts
    assignment = Assignment(groups=("everyone",))
    return DeviceSituation(facts=DeviceFacts(device_id=device_id, **described), assignment=assignment, **more)


def channels(image: FirmwareRef = WANTED, **release: Any) -> dict[tuple[str, str], tuple[NoticeRelease, ...]]:
    return {("everyone", "app"): (NoticeRelease(release_id="r1", label=1, order=1, firmware=image, **release),)}


def attempt(**how: Any) -> AttemptView:
    plain = AttemptView(
        device_id="pi-1",
        attempt_id="a1",
        journal_id="j1",
        source_id="r1",
        via=Via.RELEASE,
        channel=None,
        label=1,
        component="app",
        version="1.1.0",
        digest=WANTED.digest,
        from_version="1.0.0",
        from_digest=digest_of("old"),
        phase=Phase.DOWNLOADING,
        outcome=None,
        succeeded=False,
        reason=None,
        detail="",
        booted_digest=None,
        fetched_bytes=0,
        forced=False,
        started_at_ms=1,
        ended_at_ms=None,
        taken_back_at_ms=None,
    )
    return replace(plain, **how)


def view(progress: Progress | None) -> DeviceView:
    return DeviceView(
        device_id="pi-1",
        product="thermostat",
        hardware_model="pi4",
        agent_version="0.1.0",
        attributes={},
        groups=("everyone",),
        online=True,
        session=1,
        last_seen_at_ms=1,
        registered_at_ms=1,
        phase=Phase.DOWNLOADING,
        components=tuple(RUNS_OLD.values()),
        availability=Availability(),
        pending=(),
        progress=progress,
        failed=(),
        refused={},
        pins=(),
        otas=(),
        root_version=1,
        journal_id="j1",
        journal_through=0,
    )


def stage(device: DeviceSituation, of: AttemptView | None = None, **release: Any) -> tuple[Stage | None, str]:
    found = device_progress("r1", "app", device, channels(**release), now_ms=0, view=None, attempt=of)
    return (found.stage, found.detail) if found else (None, "")


def test_a_device_that_is_to_take_it_waits_and_says_why() -> None:
    waits = Pending(component="app", version="1.1.0", digest=WANTED.digest, source_id="r1", why=Wait.DISABLED)
    assert stage(situation()) == (Stage.WAITING, "offline")
    assert stage(situation(online=True)) == (Stage.WAITING, "")
    assert stage(situation(online=True, pending=(waits,))) == (Stage.WAITING, "disabled")


@pytest.mark.parametrize(("digest", "source_id"), [(digest_of("another image"), "r1"), (WANTED.digest, "r0")])
def test_what_waits_of_another_decision_is_not_said_of_this_one(digest: str, source_id: str) -> None:
    waits = Pending(component="app", version="1.1.0", digest=WANTED.digest, source_id="r1", why=Wait.NEXT_SESSION)
    other = replace(waits, digest=digest, source_id=source_id)
    assert stage(situation(online=True, pending=(other,))) == (Stage.WAITING, "")
    assert stage(situation(online=True, pending=(other, waits))) == (Stage.WAITING, "next_session")


def test_a_device_that_is_not_to_take_it_is_not_shown() -> None:
    assert stage(situation(hardware_model="other"), image=replace(WANTED, hardware_models=("pi4",))) == (None, "")
    assert stage(situation(), target_range="7.x") == (None, "")


def test_a_device_that_runs_the_image_already_has_nothing_to_do() -> None:
    runs = {"app": ComponentState(component="app", version="1.1.0", build=2, digest=WANTED.digest)}
    assert stage(situation(components=runs)) == (Stage.ALREADY, "runs 1.1.0")
    named = {"app": replace(runs["app"], version="1.0.9")}
    assert stage(situation(components=named)) == (Stage.ALREADY, "runs the same image as 1.0.9")


def test_a_device_that_may_not_take_it_says_which_rule() -> None:
    found, detail = stage(situation(failed={WANTED.digest: 1}))
    assert found is Stage.BLOCKED
    assert detail.startswith("failed_before: ")
    assert stage(situation(floors={"app": 9}))[0] is Stage.BLOCKED


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, Stage.UNDER_WAY),
        ({"outcome": Outcome.SUCCEEDED, "succeeded": True}, Stage.SUCCEEDED),
        ({"outcome": Outcome.SUCCEEDED, "succeeded": False, "taken_back_at_ms": 5}, Stage.FAILED),
        ({"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED}, Stage.ROLLED_BACK),
        ({"outcome": Outcome.FAILED, "reason": Reason.TOO_LARGE}, Stage.FAILED),
        ({"outcome": Outcome.CANCELLED, "reason": Reason.SUPERSEDED}, Stage.CANCELLED),
    ],
)
def test_an_attempt_decides(how: dict[str, Any], expected: Stage) -> None:
    assert stage(situation(), attempt(**how))[0] is expected


def test_the_download_is_shown_in_percent_only_while_it_lasts() -> None:
    loading = Progress(attempt_id="a1", component="app", done_bytes=50, total_bytes=200)
    found = device_progress("r1", "app", situation(), channels(), now_ms=0, view=view(loading), attempt=attempt())
    assert found is not None
    assert found.percent == 25
    ended = attempt(outcome=Outcome.SUCCEEDED, succeeded=True)
    found = device_progress("r1", "app", situation(), channels(), now_ms=0, view=view(loading), attempt=ended)
    assert found is not None
    assert found.percent is None
    other = replace(loading, attempt_id="a2")
    found = device_progress("r1", "app", situation(), channels(), now_ms=0, view=view(other), attempt=attempt())
    assert found is not None
    assert found.percent is None


def running(status: str) -> Rollout:
    return Rollout(status=status, phase=1, phases=2, why="")


@pytest.mark.parametrize(
    ("stages", "how", "expected"),
    [
        ({}, {}, Verdict.GOOD),
        ({Stage.SUCCEEDED: 9, Stage.ALREADY: 1}, {}, Verdict.GOOD),
        ({Stage.SUCCEEDED: 9, Stage.WAITING: 1}, {}, Verdict.OPEN),
        ({Stage.ROLLED_BACK: 1, Stage.UNDER_WAY: 1}, {}, Verdict.OPEN),
        ({Stage.SUCCEEDED: 9, Stage.ROLLED_BACK: 1}, {}, Verdict.BAD),
        ({Stage.SUCCEEDED: 9, Stage.BLOCKED: 1}, {}, Verdict.BAD),
        ({Stage.SUCCEEDED: 9, Stage.WAITING: 0}, {}, Verdict.GOOD),
        ({Stage.UNDER_WAY: 1}, {"enabled": False}, Verdict.BAD),
        ({Stage.SUCCEEDED: 1}, {"terms": Terms(paused=True)}, Verdict.OPEN),
        ({}, {"terms": Terms(not_before_ms=101)}, Verdict.OPEN),
        ({}, {"terms": Terms(not_before_ms=100)}, Verdict.GOOD),
        ({}, {"terms": Terms(ramp=Ramp(from_percentage=0, starts_at_ms=0, ends_at_ms=101))}, Verdict.OPEN),
        ({Stage.SUCCEEDED: 1}, {"rollout": running("running")}, Verdict.OPEN),
        ({Stage.SUCCEEDED: 1}, {"rollout": running("paused")}, Verdict.OPEN),
        ({Stage.SUCCEEDED: 1}, {"rollout": running("awaiting_approval")}, Verdict.OPEN),
        ({Stage.SUCCEEDED: 1}, {"rollout": running("completed")}, Verdict.GOOD),
        ({Stage.SUCCEEDED: 1, Stage.FAILED: 1}, {"rollout": running("completed")}, Verdict.BAD),
        ({Stage.SUCCEEDED: 1, Stage.WAITING: 1}, {"rollout": running("completed")}, Verdict.OPEN),
        ({Stage.UNDER_WAY: 1}, {"rollout": running("stopped_by_gate")}, Verdict.BAD),
        ({Stage.SUCCEEDED: 1}, {"rollout": running("aborted")}, Verdict.BAD),
    ],
)
def test_a_release_is_open_until_its_plan_or_its_devices_have_decided(
    stages: dict[Stage, int], how: dict[str, Any], expected: Verdict
) -> None:
    said: dict[str, Any] = {"enabled": True, "terms": Terms(), "rollout": None} | how
    assert verdict_of(stages, now_ms=100, **said) is expected


def test_every_status_of_a_rollout_is_known_here() -> None:
    verdicts = {
        status: verdict_of({}, enabled=True, terms=Terms(), rollout=running(status), now_ms=0) for status in Status
    }
    assert {status for status, verdict in verdicts.items() if verdict is Verdict.OPEN} == {
        *(Status.AWAITING_APPROVAL, Status.SCHEDULED, Status.RUNNING, Status.PAUSED)
    }
    assert {status for status, verdict in verdicts.items() if verdict is Verdict.BAD} == {
        *(Status.STOPPED_BY_GATE, Status.ABORTED)
    }
