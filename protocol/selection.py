"""What a device should run, and why: one pure function that the device obeys and the cloud forecasts with.

The rules, in order; the first that decides ends it:

1. A product whose updates are switched off moves nobody; one that is updated by its base alone moves nothing else.
2. A pin locks the device to one firmware.
3. The channels of the device's groups, in rank order, `everyone` last. In a channel, the first release (newest label
   first) that applies: its firmware admits the hardware model, its time has come, it is not paused, nor stopped for
   devices like this one, its percentage or ramp covers the device's place (or the device is in a canary group), and the
   device is in its target range. A release whose firmware the device already runs applies whatever its terms, so
   raising, narrowing or pausing a release never moves a device back. The first channel with a release that applies
   decides.
4. A single-device OTA, if it was decided after that release.

What is wanted may still be blocked: it is retired (below the floor), it needs something that the device lacks, another
component that is installed would not work with it, it cannot read the data that is there, its digest failed on this
device before (only a decision after that failure tries it again: an OTA, or a retry of the release), somebody at the
device declined it, or a release of another component, which the device has yet to take, comes first (also one that is
paused, or has not begun).

Time is an argument; `again_at_ms` of a decision is the first time at which another answer is possible by time alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts, broken_requirement, unmet_requirement, unreadable_data
from protocol.identity import VersionRange, place
from protocol.manifest import ANY_HARDWARE
from protocol.schedule import PER_CENT, Terms
from protocol.values import FirmwareRef, Urgency, Via

Channels = Mapping[tuple[str, str], Sequence[NoticeRelease]]
"""(group, component) to that channel's enabled releases, newest label first."""
BASE: Final = "os"
"""The component that others stand on: all that `base_only` leaves to be updated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the operator decided for one device: groups in rank order (`everyone` last), pins, OTAs."""

    groups: tuple[str, ...]
    pins: tuple[FirmwareRef, ...] = ()
    otas: tuple[Ota, ...] = ()
    ota_enabled: bool = True
    base_only: bool = False
    takes_turns: bool = False
    turn: str = ""


class Verdict(StrEnum):
    """What a device should do about one component."""

    TAKE = "take"
    RUNS = "runs"
    BLOCKED = "blocked"
    NOTHING = "nothing"


