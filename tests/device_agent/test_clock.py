"""What a device knows of the time, with time as data."""

from __future__ import annotations

from dataclasses import dataclass

from device_agent.clock import RELEASED_S, DeviceClock, describe

DAY_S = 86_400.0
LATER_S = RELEASED_S + 30 * DAY_S


@dataclass
class Hands:
    """The clocks of a device: the one on the wall, the one that only goes forward, and the floor."""

    wall: float = LATER_S
    monotonic: float = 5.0
    floor: float = 0.0

    def clock(self) -> DeviceClock:
        return DeviceClock(lambda: self.floor, wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_a_clock_after_the_floor_is_believed() -> None:
    hands = Hands(floor=LATER_S - DAY_S)
    clock = hands.clock()
    assert (clock.now(), clock.is_behind) == (LATER_S, False)


def test_in_1970_it_is_at_least_the_day_of_the_release_and_time_passes() -> None:
    hands = Hands(wall=12.0)
    clock = hands.clock()
    assert (clock.now(), clock.is_behind) == (RELEASED_S, True)
    hands.pass_(100.0)
    assert (clock.now(), clock.is_behind) == (RELEASED_S + 100.0, True)
    hands.floor = LATER_S
    assert clock.now() == LATER_S
    hands.pass_(10.0)
    assert clock.now() == LATER_S + 10.0
    hands.wall = LATER_S + 1.0
    assert (clock.now(), clock.is_behind) == (LATER_S + 10.0, False)


def test_a_clock_that_jumps_back_does_not_bring_a_younger_floor_with_it() -> None:
    hands = Hands(floor=LATER_S)
    clock = hands.clock()
    assert clock.now() == LATER_S
    hands.floor = 0.0
    hands.wall = 0.0
    assert clock.now() == LATER_S


def test_ten_years_ahead_raises_nothing() -> None:
    hands = Hands(wall=LATER_S + 3650 * DAY_S)
    clock = hands.clock()
    assert (clock.now(), clock.is_behind) == (hands.wall, False)
    hands.wall = LATER_S
    assert clock.now() == LATER_S


def test_a_clock_that_was_found_behind_is_so_until_it_is_set() -> None:
    hands = Hands()
    clock = hands.clock()
    clock.found_behind()
    hands.pass_(30 * DAY_S)
    assert clock.is_behind
    hands.wall += 300.0
    assert not clock.is_behind


def test_times_are_told_for_people() -> None:
    assert describe(0.0) == "1970-01-01 00:00 UTC"
    assert describe(1e30) == "1000000000000000019884624838656 s since 1970"
