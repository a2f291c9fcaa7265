"""What a device should run, and why: one pure function that the device obeys and the cloud forecasts with.

The rules, in order; the first that decides ends it:

1. A product whose updates are switched off moves nobody.
2. A pin locks the device to one firmware.
3. The channels of the device's groups, in rank order, `everyone` last. In a channel, the first release (newest label
   first) that applies: its firmware admits the hardware model, its percentage covers the device's bucket, and the
   device is in its target range. A release whose firmware the device already runs applies whatever its percentage or
   range, so raising, narrowing or ranging a release never moves a device back. The first channel with a release
   that applies decides.
4. A single-device OTA, if it was decided after that release.

What is wanted may still be blocked: it is retired (below the floor), it needs something that the device lacks, or its
digest failed on this device before (only a single-device OTA decided after that failure tries it again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.down import NoticeRelease, Ota
from protocol.identity import Installed, VersionRange, bucket, version_key
from protocol.manifest import ANY_HARDWARE
from protocol.values import ComponentState, FirmwareRef, Urgency, Via

Channels = Mapping[tuple[str, str], Sequence[NoticeRelease]]
"""(group, component) to that channel's enabled releases, newest label first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What selection needs to know of a device. `failed` maps a digest to the `order` at which it failed here."""

    device_id: str
    hardware_model: str
    agent_version: str
    components: Mapping[str, ComponentState] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)

    @property
    def installed(self) -> dict[str, Installed]:
        """The components' versions and builds."""
        return {name: state.installed for name, state in self.components.items()}

    def runs(self, firmware: FirmwareRef) -> bool:
        """Tell whether the device runs this very image."""
        state = self.components.get(firmware.component)
        return state is not None and state.digest == firmware.digest

    def how_it_runs(self, firmware: FirmwareRef) -> str:
        """Return how the device, which runs this very image, calls it: two versions may have the same image."""
        version = self.components[firmware.component].version
        return f"runs {version}" if version == firmware.version else f"runs the same image as {version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the operator decided for one device: groups in rank order (`everyone` last), pins, OTAs."""

    groups: tuple[str, ...]
    pins: tuple[FirmwareRef, ...] = ()
    otas: tuple[Ota, ...] = ()
    ota_enabled: bool = True


class Verdict(StrEnum):
    """What a device should do about one component."""

    TAKE = "take"
    RUNS = "runs"
    BLOCKED = "blocked"
    NOTHING = "nothing"


