"""What rehearsals come to: one run's course and end, and what many runs say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MILESTONES: Final = (50, 90, 99, 100)
"""Per cent of the fleet of which it is told when they ran the release."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A time, and how many devices by then: may take it, run it, fell back or crash, and were never heard again."""

    at_s: float
    covered: int
    running: int
    failed: int
    silent: int

    @property
    def broken(self) -> int:
        """Devices that the release did harm to."""
        return self.failed + self.silent


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that the guard did, and why."""

    at_s: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One rehearsal, by its seed. `ended` is how: completed, paused, rolled_back, or still_open."""

    seed: int
    devices: int
    ended: str
    ended_at_s: float | None
    """When the guard ended it; None if it did not."""
    broken_at_end: int
    """Devices broken when it ended; those that were on their way then follow, and are in `broken`."""
    stopped_for: tuple[str, ...]
    """Strata that it was stopped for while the others went on."""
    samples: tuple[Sample, ...]
    happenings: tuple[Happening, ...]

    @property
    def last(self) -> Sample:
        """How it stood in the end."""
        return self.samples[-1]

    @property
    def broken(self) -> int:
        """Devices broken in all."""
        return self.last.broken

    @property
    def stopped(self) -> bool:
        """Whether the guard stopped it, for all or for some."""
        return self.ended not in ("completed", "still_open")

    def reached_s(self, percent: int) -> float | None:
        """Return when so many per cent of the fleet ran the release, or None if they never did."""
        wanted = -(-self.devices * percent // 100)
        return next((sample.at_s for sample in self.samples if sample.running >= wanted), None)

    def at(self, at_s: float) -> Sample:
        """Return how it stood at a time."""
        low, high = 0, len(self.samples)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.samples[middle].at_s <= at_s else (low, middle)
        return self.samples[low]


@dataclass(frozen=True, slots=True)
class Spread:
    """What many runs say of one number: the mean, and the bounds between which nine in ten of them lie."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return the spread of some numbers, at least one."""
        ordered = sorted(numbers)
        return cls(sum(ordered) / len(ordered), quantile(ordered, 0.05), quantile(ordered, 0.95))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending numbers, between two of them by proportion."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def reached(runs: Sequence[Run], percent: int) -> tuple[Spread | None, int]:
    """Return when so many per cent of the fleet ran it, over the runs in which they did, and in how many that was."""
    times = [at_s for run in runs if (at_s := run.reached_s(percent)) is not None]
    return (Spread.of(times) if times else None), len(times)
