"""The planner: which releases a notice carries, which devices a release would reach, and why each other one waits.

Rule 1: the cloud moves no device. It publishes what is decided, and each device decides by `protocol.selection`; so
everything here asks that same function and explains its answer. Nothing here can disagree with a device that has
told the cloud everything.

Rule 2: silence is no answer. For every device and component there is either a move or a hold with a typed reason.

Rule 3: frozen values in, frozen values out; time is an argument, and nothing is read, written or remembered.

Rule 4: who is alike is asked once (`cloud.cohorts`). The answer is the one that asking every device would give, and
the single devices of it are made when somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cloud.cohorts import Alike, Cohorts, Inquiry
from cloud.fleet import DeviceSituation, FleetView
from cloud.holding import Hold, HoldReason, Why, why_not_now, why_not_taken
from protocol.down import NoticeRelease
from protocol.identity import EVERYONE
from protocol.selection import Channels, Decision, select
from protocol.values import FirmwareRef, Via

__all__ = ["Forecast", "Hold", "HoldReason", "Move", "Plan", "components_of", "forecast", "plan", "superseded_otas"]


@dataclass(frozen=True, slots=True)
class Move:
    """A device that takes a firmware now."""

    device_id: str
    component: str
    firmware: FirmwareRef
    via: Via
    source_id: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to devices that are alike, at these positions in their fleet: `why` they are held, or None."""

    component: str
    alike: Alike
    why: Why | None

    @property
    def verdict(self) -> str:
        """`takes`, or the reason."""
        return "takes" if self.why is None else self.why[0].value


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Who would take a candidate, sooner or later, and why each other device would not."""

    fates: tuple[Fate, ...]
    sentence: str
    """For the operator: how many devices it reaches, or that it reaches nobody, and why."""
    fleet: Cohorts = field(repr=False)
    explain: Explain = field(repr=False, compare=False)

    @property
    def reach(self) -> int:
        """The number of devices that would take it."""
        return sum(len(fate.alike.positions) for fate in self.fates if fate.why is None)

    @property
    def counts(self) -> Mapping[HoldReason, int]:
        """How many devices would not take it, by reason."""
        return _counts(self.fates)

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """The ids of the devices that would take it."""
        found = sorted(it for fate in self.fates if fate.why is None for it in fate.alike.positions)
        return tuple(self.fleet.device_ids[it] for it in found)

    @cached_property
    def holds(self) -> tuple[Hold, ...]:
        """Every other device, and why it would not take it."""
        return _holds(self.fleet, self.fates, self.explain)

    def verdicts(
        self, only: str | None = None, *, after: str = "", limit: int | None = None
    ) -> tuple[tuple[str, str, str], ...]:
        """Return devices by id, each with its verdict and why: all, or those of one verdict; after an id.

        With a `limit`, so many of each verdict.
        """
        ids = self.fleet.device_ids
        found: dict[str, list[tuple[str, int, int]]] = {}
        for number, fate in enumerate(self.fates):
            if only in (None, fate.verdict):
                some = ((ids[position], position, number) for position in fate.alike.positions)
                found.setdefault(fate.verdict, []).extend(it for it in some if it[0] > after)
        return tuple(
            sorted(
                (device_id, verdict, self._detail(self.fates[number], position))
                for verdict, of in found.items()
                for device_id, position, number in sorted(of)[:limit]
            )
        )

    def _detail(self, fate: Fate, position: int) -> str:
        why = _why_of(self.fleet, fate, position, self.explain)
        return why[1] if why else ""


@dataclass(frozen=True)
class Plan:
    """What happens next in a fleet: every device and component is in `actions` or in `holds`, once."""

    fates: tuple[Fate, ...]
    fleet: Cohorts = field(repr=False)
    explain: Explain = field(repr=False, compare=False)

    @property
    def moving(self) -> int:
        """How many actions there are."""
        return sum(len(fate.alike.positions) for fate in self.fates if fate.why is None)

    @property
    def counts(self) -> Mapping[HoldReason, int]:
        """How many holds there are, by reason."""
        return _counts(self.fates)

    @cached_property
    def actions(self) -> tuple[Move, ...]:
        """The devices that take something now."""
        found = []
        for fate in self.fates:
            wanted = fate.alike.decision.wanted
            if fate.why is None and wanted is not None:
                what = fate.component, wanted.firmware, wanted.via, wanted.source_id
                found += [(it, Move(self.fleet.device_ids[it], *what)) for it in fate.alike.positions]
        return tuple(move for _, move in sorted(found, key=lambda pair: (pair[0], pair[1].component)))

    @cached_property
    def holds(self) -> tuple[Hold, ...]:
        """Every device and component that is not moved, and why."""
        return _holds(self.fleet, self.fates, self.explain)


def forecast(view: FleetView, candidate: NoticeRelease, group: str = EVERYONE) -> Forecast:
    """Return who would take `candidate` if it were released to `group` now, sooner or later."""
    component, fleet = candidate.firmware.component, Cohorts.of(view.devices)
    channel = (group, component)
    channels = {**view.channels, channel: (candidate, *view.channels.get(channel, ()))}

    def why(device: DeviceSituation, decision: Decision) -> Why | None:
        return _why_not_taken(device, decision, candidate, group)

    name = f"{candidate.release_id} v{candidate.label}"
    members, others = Inquiry(fleet, channels, view.now_ms), Inquiry(fleet, {}, view.now_ms)
    fates = tuple(
        Fate(component, alike, why(alike.kind, alike.decision))
        for number, kind in enumerate(fleet.kinds)
        for alike in (members if group in kind.assignment.groups else others).decided(number, component, name)
    )
    return Forecast(
        fates=fates,
        sentence=_sentence(candidate, group, len(fleet), _counts(fates)),
        fleet=fleet,
        explain=_explaining(channels, why, view.now_ms),
    )


def plan(view: FleetView, now_ms: int) -> Plan:
    """Return what happens next in this fleet, and a typed reason for every device that is not moved."""
    fleet, channels = Cohorts.of(view.devices), view.channels

    def why(device: DeviceSituation, decision: Decision) -> Why | None:
        return why_not_now(device, decision, now_ms)

    inquiry = Inquiry(fleet, channels, now_ms)
    fates = tuple(
        Fate(component, alike, why(alike.kind, alike.decision))
        for number, kind in enumerate(fleet.kinds)
        for component in components_of(channels, kind)
        for alike in inquiry.decided(number, component)
    )
    return Plan(fates, fleet, _explaining(channels, why, now_ms))


def superseded_otas(device: DeviceSituation, channels: Channels, now_ms: int) -> tuple[str, ...]:
    """Return the device's single-device OTAs that a release decided after them has overtaken (rule 4)."""
    overtaken = []
    for ota in device.assignment.otas:
        decision = select(device.facts, device.assignment, channels, ota.firmware.component, now_ms=now_ms)
        wanted = decision.wanted
        if wanted is not None and wanted.via is Via.RELEASE and wanted.order > ota.order:
            overtaken.append(ota.ota_id)
    return tuple(overtaken)


