"""Ramps and windows, as functions of time: checked against arithmetic of the test's own, and over random values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.errors import MessageError
from protocol.schedule import PLACES, Openness, Ramp, Stratum, Terms, Window, openness, zone_of

NIGHT = Window(start_minute=23 * 60, duration_minutes=180)  # 23:00 to 02:00
EARLY = Window(start_minute=2 * 60, duration_minutes=120)  # 02:00 to 04:00
HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def at(text: str, zone: str = "UTC") -> int:
    """Milliseconds since 1970 of a time on the wall of a zone."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def opens(window: Window, text: str, zone: str = "UTC") -> Openness:
    return openness((window,), zone, at(text, zone))


# Ramps.


@st.composite
def ramps(draw: st.DrawFn) -> tuple[Ramp, int]:
    percentage = draw(st.integers(0, 100))
    starts = draw(st.integers(0, 2**42))
    ramp = Ramp(
        from_percentage=draw(st.integers(0, percentage)),
        starts_at_ms=starts,
        ends_at_ms=starts + draw(st.one_of(st.integers(1, 50), st.integers(1, 2**36))),
    )
    return ramp, percentage


@given(ramps(), st.integers(0, PLACES - 1))
def test_covers_at_is_exactly_the_first_covered_time(ramp_to: tuple[Ramp, int], place: int) -> None:
    ramp, percentage = ramp_to
    first_ms = ramp.covers_at_ms(percentage, place)
    if first_ms is None:
        assert place >= ramp.covered(percentage, ramp.ends_at_ms)
        return
    assert place < ramp.covered(percentage, first_ms)
    if place >= ramp.covered(percentage, 0):  # not from the beginning of time
        assert place >= ramp.covered(percentage, first_ms - 1)


@given(ramps(), st.integers(0, 2**43), st.integers(0, 2**43))
def test_coverage_only_grows_and_stays_within_its_ends(ramp_to: tuple[Ramp, int], one: int, other: int) -> None:
    ramp, percentage = ramp_to
    earlier, later = sorted((one, other))
    assert ramp.covered(percentage, earlier) <= ramp.covered(percentage, later)
    assert ramp.from_percentage * 10_000 <= ramp.covered(percentage, earlier) <= percentage * 10_000
    assert ramp.covered(percentage, ramp.ends_at_ms) == percentage * 10_000


def test_a_ramp_in_numbers() -> None:
    ramp = Ramp(from_percentage=10, starts_at_ms=1000, ends_at_ms=2000)
    assert [ramp.covered(60, now_ms) for now_ms in (0, 1000, 1500, 2000, 9000)] == [
        100_000,
        100_000,
        350_000,
        600_000,
        600_000,
    ]
    assert [ramp.covers_at_ms(60, place) for place in (99_999, 100_000, 349_999, 599_999, 600_000)] == [
        1000,
        1001,
        1500,
        2000,
        None,
    ]


def test_a_ramp_ends_after_it_starts() -> None:
    with pytest.raises(MessageError, match="ends_at_ms"):
        Ramp(from_percentage=0, starts_at_ms=5, ends_at_ms=5)


# Windows.


