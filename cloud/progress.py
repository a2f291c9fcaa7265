"""How far each device is with one release or one single-device OTA: a pure view for people who watch."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.fleet import AttemptView, DeviceSituation, DeviceView
from protocol.phases import Outcome, Phase, Reason
from protocol.schedule import Terms
from protocol.selection import Channels, Decision, Wanted, select
from protocol.selection import Verdict as Selected
from protocol.up import Pending


class Stage(StrEnum):
    """Where a device is with what it is to take."""

    WAITING = "waiting"
    """It is to take it, and has not begun."""
    UNDER_WAY = "under_way"
    SUCCEEDED = "succeeded"
    ALREADY = "already"
    """It runs this very image without having taken it from here."""
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    """It is to take it and may not: a requirement, a floor, or this digest failed on it before."""


_OUTCOMES = {
    Outcome.SUCCEEDED: Stage.SUCCEEDED,
    Outcome.ROLLED_BACK: Stage.ROLLED_BACK,
    Outcome.FAILED: Stage.FAILED,
    Outcome.CANCELLED: Stage.CANCELLED,
}


CONTRADICTED: Final = "it reported success, and then that it runs another image"
GOOD: Final = frozenset({Stage.SUCCEEDED, Stage.ALREADY})
UNSETTLED: Final = frozenset({Stage.WAITING, Stage.UNDER_WAY})


class Verdict(StrEnum):
    """What a release has come to."""

    OPEN = "open"
    """It is not decided yet."""
    GOOD = "good"
    """Each device that was to take it runs it."""
    BAD = "bad"
    """Some do not, or it was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Where a rollout by plan is: its phase from 1, and why it is as it is."""

    status: str
    phase: int
    phases: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProgress:
    """One device with one release or OTA; `percent` is of the download, 0 to 100, while there is one."""

    device_id: str
    online: bool
    stage: Stage
    phase: Phase | None = None
    percent: int | None = None
    reason: Reason | None = None
    detail: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self.stage not in UNSETTLED

    @property
    def good(self) -> bool:
        """Whether it runs what it was to run."""
        return self.stage in GOOD


def device_progress(
    source_id: str,
    component: str,
    situation: DeviceSituation,
    channels: Channels,
    *,
    now_ms: int,
    view: DeviceView | None,
    attempt: AttemptView | None,
) -> DeviceProgress | None:
    """Return how far one device is with `source_id`, or None if it neither took it nor is to take it."""
    if attempt is not None:
        return _attempted(attempt, situation, view)
    return expected_progress(source_id, component, situation, channels, now_ms=now_ms)


def expected_progress(
    source_id: str, component: str, situation: DeviceSituation, channels: Channels, *, now_ms: int
) -> DeviceProgress | None:
    """Return how a device stands that has not begun with `source_id`, or None if it is not to take it."""
    decision = select(situation.facts, situation.assignment, channels, component, now_ms=now_ms)
    if decision.wanted is None or decision.wanted.source_id != source_id:
        return None
    return _expected(decision, situation)


def stage_of(outcome: Outcome | None, *, taken_back: bool) -> Stage:
    """Return where a device is whose attempt has this outcome; a success that was taken back is none."""
    if outcome is None:
        return Stage.UNDER_WAY
    return Stage.FAILED if outcome is Outcome.SUCCEEDED and taken_back else _OUTCOMES[outcome]


def verdict_of(
    stages: Mapping[Stage, int], *, enabled: bool, terms: Terms, rollout: Rollout | None, now_ms: int
) -> Verdict:
    """Return what a release has come to: by its plan if it has one, else by its devices."""
    settled = not any(stages.get(stage) for stage in UNSETTLED)
    bad = any(count for stage, count in stages.items() if stage not in GOOD | UNSETTLED)
    if not enabled or (rollout is not None and rollout.status in _STOPPED):
        return Verdict.BAD
    grows = terms.ramp is not None and now_ms < terms.ramp.ends_at_ms
    if rollout is not None:
        still = rollout.status not in _OVER
    else:
        still = terms.paused or now_ms < terms.not_before_ms or grows
    if still or not settled:
        return Verdict.OPEN
    return Verdict.BAD if bad else Verdict.GOOD


def may_go_on(*, enabled: bool, live: bool, status: str | None) -> bool:
    """Return whether a release may still reach devices: by its plan's status if it has one, else if it is Live."""
    return enabled and (live if status is None else status not in _ENDED)


_STOPPED: Final = frozenset({"stopped_by_gate", "aborted"})
_OVER: Final = frozenset({"completed", "overtaken"})
_ENDED: Final = _OVER | {"aborted"}


def _attempted(attempt: AttemptView, situation: DeviceSituation, view: DeviceView | None) -> DeviceProgress:
    stage, detail = stage_of(attempt.outcome, taken_back=not attempt.succeeded), attempt.detail
    if stage is Stage.FAILED and attempt.outcome is Outcome.SUCCEEDED:
        detail = CONTRADICTED
    loading = view.progress if view and view.progress and view.progress.attempt_id == attempt.attempt_id else None
    percent = loading.done_bytes * 100 // max(1, loading.total_bytes) if loading and attempt.outcome is None else None
    return DeviceProgress(
        device_id=situation.device_id,
        online=situation.online,
        stage=stage,
        phase=attempt.phase,
        percent=percent,
        reason=attempt.reason,
        detail=detail,
    )


def _expected(decision: Decision, situation: DeviceSituation) -> DeviceProgress:
    stage, detail, wanted = Stage.WAITING, "", decision.wanted
    if wanted is not None and decision.verdict is Selected.RUNS:
        stage, detail = Stage.ALREADY, situation.facts.how_it_runs(wanted.firmware)
    elif decision.verdict is Selected.BLOCKED:
        last = decision.trace[-1]
        stage, detail = Stage.BLOCKED, f"{last.rule.value}: {last.saw}"
    else:
        # What waits may be of another decision, which the device knew of before: that says nothing of this one.
        waits = [it for it in situation.pending if wanted and _is_of(it, wanted)]
        detail = f"{waits[0].why.value} {waits[0].detail}".strip() if waits else "" if situation.online else "offline"
    return DeviceProgress(
        device_id=situation.device_id, online=situation.online, stage=stage, phase=situation.phase, detail=detail
    )


def _is_of(pending: Pending, wanted: Wanted) -> bool:
    return (pending.source_id, pending.digest) == (wanted.source_id, wanted.firmware.digest)
