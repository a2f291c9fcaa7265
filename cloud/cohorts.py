"""Many devices in little memory: what is alike is kept once, and asked once.

Of a million devices most are alike in all that the planner looks at: the same hardware, the same versions, the same
groups, nothing of their own. They differ in their ids, and so in their places in a release. A device with anything of
its own (a lock, an OTA, a failure, a hold) is a kind by itself: nothing is left out, or taken to be alike that is not.

A decision of `protocol.selection` depends on the id through the places alone. So one device of a kind is asked; where
its decision looked at a coverage that reaches some places and not others, the kind is split by it, and each side is
asked again, until every device has the decision of one that is its like in all that was looked at.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, overload

from cloud.fleet import DeviceSituation
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.schedule import PER_CENT, PLACES
from protocol.selection import Assignment, Channels, Decision, Rule, select

NEVER: Final = -1


class Cohorts(Sequence[DeviceSituation]):
    """Devices in the order that they were given in, each made when it is looked at."""

    __slots__ = ("_kind_of", "_last_seen", "device_ids", "kinds", "members", "profile_of")

    def __init__(
        self,
        device_ids: tuple[str, ...],
        kinds: tuple[DeviceSituation, ...],
        profile_of: tuple[int, ...],
        kind_of: array[int],
        last_seen: array[int],
    ) -> None:
        """Take what a Gathering gathered: kinds of one profile differ in nothing that `select` looks at."""
        self.device_ids, self.kinds, self.profile_of = device_ids, kinds, profile_of
        self._kind_of, self._last_seen = kind_of, last_seen
        self.members: tuple[array[int], ...] = tuple(array("I") for _ in kinds)
        """The positions of each kind's devices, ascending."""
        appends = [of.append for of in self.members]
        for position, kind in enumerate(kind_of):
            appends[kind](position)

    @classmethod
    def of(cls, devices: Sequence[DeviceSituation]) -> Cohorts:
        """Return devices as cohorts."""
        if isinstance(devices, Cohorts):
            return devices
        gathering = Gathering()
        for device in devices:
            gathering.add(device.device_id, gathering.kind(device), device.last_seen_at_ms)
        return gathering.cohorts()

    def __len__(self) -> int:
        return len(self.device_ids)

    @overload
    def __getitem__(self, index: int) -> DeviceSituation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DeviceSituation]: ...
    def __getitem__(self, index: int | slice) -> DeviceSituation | Sequence[DeviceSituation]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(len(self))[index])
        alike, seen = self.kinds[self._kind_of[index]], self._last_seen[index]
        facts = replace(alike.facts, device_id=self.device_ids[index])
        return replace(alike, facts=facts, last_seen_at_ms=None if seen == NEVER else seen)

    def last_seen_at_ms(self, position: int) -> int | None:
        """Return when a device was heard last, without making it."""
        seen = self._last_seen[position]
        return None if seen == NEVER else seen


class Gathering:
    """Devices being gathered, kind by kind."""

    def __init__(self) -> None:
        self._device_ids: list[str] = []
        self._kind_of, self._last_seen = array("I"), array("q")
        self._kinds: list[DeviceSituation] = []
        self._profile_of: list[int] = []
        self._alike: dict[object, list[int]] = {}
        self._profiles: list[tuple[DeviceFacts, Assignment]] = []
        self._alike_profiles: dict[object, list[int]] = {}

    def kind(self, device: DeviceSituation) -> int:
        """Return the number of the kind that a device is of."""
        facts = replace(device.facts, device_id="") if device.facts.device_id else device.facts
        profile = self._profile(facts, device.assignment)
        outline = (profile, device.online, device.phase, device.availability, device.pending, device.timezone)
        alike = replace(device, facts=facts, last_seen_at_ms=None)
        numbers = self._alike.setdefault(outline, [])
        for number in numbers:
            if self._kinds[number] == alike:
                return number
        numbers.append(len(self._kinds))
        self._kinds.append(alike)
        self._profile_of.append(profile)
        return numbers[-1]

    def _profile(self, facts: DeviceFacts, assignment: Assignment) -> int:
        numbers = self._alike_profiles.setdefault(_outline(facts, assignment), [])
        for number in numbers:
            if self._profiles[number] == (facts, assignment):
                return number
        numbers.append(len(self._profiles))
        self._profiles.append((facts, assignment))
        return numbers[-1]

    def add(self, device_id: str, kind: int, last_seen_at_ms: int | None) -> None:
        """Take a device of a kind."""
        self._device_ids.append(device_id)
        self._kind_of.append(kind)
        self._last_seen.append(NEVER if last_seen_at_ms is None else last_seen_at_ms)

    def add_all(self, device_ids: Sequence[str], kinds: Sequence[int], last_seen_at_ms: Sequence[int | None]) -> None:
        """Take many devices, each of its kind."""
        self._device_ids.extend(device_ids)
        self._kind_of.extend(kinds)
        self._last_seen.extend([NEVER if it is None else it for it in last_seen_at_ms])

    def cohorts(self) -> Cohorts:
        """Return what was gathered."""
        return Cohorts(
            tuple(self._device_ids), tuple(self._kinds), tuple(self._profile_of), self._kind_of, self._last_seen
        )


def _outline(facts: DeviceFacts, assignment: Assignment) -> object:
    """Return what tells most profiles apart, and can be hashed: those that are alike have the same."""
    return (
        facts.hardware_model,
        facts.agent_version,
        tuple(sorted((name, it.digest, it.version) for name, it in facts.components.items())),
        tuple(sorted(facts.failed.items())),
        facts.declined,
        assignment.groups,
        tuple((it.component, it.digest) for it in assignment.pins),
        tuple((it.ota_id, it.order) for it in assignment.otas),
        assignment.turn,
    )


