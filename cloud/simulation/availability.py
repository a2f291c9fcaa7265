"""When made-up devices are there: always, some hours of each day, or on and off by chance.

Times are seconds since the simulation began. Each device's day begins at an hour of its own, evenly spread, so that a
fleet is spread over the time zones; who is on and off by chance has no memory (exponential times, as of a Poisson
process), so nothing needs to be remembered of a device before a release reaches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Final

from cloud.simulation.durations import parse_duration
from protocol.errors import UserError

DAY_S: Final = 86_400.0
USUAL_DAY_S: Final = 8 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """How long devices are on, and off, at a stretch; `daily` ones for the first `on_s` of a day of their own."""

    on_s: float = DAY_S
    off_s: float = 0.0
    daily: bool = False

    @property
    def always(self) -> bool:
        """Whether devices are there all the time."""
        return self.off_s <= 0

    @property
    def share_on(self) -> float:
        """The share of the time, and so of the fleet at any time, that is on."""
        return self.on_s / (self.on_s + self.off_s)

    def attend(self, now_s: float, work_s: float, chance: Random) -> tuple[float, float]:
        """Return when a device that is told at `now_s` is there first, and when it was there for `work_s` from then."""
        if self.always:
            return now_s, now_s + work_s
        return self._by_day(now_s, work_s, chance) if self.daily else self._by_chance(now_s, work_s, chance)

    def _by_day(self, now_s: float, work_s: float, chance: Random) -> tuple[float, float]:
        into_day_s = chance.random() * DAY_S
        if into_day_s >= self.on_s:
            now_s, into_day_s = now_s + DAY_S - into_day_s, 0.0
        nights, left_s = divmod(into_day_s + work_s, self.on_s)
        if left_s == 0.0 and nights:
            nights -= 1  # done as the day ends, and not as the next one begins
        return now_s, now_s + work_s + nights * self.off_s

    def _by_chance(self, now_s: float, work_s: float, chance: Random) -> tuple[float, float]:
        if chance.random() >= self.share_on:
            now_s += chance.expovariate(1 / self.off_s)
        begins_s = now_s
        while (stays_s := chance.expovariate(1 / self.on_s)) < work_s:
            work_s -= stays_s
            now_s += stays_s + chance.expovariate(1 / self.off_s)
        return begins_s, now_s + work_s

    # How many are quiet, of many, at any time

    def went_quiet(self, span_s: float, quiet_s: float) -> float:
        """Return the share of devices that were heard last in a span that ended `quiet_s` ago, and not since."""
        if self.always:
            return 0.0
        return self._off_for(quiet_s) - self._off_for(quiet_s + span_s)

    def quiet(self, quiet_s: float) -> float:
        """Return the share of devices that have been off for so long."""
        return 0.0 if self.always else self._off_for(quiet_s)

    def _off_for(self, least_s: float) -> float:
        if self.daily:
            return max(0.0, self.off_s - least_s) / (self.on_s + self.off_s)
        return (1 - self.share_on) * math.exp(-least_s / self.off_s)


ALWAYS: Final = Availability()
DAILY: Final = Availability(on_s=USUAL_DAY_S, off_s=DAY_S - USUAL_DAY_S, daily=True)


def parse_availability(text: str) -> Availability:
    """Return what `always`, `daily`, `daily:10h` or `intermittent:2h/22h` (means of on and off) says; UserError."""
    kind, _, given = text.partition(":")
    if kind == "always" and not given:
        return ALWAYS
    if kind == "daily":
        on_s = parse_duration(given) if given else USUAL_DAY_S
        if 60 <= on_s <= DAY_S:
            return Availability(on_s=on_s, off_s=DAY_S - on_s, daily=True)
    elif kind == "intermittent" and given.count("/") == 1:
        on_s, off_s = (parse_duration(part) for part in given.split("/"))
        if on_s >= 60 and off_s >= 0:
            return Availability(on_s=on_s, off_s=off_s)
    raise UserError(
        f"{text!r:.80} says nothing of when devices are there: always, daily, daily:10h (a minute to a day), or "
        "intermittent:2h/22h (mean on, at least a minute, and mean off). Nothing was simulated."
    )
