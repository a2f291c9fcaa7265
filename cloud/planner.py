"""The planner: which releases a notice carries, which devices a release would reach, and why each other one waits.

Rule 1: the cloud moves no device. It publishes what is decided, and each device decides by `protocol.selection`; so
everything here asks that same function and explains its answer. Nothing here can disagree with a device that has
told the cloud everything.

Rule 2: silence is no answer. For every device and component there is either a move or a hold with a typed reason.

Rule 3: frozen values in, frozen values out; time is an argument, and nothing is read, written or remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.fleet import DeviceSituation, FleetView
from cloud.holding import Hold, HoldReason, Why, why_not_now, why_not_taken
from protocol.down import NoticeRelease
from protocol.identity import EVERYONE
from protocol.selection import Channels, select
from protocol.values import FirmwareRef, Via

__all__ = ["Forecast", "Hold", "HoldReason", "Move", "Plan", "components_of", "forecast", "plan", "superseded_otas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Who would take a candidate: `takes` sooner or later, by their ids, and why each other device would not."""

    takes: tuple[str, ...]
    holds: tuple[Hold, ...]
    sentence: str
    """For the operator: how many devices it reaches, or that it reaches nobody, and why."""

    @property
    def reach(self) -> int:
        """The number of devices that would take it."""
        return len(self.takes)


@dataclass(frozen=True, slots=True)
class Move:
    """A device that takes a firmware now."""

    device_id: str
    component: str
    firmware: FirmwareRef
    via: Via
    source_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens next in a fleet: every device and component is in one of the two, once."""

    actions: tuple[Move, ...]
    holds: tuple[Hold, ...]


def forecast(view: FleetView, candidate: NoticeRelease, group: str = EVERYONE) -> Forecast:
    """Return who would take `candidate` if it were released to `group` now, sooner or later."""
    component = candidate.firmware.component
    channel = (group, component)
    channels = {**view.channels, channel: (candidate, *view.channels.get(channel, ()))}
    takes: list[str] = []
    holds: list[Hold] = []
    for device in view.devices:
        held = _why_not_taken(device, channels, candidate, group, view.now_ms)
        if held is None:
            takes.append(device.device_id)
        else:
            holds.append(Hold(device.device_id, component, *held))
    return Forecast(takes=tuple(takes), holds=tuple(holds), sentence=_sentence(candidate, group, len(takes), holds))


def plan(view: FleetView, now_ms: int) -> Plan:
    """Return what happens next in this fleet, and a typed reason for every device that is not moved."""
    actions: list[Move] = []
    holds: list[Hold] = []
    for device in view.devices:
        for component in components_of(view.channels, device):
            decision = select(device.facts, device.assignment, view.channels, component, now_ms=now_ms)
            held = why_not_now(device, decision, now_ms)
            if held is None and decision.wanted is not None:
                wanted = decision.wanted
                actions.append(Move(device.device_id, component, wanted.firmware, wanted.via, wanted.source_id))
            elif held is not None:
                holds.append(Hold(device.device_id, component, *held))
    return Plan(tuple(actions), tuple(holds))


def superseded_otas(device: DeviceSituation, channels: Channels, now_ms: int) -> tuple[str, ...]:
    """Return the device's single-device OTAs that a release decided after them has overtaken (rule 4)."""
    overtaken = []
    for ota in device.assignment.otas:
        decision = select(device.facts, device.assignment, channels, ota.firmware.component, now_ms=now_ms)
        wanted = decision.wanted
        if wanted is not None and wanted.via is Via.RELEASE and wanted.order > ota.order:
            overtaken.append(ota.ota_id)
    return tuple(overtaken)


def _why_not_taken(
    device: DeviceSituation, channels: Channels, candidate: NoticeRelease, group: str, now_ms: int
) -> Why | None:
    if group not in device.assignment.groups:
        return HoldReason.NOT_IN_GROUP, f"is not in group {group}"
    component = candidate.firmware.component
    return why_not_taken(device, select(device.facts, device.assignment, channels, component, now_ms=now_ms), candidate)


def components_of(channels: Channels, device: DeviceSituation) -> list[str]:
    """Return the components that anything was decided for, or that the device has."""
    groups = set(device.assignment.groups)
    names = {component for group, component in channels if group in groups} | set(device.facts.components)
    names |= {firmware.component for firmware in device.assignment.pins}
    return sorted(names | {ota.firmware.component for ota in device.assignment.otas})


def _sentence(candidate: NoticeRelease, group: str, reach: int, holds: Sequence[Hold]) -> str:
    firmware = candidate.firmware
    what = f"{firmware.component} {firmware.version} to {group}"
    if reach:
        return f"{what}: reaches {reach} of {reach + len(holds)} devices"
    if not holds:
        return f"{what}: reaches nobody, because the group has no devices yet"
    counts = {reason: sum(hold.reason is reason for hold in holds) for reason in HoldReason}
    if counts[HoldReason.TARGET_RANGE] == len(holds):
        return f"{what}: reaches nobody, because no device runs a version in {candidate.target_range}"
    why = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return f"{what}: reaches nobody ({why})"