class Rule(StrEnum):
    """The rules of this file, as decision traces name them."""

    OTA_OFF = "ota_off"
    BASE_ONLY = "base_only"
    PIN = "pin"
    HARDWARE = "hardware"
    NOT_BEFORE = "not_before"
    PAUSED = "paused"
    STRATUM = "stratum"
    CANARY = "canary"
    PERCENTAGE = "percentage"
    TARGET_RANGE = "target_range"
    RELEASE = "release"
    SINGLE_DEVICE = "single_device"
    NOTHING = "nothing"
    FLOOR = "floor"
    REQUIREMENT = "requirement"
    BREAKS = "breaks"
    DATA_SCHEMA = "data_schema"
    FAILED_BEFORE = "failed_before"
    DECLINED = "declined"
    BASE_FIRST = "base_first"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule of a decision: what it looked at, what it saw, and whether it let the candidate pass."""

    rule: Rule
    subject: str
    saw: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A firmware that the device should run, and the decision that says so.

    `tried_order` is that of the release, of its last retry, or of the OTA.
    """

    firmware: FirmwareRef
    via: Via
    source_id: str
    order: int
    urgency: Urgency
    mandatory: bool = False
    forced: bool = False
    label: int | None = None
    group: str | None = None
    terms: Terms = field(default_factory=Terms)

    @property
    def tried_order(self) -> int:
        """The order that an attempt at it has."""
        return max(self.order, self.terms.retried_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a device should do about one component, and every step that led there."""

    component: str
    verdict: Verdict
    wanted: Wanted | None
    blocked_by: Rule | None
    trace: tuple[Step, ...]
    again_at_ms: int | None = None


PIN_SOURCE: Final = "pin"


@dataclass(slots=True)
class _Inquiry:
    """One question in the asking: what it is about, what was noted, and when to ask again."""

    facts: DeviceFacts
    assignment: Assignment
    channels: Channels
    component: str
    now_ms: int
    ahead: bool = False
    """Whether it is about what comes first: that waits for a release that is paused, or has not begun, as well."""
    trace: list[Step] = field(default_factory=list)
    again_at_ms: int | None = None

    def note(self, rule: Rule, subject: str, saw: str, *, passed: bool) -> bool:
        self.trace.append(Step(rule, subject, saw, passed))
        return passed

    def ask_again(self, at_ms: int | None) -> None:
        if at_ms is not None and at_ms > self.now_ms:
            self.again_at_ms = at_ms if self.again_at_ms is None else min(at_ms, self.again_at_ms)

    def decided(self, verdict: Verdict, wanted: Wanted | None, blocked_by: Rule | None) -> Decision:
        return Decision(
            component=self.component,
            verdict=verdict,
            wanted=wanted,
            blocked_by=blocked_by,
            trace=tuple(self.trace),
            again_at_ms=self.again_at_ms,
        )


def select(facts: DeviceFacts, assignment: Assignment, channels: Channels, component: str, *, now_ms: int) -> Decision:
    """Return what this device should do about one component, by the rules at the head of this file."""
    decision = _select(_Inquiry(facts, assignment, channels, component, now_ms))
    wanted = decision.wanted
    if decision.verdict is not Verdict.TAKE or wanted is None or wanted.terms.base_first or wanted.via is Via.PIN:
        return decision
    first = _comes_first(facts, assignment, channels, component, now_ms)
    if first is None:
        return decision
    step = Step(Rule.BASE_FIRST, wanted.firmware.version, first, passed=False)
    return replace(decision, verdict=Verdict.BLOCKED, blocked_by=Rule.BASE_FIRST, trace=(*decision.trace, step))


def _select(asked: _Inquiry) -> Decision:
    assignment, component = asked.assignment, asked.component
    if not assignment.ota_enabled:
        asked.note(Rule.OTA_OFF, component, "updates are switched off for the product", passed=False)
        return asked.decided(Verdict.NOTHING, None, Rule.OTA_OFF)
    if assignment.base_only and component != BASE:
        asked.note(Rule.BASE_ONLY, component, f"the product is updated by its {BASE} alone", passed=False)
        return asked.decided(Verdict.NOTHING, None, Rule.BASE_ONLY)
    wanted = _pinned(asked) or _released(asked)
    if wanted is None:
        asked.note(Rule.NOTHING, component, "no release, pin or OTA applies", passed=False)
        return asked.decided(Verdict.NOTHING, None, Rule.NOTHING)
    if asked.facts.runs(wanted.firmware):
        return asked.decided(Verdict.RUNS, wanted, None)
    blocked_by = _blocked(asked, wanted)
    return asked.decided(Verdict.BLOCKED if blocked_by else Verdict.TAKE, wanted, blocked_by)


def _comes_first(
    facts: DeviceFacts, assignment: Assignment, channels: Channels, component: str, now_ms: int
) -> str | None:
    """Return, as a sentence's end, what the device has yet to take of another component before this one."""
    others = {
        other
        for group, other in channels
        if group in assignment.groups
        and other != component
        and any(it.terms.base_first for it in channels[group, other])
    }
    for other in sorted(others):
        decision = _select(_Inquiry(facts, assignment, channels, other, now_ms, ahead=True))
        wanted = decision.wanted
        if wanted is not None and wanted.terms.base_first and decision.verdict is not Verdict.RUNS:
            begun = now_ms >= wanted.terms.not_before_ms
            but = ", and is paused" if wanted.terms.paused else "" if begun else ", and has not begun"
            return f"{other} {wanted.firmware.version} comes first{but}"
    return None


def applies(asked: _Inquiry, release: NoticeRelease) -> bool:
    """Tell whether a release reaches this device (rule 3), noting each step."""
    facts = asked.facts
    name, firmware = f"{release.release_id} v{release.label}", release.firmware
    admitted = ANY_HARDWARE in firmware.hardware_models or facts.hardware_model in firmware.hardware_models
    if not asked.note(Rule.HARDWARE, name, facts.hardware_model, passed=admitted):
        return False
    if facts.runs(firmware):
        return asked.note(Rule.RELEASE, name, f"{facts.how_it_runs(firmware)} already", passed=True)
    return _is_open(asked, release, name) and _is_covered(asked, release, name) and _is_in_range(asked, release, name)


def _is_open(asked: _Inquiry, release: NoticeRelease, name: str) -> bool:
    """Tell whether the release's time has come, and nobody stopped it; what nothing is said of leaves no step."""
    terms, facts = release.terms, asked.facts
    awaited = asked.ahead and terms.base_first
    if terms.not_before_ms and not awaited:
        asked.ask_again(terms.not_before_ms)
        begun = asked.now_ms >= terms.not_before_ms
        if not asked.note(Rule.NOT_BEFORE, name, f"{'' if begun else 'not '}begun", passed=begun):
            return False
    if terms.paused and not awaited:
        return asked.note(Rule.PAUSED, name, "paused", passed=False)
    state = facts.components.get(release.firmware.component)
    for stratum in terms.stopped:
        if stratum.contains(facts.hardware_model, state.version if state else None):
            return asked.note(Rule.STRATUM, name, f"stopped for {stratum}", passed=False)
    return True


def _is_covered(asked: _Inquiry, release: NoticeRelease, name: str) -> bool:
    terms = release.terms
    for group in terms.canaries:
        if group in asked.assignment.groups:
            return asked.note(Rule.CANARY, name, f"in {group}, which goes first", passed=True)
    where = place(asked.facts.device_id, release.release_id)
    if terms.ramp is None:
        bucket = where // PER_CENT
        covered = bucket < release.percentage
        saw = f"bucket {bucket} is {'' if covered else 'not '}below {release.percentage}"
        return asked.note(Rule.PERCENTAGE, name, saw, passed=covered)
    asked.ask_again(terms.ramp.covers_at_ms(release.percentage, where))
    now = terms.ramp.covered(release.percentage, asked.now_ms)
    covered = where < now
    saw = f"place {where / PER_CENT:.4f} is {'' if covered else 'not '}below {now / PER_CENT:.4f} of the ramp"
    return asked.note(Rule.PERCENTAGE, name, saw, passed=covered)


def _is_in_range(asked: _Inquiry, release: NoticeRelease, name: str) -> bool:
    facts, firmware = asked.facts, release.firmware
    in_range = VersionRange.parse(release.target_range).matches(firmware.component, facts.installed)
    state = facts.components.get(firmware.component)
    seen = f"{state.version} build {state.build}" if state else "nothing installed"
    return asked.note(Rule.TARGET_RANGE, name, f"{seen} against {release.target_range}", passed=in_range)


def _pinned(asked: _Inquiry) -> Wanted | None:
    for firmware in asked.assignment.pins:
        if firmware.component == asked.component:
            asked.note(Rule.PIN, asked.component, f"locked to {firmware.version}", passed=True)
            return Wanted(firmware=firmware, via=Via.PIN, source_id=PIN_SOURCE, order=0, urgency=Urgency.IMMEDIATE)
    return None


def _released(asked: _Inquiry) -> Wanted | None:
    released = _first_applying(asked)
    of_it = (ota for ota in asked.assignment.otas if ota.firmware.component == asked.component)
    for ota in sorted(of_it, key=lambda ota: -ota.order):
        newer = released is None or ota.order > released.order
        saw = f"{ota.firmware.version}, decided {'after' if newer else 'before'} the release that applies"
        if asked.note(Rule.SINGLE_DEVICE, ota.ota_id, saw, passed=newer):
            return Wanted(
                firmware=ota.firmware,
                via=Via.OTA,
                source_id=ota.ota_id,
                order=ota.order,
                urgency=ota.urgency,
                forced=ota.forced,
            )
    return released


def _first_applying(asked: _Inquiry) -> Wanted | None:
    for group in asked.assignment.groups:
        for release in asked.channels.get((group, asked.component), ()):
            if applies(asked, release):
                asked.note(Rule.RELEASE, f"{release.release_id} v{release.label}", f"group {group}", passed=True)
                return Wanted(
                    firmware=release.firmware,
                    via=Via.RELEASE,
                    source_id=release.release_id,
                    order=release.order,
                    urgency=release.urgency,
                    mandatory=release.mandatory,
                    forced=release.forced,
                    label=release.label,
                    group=group,
                    terms=release.terms,
                )
    return None


def _blocked(asked: _Inquiry, wanted: Wanted) -> Rule | None:
    """Return the first rule that keeps the device from what it should run, or None."""
    facts, firmware = asked.facts, wanted.firmware
    for rule, saw in (
        (Rule.FLOOR, _below_floor(facts, firmware)),
        (Rule.HARDWARE, _not_admitted(facts, firmware)),
        (Rule.REQUIREMENT, unmet_requirement(facts, firmware)),
        (Rule.BREAKS, broken_requirement(facts, firmware)),
        (Rule.DATA_SCHEMA, unreadable_data(facts, firmware)),
        (Rule.FAILED_BEFORE, _failed_before(facts, wanted)),
        (Rule.DECLINED, "declined by somebody at the device" if wanted.source_id in facts.declined else None),
    ):
        if saw is not None:
            asked.note(rule, firmware.version, saw, passed=False)
            return rule
    return None


def _below_floor(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    floor = facts.floors.get(firmware.component, 0)
    return f"seq {firmware.seq}, floor {floor}" if firmware.seq < floor else None


def _not_admitted(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    admitted = ANY_HARDWARE in firmware.hardware_models or facts.hardware_model in firmware.hardware_models
    return None if admitted else facts.hardware_model


def _failed_before(facts: DeviceFacts, wanted: Wanted) -> str | None:
    """Tell of a failure here that was not known when this was decided."""
    failed_at = facts.failed.get(wanted.firmware.digest)
    if failed_at is None:
        return None
    told_to = (wanted.via is Via.OTA or wanted.terms.retried_at > 0) and wanted.tried_order > failed_at
    return None if told_to else "failed on this device before"
