"""How far each device is with one release or one single-device OTA: a pure view for people who watch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cloud.fleet import AttemptView, DeviceSituation, DeviceView, FleetView
from protocol.phases import Outcome, Phase, Reason
from protocol.selection import Channels, Decision, Verdict, Wanted, select
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
        return self.stage not in (Stage.WAITING, Stage.UNDER_WAY)

    @property
    def good(self) -> bool:
        """Whether it runs what it was to run."""
        return self.stage in (Stage.SUCCEEDED, Stage.ALREADY)


def release_progress(
    release_id: str, component: str, fleet: FleetView, devices: Iterable[DeviceView], attempts: Iterable[AttemptView]
) -> tuple[DeviceProgress, ...]:
    """Return how far a release is on every device that took it or is to take it; `attempts` newest first."""
    newest = _newest(attempts)
    views = {view.device_id: view for view in devices}
    found = []
    for situation in fleet.devices:
        view, attempt = views.get(situation.device_id), newest.get(situation.device_id)
        found.append(
            device_progress(
                release_id,
                component,
                situation,
                fleet.channels,
                now_ms=fleet.now_ms,
                view=view,
                attempt=attempt,
            )
        )
    return tuple(item for item in found if item is not None)


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
    decision = select(situation.facts, situation.assignment, channels, component, now_ms=now_ms)
    if decision.wanted is None or decision.wanted.source_id != source_id:
        return None
    return _expected(decision, situation)


def _attempted(attempt: AttemptView, situation: DeviceSituation, view: DeviceView | None) -> DeviceProgress:
    stage, detail = Stage.UNDER_WAY, attempt.detail
    if attempt.outcome is not None:
        stage = _OUTCOMES[attempt.outcome]
        if stage is Stage.SUCCEEDED and not attempt.succeeded:
            stage, detail = Stage.FAILED, "it reported success, and then that it runs another image"
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
    if wanted is not None and decision.verdict is Verdict.RUNS:
        stage, detail = Stage.ALREADY, situation.facts.how_it_runs(wanted.firmware)
    elif decision.verdict is Verdict.BLOCKED:
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


def _newest(attempts: Iterable[AttemptView]) -> Mapping[str, AttemptView]:
    newest: dict[str, AttemptView] = {}
    for attempt in attempts:
        newest.setdefault(attempt.device_id, attempt)
    return newest
