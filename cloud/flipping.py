"""Releases that undo themselves: a group goes by a component's version, and so lets go of whom it gave another one.

A device takes what its group gives it, and the group's query is then no longer true of it (or that of another group
is). Where its groups now tell it something that is not newer, it goes back, and, as a rule, the query is true of it
again: it would be so for ever. So each kind of device that would take a release is led on, from firmware to firmware,
until it comes to rest or has to go back. A newer firmware is none of it: that is how stepping stones are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloud.cohorts import Alike
from cloud.fleet import DeviceSituation, FleetView
from cloud.groups_query import ATTRIBUTES, Candidate, Query, Value
from cloud.planner import forecast
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.identity import version_key
from protocol.schedule import Terms
from protocol.selection import Channels, Verdict, select
from protocol.values import ComponentState, FirmwareRef

MAX_STEPS: Final = 8
OWN_FACTS: Final = "device_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goers:
    """A product's groups that go by the version of a component, and what else their queries look at.

    `ranked` are all groups of the product, first one first; `own` returns the devices as queries see them, by id, and
    is asked only where a query looks at what kinds of devices do not say: ids and attributes.
    """

    queries: Mapping[str, Query]
    ranked: Sequence[str]
    own: Callable[[], Mapping[str, Candidate]]

    @property
    def own_facts(self) -> tuple[str, ...]:
        """What the queries look at that devices of a kind do not share."""
        facts = {it.fact for query in self.queries.values() for it in query.comparisons}
        return tuple(sorted(it for it in facts if it == OWN_FACTS or it.startswith(ATTRIBUTES)))


@dataclass(frozen=True, slots=True, order=True)
class Flip:
    """What becomes of a device: the group that lets go of it, or takes it, and the versions it is led to at last."""

    group: str
    leaves: bool
    came_by: tuple[str, ...]


def flipping(view: FleetView, candidate: NoticeRelease, group: str, goers: Goers) -> Mapping[Flip, int]:
    """Return how many devices that would take `candidate`, all covered and begun, would have to go back from it."""
    begun = replace(candidate, percentage=100, terms=Terms(base_first=candidate.terms.base_first))
    told = forecast(view, begun, group)
    channel = (group, candidate.firmware.component)
    channels = {**view.channels, channel: (begun, *view.channels.get(channel, ()))}
    found: Counter[Flip] = Counter()
    own = goers.own() if goers.own_facts else {}
    for fate in told.fates:
        if fate.why is not None:
            continue
        for seen, count in _seen(fate.alike, told.fleet.device_ids, goers.own_facts, own):
            device = replace(fate.alike.kind, facts=replace(fate.alike.kind.facts, device_id=seen.device_id))
            flip = _led_on(device, seen, begun.firmware, _World(channels, goers, view.now_ms))
            if flip is not None:
                found[flip] += count
    return found


def _seen(
    alike: Alike, device_ids: Sequence[str], facts: Sequence[str], own: Mapping[str, Candidate]
) -> Iterator[tuple[Candidate, int]]:
    """Yield devices of which queries see the same, one for all, and how many they are."""
    kind = alike.kind
    shared = Candidate(
        device_id=device_ids[alike.positions[0]],
        hardware_model=kind.facts.hardware_model,
        agent_version=kind.facts.agent_version,
        timezone=kind.timezone,
        components=kind.facts.installed,
    )
    if not facts:
        yield shared, len(alike.positions)
        return
    counts: Counter[tuple[Value | None, ...]] = Counter()
    first: dict[tuple[Value | None, ...], str] = {}
    for position in alike.positions:
        device = own[device_ids[position]]
        key = tuple(device.fact(name) for name in facts)
        counts[key] += 1
        first.setdefault(key, device.device_id)
    for key, count in counts.items():
        yield replace(shared, device_id=first[key], attributes=own[first[key]].attributes), count


@dataclass(frozen=True, slots=True)
class _World:
    channels: Channels
    goers: Goers
    now_ms: int


def _led_on(device: DeviceSituation, seen: Candidate, firmware: FirmwareRef, world: _World) -> Flip | None:
    """Lead a device on from a firmware, and return how it has to go back; None if it comes to rest."""
    facts, groups = device.facts, device.assignment.groups
    came_by: tuple[str, ...] = (firmware.version,)
    moved: tuple[str, bool] | None = None
    for _ in range(MAX_STEPS):
        facts = _having(facts, firmware)
        now_in = _groups(groups, replace(seen, components=facts.installed), world.goers)
        if moved is None and set(now_in) != set(groups):
            changed = sorted(set(now_in) ^ set(groups), key=world.goers.ranked.index)
            moved = changed[0], changed[0] in groups
        groups = now_in
        assignment = replace(device.assignment, groups=groups)
        decision = select(facts, assignment, world.channels, firmware.component, now_ms=world.now_ms)
        wanted = decision.wanted
        if moved is None or decision.verdict is not Verdict.TAKE or wanted is None:
            return None
        came_by += (wanted.firmware.version,)
        if not _newer(wanted.firmware, firmware):
            return Flip(*moved, came_by)
        firmware = wanted.firmware
    return None


def _having(facts: DeviceFacts, firmware: FirmwareRef) -> DeviceFacts:
    state = ComponentState(
        component=firmware.component,
        version=firmware.version,
        build=firmware.build,
        digest=firmware.digest,
        requires=firmware.requires.components,
        data_schema=firmware.data_schema,
    )
    return replace(facts, components={**facts.components, firmware.component: state})


def _groups(groups: Sequence[str], seen: Candidate, goers: Goers) -> tuple[str, ...]:
    """Return the groups that a device is in now: those that do not go by the version stay."""
    now = {name for name in groups if name not in goers.queries}
    now |= {name for name, query in goers.queries.items() if query.matches(seen)}
    return tuple(name for name in goers.ranked if name in now)


def _newer(firmware: FirmwareRef, than: FirmwareRef) -> bool:
    order = version_key(firmware.version).compare(than.version)
    return order > 0 or (order == 0 and firmware.build > than.build)
