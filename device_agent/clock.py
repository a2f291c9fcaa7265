"""What time it is at least: a device without a battery wakes in 1970, and must neither be cheated by that nor stopped.

1. The floor is the latest time that has surely been: this release's date, when its certificate began, and the time of
   the last refresh of the metadata that succeeded. It goes forward with the time that passes.
2. A clock before the floor is behind: the floor is taken instead, and certificates are not judged by the clock. So is
   one that finds a certificate of the right authority not valid yet.
3. A clock that is ahead cannot be told from one that is right: nothing that depends on it is done for good. What it
   finds expired is refused, and found good again when the clock is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

RELEASED_S: Final = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
"""When this release was made, about, and surely not later."""
_STEP_S: Final = 60.0
"""How far a clock must jump for it to have been set."""


class DeviceClock:
    """Times are seconds since 1970. `floor()` is the part of the floor that changes; for any thread."""

    def __init__(
        self,
        floor: Callable[[], float],
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_floor = floor
        self._wall = wall
        self._monotonic = monotonic
        self._floor = (RELEASED_S, monotonic())
        self._found_behind: tuple[float, float] | None = None

    def now(self) -> float:
        """Return the time, as far as it is known."""
        return max(self._wall(), self._ticking_floor_s())

    def wall(self) -> float:
        """Return what the clock says."""
        return self._wall()

    @property
    def floor_s(self) -> float:
        """The latest time that has surely been."""
        return max(RELEASED_S, self._read_floor())

    @property
    def is_behind(self) -> bool:
        """Whether the clock is wrong for sure."""
        return self._wall() < self.floor_s or self._is_as_it_was()

    def found_behind(self) -> None:
        """Hear that a certificate of the right authority is not valid yet by this clock."""
        self._found_behind = (self._wall(), self._monotonic())

    def _is_as_it_was(self) -> bool:
        """Tell whether the clock was found behind, and nobody has set it since."""
        found = self._found_behind
        if found is None:
            return False
        wall, monotonic = found
        return self._wall() < wall + (self._monotonic() - monotonic) + _STEP_S

    def _ticking_floor_s(self) -> float:
        floor, now, (before, since) = self.floor_s, self._monotonic(), self._floor
        ticking = before + (now - since)
        if floor <= ticking:
            return ticking
        self._floor = (floor, now)
        return floor


def describe(time_s: float) -> str:
    """Return a time for people: `2026-11-21 02:14 UTC`."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_s:.0f} s since 1970"
