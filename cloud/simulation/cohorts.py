"""Devices of one kind on their way through a release: told, downloading, restarted, and what came of it.

Devices of a kind differ by their place alone, and that only decides when they are told: so they are counted, by the
tick at which the next thing happens to them, and never listed.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from cloud.simulation.availability import Availability
from cloud.simulation.fleets import Kind

VARIES: Final = 0.5
"""How much the work of an update differs from device to device: between half as long again and half as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """How devices go about a release: when they are there, how long it takes, and what it does to them."""

    availability: Availability
    never: float
    """The share of devices that never come back."""
    work_s: float
    """Download and installation, on average, of time in which the device is there."""
    proof_s: float
    fails_after_s: float
    silent: float
    tick_s: float


@dataclass(slots=True)
class Tally:
    """How often something happened, so that it can be asked how often by a tick: ticks ascending, totals with them."""

    ticks: list[int] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)

    def add(self, tick: int, count: int) -> None:
        """Count what happens at a tick, which is none before the last one."""
        if not count:
            return
        if self.ticks and self.ticks[-1] == tick:
            self.totals[-1] += count
        else:
            self.ticks.append(tick)
            self.totals.append(self.total + count)

    @property
    def total(self) -> int:
        """How often, in all."""
        return self.totals[-1] if self.totals else 0

    def by(self, tick: int) -> int:
        """Return how often by a tick, and at it."""
        index = bisect_right(self.ticks, tick)
        return self.totals[index - 1] if index else 0


@dataclass(slots=True)
class Agenda:
    """The ticks at which anything is to happen, each once."""

    _heap: list[int] = field(default_factory=list)
    _known: set[int] = field(default_factory=set)

    def add(self, tick: int) -> None:
        """Have something happen at a tick."""
        if tick not in self._known:
            self._known.add(tick)
            heapq.heappush(self._heap, tick)

    def next(self) -> int | None:
        """Take the next tick off the agenda; None if there is none."""
        if not self._heap:
            return None
        tick = heapq.heappop(self._heap)
        self._known.discard(tick)
        return tick


@dataclass(slots=True)
class Cohort:
    """One kind's devices; `places` ascend. What is to happen is counted by tick, what happened is in the tallies."""

    kind: Kind
    places: list[int]
    fails: float
    conduct: Conduct
    chance: Random
    agenda: Agenda
    told: int = 0
    absent: int = 0
    beginning: Counter[int] = field(default_factory=Counter)
    restarting: Counter[int] = field(default_factory=Counter)
    proving: Counter[int] = field(default_factory=Counter)
    failing: Counter[int] = field(default_factory=Counter)
    crashing: Counter[int] = field(default_factory=Counter)
    begun: int = 0
    restarted: int = 0
    proven: Tally = field(default_factory=Tally)
    failed: Tally = field(default_factory=Tally)
    silent: Tally = field(default_factory=Tally)
    crashed: Tally = field(default_factory=Tally)

    @property
    def under_way(self) -> int:
        """Devices in the middle of it, as far as the cloud knows: those that fell silent too."""
        return self.begun - self.proven.total - self.failed.total

    @property
    def yet_to_begin(self) -> int:
        """Devices that the release covers and that have not begun."""
        return self.told - self.begun

    def on_trial(self, tick: int) -> int:
        """Return how many that restarted by a tick have yet to say how it went, without those that never will."""
        last = tick + max(1, -int(-self.conduct.proof_s // self.conduct.tick_s))
        return sum(count for agenda in (self.proving, self.failing) for at, count in agenda.items() if at <= last)

    def tell(self, limit: int, tick: int) -> bool:
        """Cover the places below a limit from now on, and tell whether that is news to anybody."""
        covered = bisect_left(self.places, limit)
        news = covered - self.told
        if news <= 0:
            return False
        self.told = covered
        conduct, random = self.conduct, self.chance.random
        now_s, tick_s, attend = tick * conduct.tick_s, conduct.tick_s, conduct.availability.attend
        begins: list[int] = []
        restarts: list[int] = []
        for _ in range(news):
            if conduct.never and random() < conduct.never:
                self.absent += 1
                continue
            work_s = conduct.work_s * (1 - VARIES + 2 * VARIES * random())
            begins_s, done_s = attend(now_s, work_s, self.chance)
            begins.append(max(tick + 1, int(begins_s / tick_s)))
            restarts.append(max(tick + 1, -int(-done_s // tick_s)))
        self._plan(self.beginning, Counter(begins))
        self._plan(self.restarting, Counter(restarts))
        return True

    def call_off(self) -> None:
        """Stop everybody who has not restarted into it."""
        on_the_way = sum(self.restarting.values())
        self.begun -= on_the_way - sum(self.beginning.values())
        self.told -= on_the_way + self.absent
        self.absent = 0
        self.beginning.clear()
        self.restarting.clear()

    def put_off(self, tick: int, until: int) -> None:
        """Let those who would restart at a tick wait for a later one."""
        if waiting := self.restarting.pop(tick, 0):
            self._plan(self.restarting, {until: waiting})

    def step(self, tick: int) -> bool:
        """Let happen what is to happen at a tick; tell whether anything did."""
        began = self.beginning.pop(tick, 0)
        restarted = self.restarting.pop(tick, 0)
        self.begun += began
        self.restarted += restarted
        self._restart(tick, restarted)
        proven, failed, crashed = (it.pop(tick, 0) for it in (self.proving, self.failing, self.crashing))
        self.proven.add(tick, proven)
        self.failed.add(tick, failed)
        self.crashed.add(tick, crashed)
        return bool(began or restarted or proven or failed or crashed)

    def _restart(self, tick: int, count: int) -> None:
        conduct, random = self.conduct, self.chance.random
        proof_ticks = max(1, -int(-conduct.proof_s // conduct.tick_s))
        silent = failed = 0
        for _ in range(count):
            if conduct.silent and random() < conduct.silent:
                silent += 1
            elif self.fails and random() < self.fails:
                failed += 1
        self.silent.add(tick, silent)
        proven_at = tick + proof_ticks
        if not conduct.fails_after_s:
            self._plan(self.failing, {proven_at: failed})
            self._plan(self.proving, {proven_at: count - silent - failed})
            return
        self._plan(self.proving, {proven_at: count - silent})
        rate = conduct.tick_s / conduct.fails_after_s
        self._plan(self.crashing, Counter(proven_at + int(self.chance.expovariate(rate)) for _ in range(failed)))

    def _plan(self, agenda: Counter[int], counts: Mapping[int, int]) -> None:
        for tick, count in counts.items():
            if count:
                agenda[tick] += count
                self.agenda.add(tick)