class Rule(StrEnum):
    """The rules of this file, as decision traces name them."""

    OTA_OFF = "ota_off"
    PIN = "pin"
    HARDWARE = "hardware"
    PERCENTAGE = "percentage"
    TARGET_RANGE = "target_range"
    RELEASE = "release"
    SINGLE_DEVICE = "single_device"
    NOTHING = "nothing"
    FLOOR = "floor"
    REQUIREMENT = "requirement"
    FAILED_BEFORE = "failed_before"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule of a decision: what it looked at, what it saw, and whether it let the candidate pass."""

    rule: Rule
    subject: str
    saw: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A firmware that the device should run, and the decision that says so."""

    firmware: FirmwareRef
    via: Via
    source_id: str
    order: int
    urgency: Urgency
    mandatory: bool = False
    forced: bool = False
    label: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a device should do about one component, and every step that led there."""

    component: str
    verdict: Verdict
    wanted: Wanted | None
    blocked_by: Rule | None
    trace: tuple[Step, ...]


PIN_SOURCE = "pin"


def select(facts: DeviceFacts, assignment: Assignment, channels: Channels, component: str) -> Decision:
    """Return what this device should do about one component, by the rules at the head of this file."""
    trace: list[Step] = []
    if not assignment.ota_enabled:
        trace.append(Step(Rule.OTA_OFF, component, "updates are switched off for the product", passed=False))
        return _decision(component, Verdict.NOTHING, None, Rule.OTA_OFF, trace)
    wanted = _pinned(assignment, component, trace) or _released(facts, assignment, channels, component, trace)
    if wanted is None:
        trace.append(Step(Rule.NOTHING, component, "no release, pin or OTA applies", passed=False))
        return _decision(component, Verdict.NOTHING, None, Rule.NOTHING, trace)
    if facts.runs(wanted.firmware):
        return _decision(component, Verdict.RUNS, wanted, None, trace)
    blocked_by = _blocked(facts, wanted, trace)
    return _decision(component, Verdict.BLOCKED if blocked_by else Verdict.TAKE, wanted, blocked_by, trace)


def applies(facts: DeviceFacts, release: NoticeRelease, trace: list[Step]) -> bool:
    """Tell whether a release reaches this device (rule 3), noting each step in `trace`."""
    name, firmware = f"{release.release_id} v{release.label}", release.firmware
    admitted = ANY_HARDWARE in firmware.hardware_models or facts.hardware_model in firmware.hardware_models
    trace.append(Step(Rule.HARDWARE, name, facts.hardware_model, admitted))
    if not admitted:
        return False
    if facts.runs(firmware):
        trace.append(Step(Rule.RELEASE, name, f"{facts.how_it_runs(firmware)} already", passed=True))
        return True
    place = bucket(facts.device_id, release.release_id)
    covered = place < release.percentage
    saw = f"bucket {place} is {'' if covered else 'not '}below {release.percentage}"
    trace.append(Step(Rule.PERCENTAGE, name, saw, covered))
    if not covered:
        return False
    in_range = VersionRange.parse(release.target_range).matches(firmware.component, facts.installed)
    state = facts.components.get(firmware.component)
    seen = f"{state.version} build {state.build}" if state else "nothing installed"
    trace.append(Step(Rule.TARGET_RANGE, name, f"{seen} against {release.target_range}", in_range))
    return in_range


def _pinned(assignment: Assignment, component: str, trace: list[Step]) -> Wanted | None:
    for firmware in assignment.pins:
        if firmware.component == component:
            trace.append(Step(Rule.PIN, component, f"locked to {firmware.version}", passed=True))
            return Wanted(firmware=firmware, via=Via.PIN, source_id=PIN_SOURCE, order=0, urgency=Urgency.IMMEDIATE)
    return None


def _released(
    facts: DeviceFacts, assignment: Assignment, channels: Channels, component: str, trace: list[Step]
) -> Wanted | None:
    released = _first_applying(facts, assignment, channels, component, trace)
    otas = sorted((ota for ota in assignment.otas if ota.firmware.component == component), key=lambda ota: -ota.order)
    for ota in otas:
        newer = released is None or ota.order > released.order
        saw = f"{ota.firmware.version}, decided {'after' if newer else 'before'} the release that applies"
        trace.append(Step(Rule.SINGLE_DEVICE, ota.ota_id, saw, newer))
        if newer:
            return Wanted(
                firmware=ota.firmware,
                via=Via.OTA,
                source_id=ota.ota_id,
                order=ota.order,
                urgency=ota.urgency,
                forced=ota.forced,
            )
    return released


def _first_applying(
    facts: DeviceFacts, assignment: Assignment, channels: Channels, component: str, trace: list[Step]
) -> Wanted | None:
    for group in assignment.groups:
        for release in channels.get((group, component), ()):
            if applies(facts, release, trace):
                trace.append(
                    Step(Rule.RELEASE, f"{release.release_id} v{release.label}", f"group {group}", passed=True)
                )
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
                )
    return None


def _blocked(facts: DeviceFacts, wanted: Wanted, trace: list[Step]) -> Rule | None:
    firmware = wanted.firmware
    floor = facts.floors.get(firmware.component, 0)
    if firmware.seq < floor:
        trace.append(Step(Rule.FLOOR, firmware.version, f"seq {firmware.seq}, floor {floor}", passed=False))
        return Rule.FLOOR
    if ANY_HARDWARE not in firmware.hardware_models and facts.hardware_model not in firmware.hardware_models:
        trace.append(Step(Rule.HARDWARE, firmware.version, facts.hardware_model, passed=False))
        return Rule.HARDWARE
    lacking = unmet_requirement(facts, firmware)
    if lacking is not None:
        trace.append(Step(Rule.REQUIREMENT, firmware.version, lacking, passed=False))
        return Rule.REQUIREMENT
    failed_at = facts.failed.get(firmware.digest)
    if failed_at is not None and not (wanted.via is Via.OTA and wanted.order > failed_at):
        trace.append(Step(Rule.FAILED_BEFORE, firmware.version, "failed on this device before", passed=False))
        return Rule.FAILED_BEFORE
    return None


def unmet_requirement(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    """Return what the device lacks of the firmware's requirements, as a sentence's end, or None."""
    requires = firmware.requires
    if requires.agent is not None and version_key(facts.agent_version) < version_key(requires.agent):
        return f"needs agent {requires.agent}, has {facts.agent_version}"
    for name, text in requires.components.items():
        if not VersionRange.parse(text).matches(name, facts.installed):
            state = facts.components.get(name)
            return f"needs {name} {text}, has {state.version if state else 'none'}"
    return None


def _decision(
    component: str, verdict: Verdict, wanted: Wanted | None, blocked_by: Rule | None, trace: list[Step]
) -> Decision:
    return Decision(component=component, verdict=verdict, wanted=wanted, blocked_by=blocked_by, trace=tuple(trace))
