"""Why a device is not moved: one typed reason, and a sentence for people, for every one that stays where it is.

A pure part of the planner: it reads a decision of `protocol.selection` and what the device said of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.fleet import DeviceSituation
from protocol.down import NoticeRelease
from protocol.identity import MAX_INTEGER
from protocol.phases import Phase, Wait
from protocol.selection import Decision, Rule, Verdict, Wanted
from protocol.up import Availability
from protocol.values import Urgency, Via


class HoldReason(StrEnum):
    """Why a device is not moved."""

    # nothing to do
    UP_TO_DATE = "up_to_date"
    NOTHING_RELEASED = "nothing_released"
    # the operator's decisions
    OTA_OFF = "ota_off"
    NOT_IN_GROUP = "not_in_group"
    PINNED = "pinned"
    SINGLE_DEVICE = "single_device"
    HIGHER_RANK = "higher_rank"
    BASE_ONLY = "base_only"
    NOT_BEFORE = "not_before"
    PAUSED = "paused"
    STRATUM = "stratum"
    PERCENTAGE = "percentage"
    TARGET_RANGE = "target_range"
    BASE_FIRST = "base_first"
    # what the device is
    HARDWARE = "hardware"
    FLOOR = "floor"
    REQUIREMENT = "requirement"
    BREAKS = "breaks"
    DATA_SCHEMA = "data_schema"
    FAILED_BEFORE = "failed_before"
    # what the device is doing
    OFFLINE = "offline"
    DISABLED = "disabled"
    HELD = "held"
    NEXT_SESSION = "next_session"
    NEXT_START = "next_start"
    BACKING_OFF = "backing_off"
    BUSY = "busy"
    WINDOW = "window"
    CONSENT = "consent"
    DECLINED = "declined"
    TURN = "turn"
    DATA_SYNC = "data_sync"
    UNDER_WAY = "under_way"


@dataclass(frozen=True, slots=True)
class Hold:
    """A device that is not moved, and why; `detail` is a sentence for people."""

    device_id: str
    component: str
    reason: HoldReason
    detail: str


# Why a device does not take a candidate

_BLOCKED: Final = {
    Rule.FLOOR: HoldReason.FLOOR,
    Rule.HARDWARE: HoldReason.HARDWARE,
    Rule.REQUIREMENT: HoldReason.REQUIREMENT,
    Rule.BREAKS: HoldReason.BREAKS,
    Rule.DATA_SCHEMA: HoldReason.DATA_SCHEMA,
    Rule.FAILED_BEFORE: HoldReason.FAILED_BEFORE,
    Rule.DECLINED: HoldReason.DECLINED,
    Rule.BASE_FIRST: HoldReason.BASE_FIRST,
}
_NOT_REACHED: Final = {
    Rule.HARDWARE: HoldReason.HARDWARE,
    Rule.NOT_BEFORE: HoldReason.NOT_BEFORE,
    Rule.PAUSED: HoldReason.PAUSED,
    Rule.STRATUM: HoldReason.STRATUM,
    Rule.PERCENTAGE: HoldReason.PERCENTAGE,
    Rule.TARGET_RANGE: HoldReason.TARGET_RANGE,
}

_OUTSIDE: Final = {
    Rule.NOT_BEFORE: "the release has {} (by the cloud's clock; a device goes by its own until a plan begins)",
    Rule.PAUSED: "the release is {}",
    Rule.STRATUM: "the release is {}",
    Rule.PERCENTAGE: "outside the percentage: {}",
    Rule.TARGET_RANGE: "outside the target range: {}",
}

Why = tuple[HoldReason, str]


def held_until_ms(said: Availability) -> int | None:
    """Return until when an application holds updates back, by what it said: MAX_INTEGER without an end, None if not."""
    ends = [MAX_INTEGER if hold.expires_at_ms is None else hold.expires_at_ms for hold in said.holds]
    if not said.enabled:
        ends.append(MAX_INTEGER if said.disabled_until_ms is None else said.disabled_until_ms)
    return max(ends, default=None)


def why_not_taken(device: DeviceSituation, decision: Decision, candidate: NoticeRelease) -> Why | None:
    """Return why a device, for which this was decided, does not take a candidate; None if it does."""
    wanted = decision.wanted
    if wanted is not None and wanted.source_id == candidate.release_id:
        return _why_no_take(device, decision, wanted)
    return _why_not_reached(decision, f"{candidate.release_id} v{candidate.label}") or _why_other(decision)


def _why_no_take(device: DeviceSituation, decision: Decision, wanted: Wanted) -> Why | None:
    """Tell why what is wanted is not to be taken; None if it is."""
    if decision.verdict is Verdict.TAKE:
        return None
    if decision.verdict is Verdict.RUNS:
        return HoldReason.UP_TO_DATE, device.facts.how_it_runs(wanted.firmware)
    blocked_by = decision.blocked_by or Rule.NOTHING
    return _BLOCKED[blocked_by], f"{wanted.firmware.version}: {decision.trace[-1].saw}"


def _why_other(decision: Decision) -> Why:
    """Tell what decides instead of the candidate, which was not looked at."""
    wanted = decision.wanted
    if decision.blocked_by is Rule.OTA_OFF:
        return HoldReason.OTA_OFF, decision.trace[-1].saw
    if decision.blocked_by is Rule.BASE_ONLY:
        return HoldReason.BASE_ONLY, decision.trace[-1].saw
    if wanted is None:
        newest = next((step.subject for step in decision.trace if step.rule in _NOT_REACHED), None)
        nothing = HoldReason.NOTHING_RELEASED, "nothing was released to it"
        return (_why_not_reached(decision, newest) if newest else None) or nothing
    if wanted.via is Via.PIN:
        return HoldReason.PINNED, f"locked to {wanted.firmware.version}"
    if wanted.via is Via.OTA:
        return HoldReason.SINGLE_DEVICE, f"a single-device OTA to {wanted.firmware.version} was decided later"
    return HoldReason.HIGHER_RANK, f"group {wanted.group} decides: v{wanted.label}, {wanted.firmware.version}"


def _why_not_reached(decision: Decision, release: str) -> Why | None:
    """Tell why a release, as traces name it, does not apply; None if it does, or was not looked at."""
    for step in decision.trace:
        if step.subject == release and not step.passed and step.rule in _NOT_REACHED:
            if step.rule is Rule.HARDWARE:
                return HoldReason.HARDWARE, f"hardware model {step.saw} is not among the firmware's"
            return _NOT_REACHED[step.rule], _OUTSIDE[step.rule].format(step.saw)
    return None


# Why a device does not move now

_WAITS: Final = {
    Wait.DISABLED: HoldReason.DISABLED,
    Wait.HELD: HoldReason.HELD,
    Wait.NEXT_SESSION: HoldReason.NEXT_SESSION,
    Wait.NEXT_START: HoldReason.NEXT_START,
    Wait.FAILED_BEFORE: HoldReason.FAILED_BEFORE,
    Wait.BACKING_OFF: HoldReason.BACKING_OFF,
    Wait.BUSY: HoldReason.BUSY,
    Wait.WINDOW: HoldReason.WINDOW,
    Wait.CONSENT: HoldReason.CONSENT,
    Wait.DECLINED: HoldReason.DECLINED,
    Wait.TURN: HoldReason.TURN,
    Wait.DATA_SYNC: HoldReason.DATA_SYNC,
    Wait.REQUIREMENT: HoldReason.REQUIREMENT,
    Wait.BREAKS: HoldReason.BREAKS,
    Wait.DATA_SCHEMA: HoldReason.DATA_SCHEMA,
    Wait.BASE_FIRST: HoldReason.BASE_FIRST,
}


def why_not_now(device: DeviceSituation, decision: Decision, now_ms: int) -> Why | None:
    """Return why a device, for which this was decided, does not move now; None if it does."""
    wanted = decision.wanted
    if wanted is None:
        return _why_other(decision)
    held = _why_no_take(device, decision, wanted)
    if held is not None:
        return held
    if not device.online:
        return HoldReason.OFFLINE, f"takes {wanted.firmware.version} when it is back"
    return _why_device_waits(device, wanted, now_ms)


def _why_device_waits(device: DeviceSituation, wanted: Wanted, now_ms: int) -> Why | None:
    firmware = wanted.firmware
    pending = next(
        (it for it in device.pending if (it.component, it.digest) == (firmware.component, firmware.digest)), None
    )
    if device.phase is not Phase.IDLE and pending is None:
        return HoldReason.UNDER_WAY, f"is {device.phase.value.replace('_', ' ')}"
    if device.phase is Phase.IDLE and not wanted.forced and (held := _why_unavailable(device, now_ms)):
        return held
    if pending is not None:
        overridden = wanted.forced and pending.why in (Wait.DISABLED, Wait.HELD)
        return None if overridden else (_WAITS[pending.why], pending.detail or f"{firmware.version} waits")
    if wanted.urgency is Urgency.GRADUAL:
        return HoldReason.NEXT_SESSION, f"takes {firmware.version} at its next session or check"
    return None


def _why_unavailable(device: DeviceSituation, now_ms: int) -> Why | None:
    there = device.availability
    if not there.enabled and (there.disabled_until_ms is None or there.disabled_until_ms > now_ms):
        return HoldReason.DISABLED, "its application disabled updates"
    for hold in there.holds:
        if hold.expires_at_ms is None or hold.expires_at_ms > now_ms:
            return HoldReason.HELD, f"held by {hold.owner}: {hold.why}"
    return None