def _why_not_taken(device: DeviceSituation, decision: Decision, candidate: NoticeRelease, group: str) -> Why | None:
    if group not in device.assignment.groups:
        return HoldReason.NOT_IN_GROUP, f"is not in group {group}"
    return why_not_taken(device, decision, candidate)


# What became of devices that are alike, one by one

Explain = Callable[[DeviceSituation, str], Why | None]


def _explaining(channels: Channels, why: Callable[[DeviceSituation, Decision], Why | None], now_ms: int) -> Explain:
    def explain(device: DeviceSituation, component: str) -> Why | None:
        decision = select(device.facts, device.assignment, channels, component, now_ms=now_ms)
        return why(device, decision)

    return explain


def _holds(fleet: Cohorts, fates: Sequence[Fate], explain: Explain) -> tuple[Hold, ...]:
    """Return the holds by device and component; who is outside a percentage is told its own place."""
    found = []
    for fate in fates:
        if fate.why is None:
            continue
        for position in fate.alike.positions:
            why = _why_of(fleet, fate, position, explain) or fate.why
            found.append((position, Hold(fleet.device_ids[position], fate.component, *why)))
    return tuple(hold for _, hold in sorted(found, key=lambda pair: (pair[0], pair[1].component)))


def _why_of(fleet: Cohorts, fate: Fate, position: int, explain: Explain) -> Why | None:
    """Return why one of devices that are alike is held."""
    own = fate.why is not None and fate.why[0] is HoldReason.PERCENTAGE
    return (explain(fleet[position], fate.component) if own else None) or fate.why


def _counts(fates: Sequence[Fate]) -> Mapping[HoldReason, int]:
    found = dict.fromkeys(HoldReason, 0)
    for fate in fates:
        if fate.why is not None:
            found[fate.why[0]] += len(fate.alike.positions)
    return {reason: count for reason, count in found.items() if count}


def components_of(channels: Channels, device: DeviceSituation) -> list[str]:
    """Return the components that anything was decided for, or that the device has."""
    groups = set(device.assignment.groups)
    names = {component for group, component in channels if group in groups} | set(device.facts.components)
    names |= {firmware.component for firmware in device.assignment.pins}
    return sorted(names | {ota.firmware.component for ota in device.assignment.otas})


def _sentence(candidate: NoticeRelease, group: str, devices: int, counts: Mapping[HoldReason, int]) -> str:
    firmware, held = candidate.firmware, sum(counts.values())
    what = f"{firmware.component} {firmware.version} to {group}"
    if held < devices:
        return f"{what}: reaches {devices - held} of {devices} devices"
    if not devices:
        return f"{what}: reaches nobody, because the group has no devices yet"
    if counts.get(HoldReason.TARGET_RANGE) == devices:
        return f"{what}: reaches nobody, because no device runs a version in {candidate.target_range}"
    why = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return f"{what}: reaches nobody ({why})"