@pytest.mark.parametrize(
    ("window", "when", "is_open", "changes"),
    [
        (EARLY, "2026-03-10T01:59:59", False, "2026-03-10T02:00"),
        (EARLY, "2026-03-10T02:00:00", True, "2026-03-10T04:00"),
        (EARLY, "2026-03-10T04:00:00", False, "2026-03-11T02:00"),
        (NIGHT, "2026-03-10T22:59:59", False, "2026-03-10T23:00"),
        (NIGHT, "2026-03-10T23:00:00", True, "2026-03-11T02:00"),
        (NIGHT, "2026-03-11T01:59:59", True, "2026-03-11T02:00"),
        (NIGHT, "2026-03-11T02:00:00", False, "2026-03-11T23:00"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_a_window_opens_and_closes_by_the_wall(
    window: Window, when: str, *, is_open: bool, changes: str, zone: str
) -> None:
    assert opens(window, when, zone) == Openness(is_open, at(changes, zone))


def test_a_window_of_some_days_belongs_to_the_day_on_which_it_opens() -> None:
    friday_night = Window(start_minute=23 * 60, duration_minutes=180, days=(4,))  # 2026-03-13 is a Friday
    assert opens(friday_night, "2026-03-13T22:00") == Openness(False, at("2026-03-13T23:00"))
    assert opens(friday_night, "2026-03-14T01:00") == Openness(True, at("2026-03-14T02:00"))
    assert opens(friday_night, "2026-03-13T01:00") == Openness(False, at("2026-03-13T23:00"))
    assert opens(friday_night, "2026-03-14T02:00") == Openness(False, at("2026-03-20T23:00"))


def test_windows_that_touch_or_overlap_are_one() -> None:
    evening = Window(start_minute=20 * 60, duration_minutes=180)
    now_ms = at("2026-03-10T20:00")
    assert openness((NIGHT, evening, EARLY), "UTC", now_ms).changes_at_ms == at("2026-03-11T04:00")
    assert openness((EARLY,), "UTC", now_ms) == Openness(False, at("2026-03-11T02:00"))


def test_without_windows_it_is_always_open() -> None:
    assert openness((), "UTC", 0) == Openness(True, None)


@pytest.mark.parametrize("zone", ["", "UTC", "Etc/UTC", "Not/A_Zone", "../etc/passwd", "Europe"])
def test_a_zone_that_is_not_known_is_utc(zone: str) -> None:
    assert zone_of(zone) is UTC
    assert openness((EARLY,), zone, at("2026-03-10T03:00")).is_open


# Clocks are put forward (2026-03-29, from 02:00 to 03:00) and back (2026-10-25, from 03:00 to 02:00) in Berlin.


def test_a_window_in_the_hour_that_is_left_out_is_as_long_on_the_wall() -> None:
    assert not opens(EARLY, "2026-03-29T01:30", "Europe/Berlin").is_open
    found = openness((EARLY,), "Europe/Berlin", at("2026-03-29T03:30", "Europe/Berlin"))
    assert found == Openness(True, at("2026-03-29T04:00", "Europe/Berlin"))
    assert found.changes_at_ms == at("2026-03-29T02:00", "UTC"), "four o'clock is two o'clock UTC by then"


def test_a_night_in_which_clocks_are_put_forward_is_an_hour_shorter() -> None:
    begins, ends = at("2026-03-28T23:00", "Europe/Berlin"), at("2026-03-29T04:00", "Europe/Berlin")
    night = Window(start_minute=23 * 60, duration_minutes=300)
    assert ends - begins == 4 * HOUR_MS
    assert openness((night,), "Europe/Berlin", begins) == Openness(True, ends)
    assert not openness((night,), "Europe/Berlin", begins - 1).is_open
    assert not openness((night,), "Europe/Berlin", ends).is_open


def test_a_night_in_which_clocks_are_put_back_is_an_hour_longer() -> None:
    begins, ends = at("2026-10-24T23:00", "Europe/Berlin"), at("2026-10-25T04:00", "Europe/Berlin")
    night = Window(start_minute=23 * 60, duration_minutes=300)
    assert ends - begins == 6 * HOUR_MS
    for minutes in range(0, 6 * 60, 10):
        assert openness((night,), "Europe/Berlin", begins + minutes * MINUTE_MS) == Openness(True, ends)
    assert not openness((night,), "Europe/Berlin", ends).is_open


def test_the_hour_that_comes_twice_is_in_the_window_both_times() -> None:
    first = at("2026-10-25T00:30", "UTC")  # half past two, for the first time
    assert [openness((EARLY,), "Europe/Berlin", first + hours * HOUR_MS).is_open for hours in range(4)] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("window", "day", "opens_for"),
    [
        ("02:15-02:45", "2026-03-29", ("03:15+02:00", "03:45+02:00")),
        ("02:30-04:00", "2026-03-29", ("03:30+02:00", "04:00+02:00")),
        ("01:45-02:15", "2026-03-29", ("01:45+01:00", "03:15+02:00")),
        ("02:00-03:00", "2026-03-29", None),
        ("02:45-03:15", "2026-03-29", None),
        ("02:15-02:45", "2026-10-25", ("02:15+02:00", "02:45+02:00")),
        ("02:00-03:00", "2026-10-25", ("02:00+02:00", "03:00+01:00")),
        ("02:45-03:15", "2026-10-25", ("02:45+02:00", "03:15+01:00")),
    ],
)
def test_what_a_window_is_on_the_day_on_which_clocks_change(
    window: str, day: str, opens_for: tuple[str, str] | None
) -> None:
    begins, ends = (int(it[:2]) * 60 + int(it[3:]) for it in window.split("-"))
    windows = (Window(start_minute=begins, duration_minutes=ends - begins),)
    midnight = at(f"{day}T00:00", "Europe/Berlin")
    opened = openness(windows, "Europe/Berlin", midnight).changes_at_ms
    assert opened is not None
    if opens_for is None:
        tomorrow = datetime.fromisoformat(day) + timedelta(days=1)
        assert opened == at(f"{tomorrow:%Y-%m-%d}T{window[:5]}", "Europe/Berlin")
        return
    first, last = (round(datetime.fromisoformat(f"{day}T{it}").timestamp() * 1000) for it in opens_for)
    assert opened == first
    assert openness(windows, "Europe/Berlin", first) == Openness(True, last)


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata")
WINDOWS = st.builds(
    Window,
    start_minute=st.integers(0, 1439),
    duration_minutes=st.integers(1, 1440),
    days=st.sets(st.integers(0, 6), max_size=3).map(lambda days: tuple(sorted(days))),
)


@given(
    st.lists(WINDOWS, min_size=1, max_size=4).map(tuple),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - in UTC
)
def test_nothing_changes_before_it_is_said_to_and_then_it_does(
    windows: tuple[Window, ...], zone: str, when: datetime
) -> None:
    now_ms = round(when.replace(tzinfo=UTC).timestamp() * 1000)
    found = openness(windows, zone, now_ms)
    assume(found.changes_at_ms is not None)
    changes_ms = found.changes_at_ms or 0
    assert changes_ms > now_ms
    assert openness(windows, zone, changes_ms - 1).is_open is found.is_open
    if changes_ms - now_ms < 7 * 24 * HOUR_MS:  # windows without a gap are looked at for so far
        assert openness(windows, zone, changes_ms).is_open is not found.is_open
    midway = now_ms + (changes_ms - now_ms) // 2
    assert openness(windows, zone, midway).is_open is found.is_open


@given(st.lists(WINDOWS, min_size=1, max_size=3).map(tuple), st.datetimes(datetime(2025, 1, 8), datetime(2026, 1, 1)))  # noqa: DTZ001
def test_in_a_zone_without_changes_it_is_what_a_calendar_says(windows: tuple[Window, ...], when: datetime) -> None:
    now_ms = round(when.replace(tzinfo=UTC).timestamp() * 1000)
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    inside = False
    for window in windows:
        for day in (moment.date(), moment.date() - timedelta(days=1)):
            begins = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=window.start_minute)
            lasts = timedelta(minutes=window.duration_minutes)
            inside |= (not window.days or day.weekday() in window.days) and begins <= moment < begins + lasts
    assert openness(windows, "UTC", now_ms).is_open is inside


# Strata and terms.


def test_a_stratum_contains_who_is_alike() -> None:
    old_pi4 = Stratum(hardware_model="pi4", from_version="1.0.0")
    assert old_pi4.contains("pi4", "1.0.0")
    assert not old_pi4.contains("pi5", "1.0.0")
    assert not old_pi4.contains("pi4", "1.1.0")
    assert not old_pi4.contains("pi4", None)
    assert Stratum(from_version="1.0.0").contains("any-model", "1.0.0")
    assert Stratum().contains("pi4", None)
    assert [
        str(item) for item in (old_pi4, Stratum(from_version="1.0.0"), Stratum(hardware_model="pi4"), Stratum())
    ] == [
        "pi4 on 1.0.0",
        "devices on 1.0.0",
        "pi4",
        "every device",
    ]


def test_who_may_decline_is_asked() -> None:
    with pytest.raises(MessageError, match="optional without attention"):
        Terms(optional=True)
    assert Terms(attention=True, optional=True).for_all
