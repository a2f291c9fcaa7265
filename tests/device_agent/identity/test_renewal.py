"""When a device tries again, with time and chance as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.identity.renewal import (
    PAUSES,
    again_s,
    certificate_due_s,
    lot,
    next_authorities_s,
    next_certificate_s,
)
from device_agent.identity.store import Tries

DAY_S = 86_400.0
BEGIN_S = 1_800_000_000.0
END_S = BEGIN_S + 90 * DAY_S


@pytest.mark.parametrize(("place", "day"), [(0.0, 60), (1.0, 61)])
def test_a_certificate_of_90_days_is_renewed_from_day_60_on(place: float, day: int) -> None:
    assert certificate_due_s(BEGIN_S, END_S, place) == pytest.approx(BEGIN_S + day * DAY_S)


def _next(tries: Tries, now_s: float, chance: float = 1.0) -> float:
    return next_certificate_s(BEGIN_S, END_S, tries, now_s, place=0.0, chance=chance)


def test_it_is_not_asked_for_earlier_and_at_once_when_it_is_late() -> None:
    assert _next(Tries(), BEGIN_S) == BEGIN_S + 60 * DAY_S
    late = BEGIN_S + 80 * DAY_S
    assert _next(Tries(), late) <= late
    assert _next(Tries(), END_S + 30 * DAY_S) <= END_S + 30 * DAY_S


def test_after_each_failure_it_waits_longer_up_to_six_hours() -> None:
    now = BEGIN_S + 70 * DAY_S
    pauses = [_next(Tries(failures=count, tried_at_s=int(now)), now) - now for count in range(1, 14)]
    assert pauses[:4] == [60.0, 120.0, 240.0, 480.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 6 * 3600.0
    by_chance = [_next(Tries(failures=9, tried_at_s=int(now)), now, chance) - now for chance in (0.0, 0.5, 1.0)]
    assert by_chance == [7680.0, 11520.0, 15360.0]


@given(
    st.integers(0, 1000), st.integers(0, 2**40), st.floats(0, 2**40), st.floats(0, 1, exclude_max=True), st.floats(0, 1)
)
def test_whatever_the_clock_says_no_pause_is_longer_than_the_longest(
    failures: int, tried_at_s: int, now_s: float, chance: float, place: float
) -> None:
    tries = Tries(failures=failures, tried_at_s=tried_at_s, done_at_s=tried_at_s)
    assert again_s(tries, now_s, chance) <= now_s + PAUSES.longest_s
    assert next_authorities_s(tries, now_s, place=place, chance=chance) <= now_s + 1.1 * DAY_S + PAUSES.longest_s


def test_a_clock_that_was_ahead_when_it_tried_costs_no_years() -> None:
    now = BEGIN_S + 65 * DAY_S
    tries = Tries(failures=30, tried_at_s=int(now + 3653 * DAY_S))
    assert _next(tries, now) == now + 6 * 3600.0


def test_the_authorities_are_asked_for_at_first_and_then_once_a_day() -> None:
    now = BEGIN_S
    assert next_authorities_s(Tries(), now, place=0.5, chance=0.5) == now
    done = Tries(tried_at_s=int(now), done_at_s=int(now))
    assert next_authorities_s(done, now, place=0.5, chance=0.5) == pytest.approx(now + DAY_S)
    failed = Tries(failures=1, tried_at_s=int(now + 2 * DAY_S), done_at_s=int(now))
    assert next_authorities_s(failed, now + 2 * DAY_S, place=0.5, chance=1.0) == now + 2 * DAY_S + 60.0


def test_devices_have_different_places_that_stay() -> None:
    places = {lot(f"pi-{number}") for number in range(1000)}
    assert len(places) == 1000
    assert all(0.0 <= place < 1.0 for place in places)
    assert 0.45 < sum(places) / 1000 < 0.55
    assert lot("pi-1") == lot("pi-1")