@dataclass(frozen=True, slots=True)
class Alike:
    """Devices of one kind with one decision, at these positions.

    The decision is that of one of them: what its steps saw of places differs among them, and nothing else.
    """

    kind: DeviceSituation
    decision: Decision
    positions: array[int]


Sides = frozenset[tuple[str, bool]]
"""On which sides of which releases' coverage devices are."""


class Inquiry:
    """What a fleet's devices should do, asked of one device of each kind; kinds that `select` cannot tell apart share.

    It remembers answers for as long as one question about one fleet is worked on.
    """

    def __init__(self, fleet: Cohorts, channels: Channels, now_ms: int) -> None:
        self._fleet, self._channels, self._now_ms = fleet, channels, now_ms
        self._answers: dict[tuple[int, str, Sides], Decision] = {}
        self._first: dict[tuple[int, str], list[str]] = {}
        self._partial: dict[str, dict[str, tuple[str, int]]] = {}
        self._awaited: dict[str, list[str]] = {}
        for (_, component), releases in channels.items():
            for release in releases:
                below = covered_places(release, now_ms)
                if 0 < below < PLACES:
                    name = f"{release.release_id} v{release.label}"
                    self._partial.setdefault(component, {})[name] = (release.release_id, below)
                    if release.terms.base_first and (release.terms.paused or now_ms < release.terms.not_before_ms):
                        self._awaited.setdefault(component, []).append(name)

    def decided(self, kind: int, component: str, about: str | None = None) -> Iterator[Alike]:
        """Yield the devices of a kind by their decisions about a component.

        With `about`, a release as traces name it, those that it passes by are not told apart any further: their
        decisions agree in why it does.
        """
        parts = [(self._fleet.members[kind], Sides())]
        for other in self._looked_at_first(kind, component):
            for name in self._awaited.get(other, ()):  # its coverage is looked at ahead of its time, in no trace
                parts = [it for part in parts for it in self._sides(*part, name, *self._partial[other][name])]
            parts = [(part, sides) for _, part, sides in self._split(kind, other, parts)]
        for decision, part, _ in self._split(kind, component, parts, about):
            yield Alike(self._fleet.kinds[kind], decision, part)

    def _looked_at_first(self, kind: int, component: str) -> list[str]:
        """Return the other components that a decision about this one may look at, beside its trace."""
        key = self._fleet.profile_of[kind], component
        if key not in self._first:
            groups = self._fleet.kinds[kind].assignment.groups
            self._first[key] = sorted(
                {
                    other
                    for (group, other), releases in self._channels.items()
                    if other != component and group in groups and any(it.terms.base_first for it in releases)
                }
            )
        return self._first[key]

    def _split(
        self, kind: int, component: str, parts: list[tuple[array[int], Sides]], about: str | None = None
    ) -> Iterator[tuple[Decision, array[int], Sides]]:
        partial = self._partial.get(component, {})
        undecided = list(parts)
        while undecided:
            part, sides = undecided.pop()
            decision = self._ask(kind, component, part[0], sides)
            known = {name for name, _ in sides}
            passed_by = about is not None and (about in known or about not in partial) and _passes_by(decision, about)
            name = None if passed_by or not partial else _undecided(decision, partial, known)
            if name is None:
                yield decision, part, sides
                continue
            undecided += self._sides(part, sides, name, *partial[name])

    def _sides(
        self, part: array[int], sides: Sides, name: str, release_id: str, below: int
    ) -> list[tuple[array[int], Sides]]:
        """Return devices told apart by whether a release covers them."""
        inside, outside = by_place(self._fleet.device_ids, part, release_id, below)
        return [(side, sides | {(name, within)}) for side, within in ((inside, True), (outside, False)) if side]

    def _ask(self, kind: int, component: str, position: int, sides: Sides) -> Decision:
        """Ask about one device: the first answer leads to what it has to be asked by, the last is for all its like."""
        key = self._fleet.profile_of[kind], component, sides
        decision = self._answers.get(key)
        if decision is None:
            device = self._fleet[position]
            decision = select(device.facts, device.assignment, self._channels, component, now_ms=self._now_ms)
            self._answers[key] = decision
        return decision


def _undecided(decision: Decision, partial: Container[str], known: Container[str]) -> str | None:
    """Return the first release at whose coverage a decision looked that devices of the kind are not told apart by."""
    looked_at = (step.subject for step in decision.trace if step.rule is Rule.PERCENTAGE)
    return next((name for name in looked_at if name in partial and name not in known), None)


def _passes_by(decision: Decision, release: str) -> bool:
    return any(step.subject == release and not step.passed for step in decision.trace)


def covered_places(release: NoticeRelease, now_ms: int) -> int:
    """Return how many places a release covers now: those below the number."""
    ramp = release.terms.ramp
    return release.percentage * PER_CENT if ramp is None else ramp.covered(release.percentage, now_ms)


def by_place(
    device_ids: Sequence[str], positions: Iterable[int], release_id: str, below: int
) -> tuple[array[int], array[int]]:
    """Return which devices have a place below a number in a release, and which have not.

    The places are those of `protocol.identity.place`, computed for many at once.
    """
    inside, outside = array("I"), array("I")
    add, pass_by, sha256, from_bytes = inside.append, outside.append, hashlib.sha256, int.from_bytes
    head, tail = b"fleetlift bucket 1\0", b"\0" + release_id.encode()
    whole, rest = divmod(below, PER_CENT)
    for position in positions:
        digest = sha256(head + device_ids[position].encode() + tail).digest()
        bucket = from_bytes(digest[:8], "big") % 100
        if bucket < whole or (bucket == whole and rest and from_bytes(digest[8:16], "big") % PER_CENT < rest):
            add(position)
        else:
            pass_by(position)
    return inside, outside
