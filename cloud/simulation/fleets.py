"""Made-up fleets: how many devices of which kind, and their places in a release, by the hash that devices use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from protocol.errors import UserError
from protocol.identity import EVERYONE, check_id, check_version, place

MAX_DEVICES: Final = 10_000_000
MAX_KINDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices that a release cannot tell apart but by their places: a hardware model, a version, and the groups."""

    hardware_model: str
    version: str
    groups: tuple[str, ...]
    """In rank order, `everyone` last."""

    def __str__(self) -> str:
        return " ".join((self.hardware_model, self.version, *self.groups[:-1]))


@dataclass(frozen=True, slots=True)
class Fleet:
    """Kinds and how many devices there are of each; the devices of all are numbered through, kind by kind."""

    counts: Mapping[Kind, int]

    @property
    def devices(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def device_ids(self, kind: Kind) -> Iterator[str]:
        """Yield the ids of a kind's devices."""
        first = 0
        for other, count in self.counts.items():
            if other == kind:
                yield from map("device-{:07}".format, range(first, first + count))
                return
            first += count

    def places(self, kind: Kind, release_id: str) -> list[int]:
        """Return the places of a kind's devices in a release, ascending."""
        return sorted(place(device_id, release_id) for device_id in self.device_ids(kind))


def make_fleet(
    devices: int,
    *,
    hardware: Mapping[str, float],
    versions: Mapping[str, float],
    groups: Mapping[str, float],
) -> Fleet:
    """Return a fleet with these shares of hardware models, versions and groups, each independent of the others.

    Shares of models and of versions are of 1, in all (what they leave over goes to the last); a device is in each
    group, or not, whatever the others. Raises UserError.
    """
    if not 1 <= devices <= MAX_DEVICES:
        raise UserError(f"a fleet has 1 to {MAX_DEVICES} devices, not {devices}. Nothing was simulated.")
    for model in hardware:
        check_id(model, "hardware model")
    for version in versions:
        check_version(version)
    for group in groups:
        check_id(group, "group")
        if group == EVERYONE:
            raise UserError(f"every device is in {EVERYONE}; it has no share. Nothing was simulated.")
    membership = [((name, share), ("", 1 - share)) for name, share in groups.items()]
    kinds: list[Kind] = []
    weights: list[float] = []
    for (model, share), (version, other), *chosen in product(
        _whole(hardware, "hardware models").items(), _whole(versions, "versions").items(), *membership
    ):
        weight = share * other
        for _, part in chosen:
            weight *= part
        if weight > 0:
            kinds.append(Kind(model, version, (*(name for name, _ in chosen if name), EVERYONE)))
            weights.append(weight)
    if len(kinds) > MAX_KINDS:
        raise UserError(f"these shares make {len(kinds)} kinds of devices, at most {MAX_KINDS}. Nothing was simulated.")
    return Fleet(dict(zip(kinds, _apportioned(devices, weights), strict=True)))


def _whole(shares: Mapping[str, float], what: str) -> dict[str, float]:
    """Return the shares, the last one raised by what they leave over; raises UserError for more than all."""
    total = sum(shares.values())
    if not shares or total > 1 + 1e-9:
        raise UserError(f"the shares of {what} are {total:.4%} of the fleet, not at most 100%. Nothing was simulated.")
    last = list(shares)[-1]
    return {**shares, last: shares[last] + max(0.0, 1 - total)}


def _apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers with this total, in these proportions (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
