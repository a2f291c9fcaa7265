"""The fleet over time: sampled when it changed, thinned as it grows old, told as series."""

import pytest

from cloud.store.errors import NotFoundError
from cloud.store.samples import DAY_MS, FINE_MS, HOUR_MS, HOURLY_MS, MAX_SERIES, HistorySeries, surplus_of
from cloud.store.store import Store
from tests.cloud.store.fleets import MODEL, PRODUCT, START_S, Clock, Device, join, release

MINUTE_S = 60
HOUR_S = 3600


def told(series: HistorySeries) -> list[tuple[int, int, int]]:
    """Points as (seconds since the start, devices, online)."""
    return [(it.at_ms // 1000 - int(START_S), it.devices, it.online) for it in series.points]


def test_a_sample_is_taken_when_something_changed(store: Store, clock: Clock) -> None:
    assert store.samples.take() == 0, "a product without devices"
    first, second = join(store, "pi-1", "pi-2")
    first.presence(online=True)
    second.presence(online=False)
    assert store.samples.take() == 1
    clock.pass_s(10 * MINUTE_S)
    assert store.samples.take() == 0
    second.presence(online=True)
    assert store.samples.take() == 1
    clock.pass_s(10 * MINUTE_S)
    first.take("1.1.0", release(store, "1.1.0").release_id)
    assert store.samples.take() == 1
    assert [told(it) for it in store.samples.history(PRODUCT)] == [[(0, 2, 1), (600, 2, 2), (1200, 2, 2)]]
    old, new = store.samples.history(PRODUCT, "app")
    assert (old.version, told(old)) == ("1.0.0", [(0, 2, 1), (600, 2, 2), (1200, 1, 1)])
    assert (new.version, told(new)) == ("1.1.0", [(1200, 1, 1)])


def test_a_fleet_that_stays_as_it_is_is_sampled_every_hour(store: Store, clock: Clock) -> None:
    join(store, "pi-1")
    assert store.samples.take() == 1
    clock.pass_s(HOUR_S - 1)
    assert store.samples.take() == 0
    clock.pass_s(1)
    assert [store.samples.take(), store.samples.take()] == [1, 0]


def test_a_version_that_nobody_runs_any_more_falls_to_nothing(store: Store, clock: Clock) -> None:
    (device,) = join(store, "pi-1")
    store.samples.take()
    clock.pass_s(HOUR_S)
    device.take("1.1.0", release(store, "1.1.0").release_id)
    store.samples.take()
    series = {it.version: told(it) for it in store.samples.history(PRODUCT, "app")}
    assert series["1.0.0"] == [(0, 1, 1), (HOUR_S, 0, 0)]


def test_what_is_old_is_thinned_and_what_is_kept_stays(store: Store, clock: Clock) -> None:
    (device,) = join(store, "pi-1")
    for turn in range(12):
        device.presence(online=turn % 2 == 0)
        store.samples.take()
        clock.pass_s(10 * MINUTE_S)
    assert store.samples.thin() == 0
    clock.pass_s(2 * 24 * HOUR_S)
    assert store.samples.thin() > 0
    kept = told(store.samples.history(PRODUCT)[0])
    hours = {(int(START_S) + at_s) // HOUR_S for at_s, _, _ in kept}
    assert len(kept) == len(hours)
    assert store.samples.thin() == 0
    versions = store.samples.history(PRODUCT, "app")[0]
    assert [it[0] for it in told(versions)] == [it[0] for it in kept], "whole samples go, not rows of them"
    clock.pass_s(60 * 24 * HOUR_S)
    store.samples.thin()
    days = [(int(START_S) + at_s) // (24 * HOUR_S) for at_s, _, _ in told(store.samples.history(PRODUCT)[0])]
    assert days == sorted(set(days))
    assert len(days) < len(kept)


def test_the_last_of_each_hour_then_of_each_day_is_kept_however_often_it_is_thinned() -> None:
    now_ms = 100 * DAY_MS
    times = list(range(0, now_ms, 10 * 60_000))
    once = sorted(set(times) - set(surplus_of(times, now_ms)))
    assert not surplus_of(once, now_ms)
    fine = [it for it in once if it >= now_ms - FINE_MS]
    hourly = [it for it in once if now_ms - HOURLY_MS <= it < now_ms - FINE_MS]
    daily = [it for it in once if it < now_ms - HOURLY_MS]
    assert (len(fine), len(hourly), len(daily)) == (2 * 144, 58 * 24, 40)
    assert {it % HOUR_MS for it in hourly} == {50 * 60_000}
    assert {it % DAY_MS for it in daily} == {DAY_MS - 10 * 60_000}
    # Thinned as time goes by, the same is kept.
    there: set[int] = set()
    for day in range(101):
        there |= {it for it in times if it < day * DAY_MS and it >= (day - 1) * DAY_MS}
        there -= set(surplus_of(there, day * DAY_MS))
    assert sorted(there) == once


def test_a_history_is_of_a_product_since_a_time_and_of_so_many_points(store: Store, clock: Clock) -> None:
    with pytest.raises(NotFoundError):
        store.samples.history("toaster")
    assert store.samples.history(PRODUCT, "app") == ()
    for number in range(40):
        join(store, f"pi-{number:02}")
        store.samples.take()
        clock.pass_s(10 * MINUTE_S)
    (whole,) = store.samples.history(PRODUCT, "app")
    assert len(whole.points) == 40
    (few,) = store.samples.history(PRODUCT, "app", points=7)
    assert len(few.points) <= 7
    assert few.points[-1] == whole.points[-1]
    since_ms = whole.points[30].at_ms
    (late,) = store.samples.history(PRODUCT, "app", since_ms=since_ms)
    assert late.points == whole.points[30:]


def test_of_many_versions_those_that_few_devices_ran_are_told_together(store: Store, clock: Clock) -> None:
    for number in range(MAX_SERIES + 3):
        version = f"2.{number}.0"
        for copy in range(2 if number < 4 else 1):
            Device(store, f"pi-{number}-{copy}", {"app": version}, model=MODEL).hello()
    store.samples.take()
    series = store.samples.history(PRODUCT, "app")
    assert len(series) == MAX_SERIES
    assert [it.version for it in series[:4]] == ["2.0.0", "2.1.0", "2.2.0", "2.3.0"]
    assert series[-1].others
    assert not any(it.others for it in series[:-1])
    assert sum(it.points[0].devices for it in series) == MAX_SERIES + 3 + 4


def test_products_are_sampled_apart(store: Store, clock: Clock) -> None:
    store.catalog.create_product("pump", hardware_models=[MODEL], by="ann")
    join(store, "pi-1")
    Device(store, "pump-1", product="pump", model=MODEL).hello()
    assert store.samples.take() == 2
    clock.pass_s(10 * MINUTE_S)
    Device(store, "pump-2", product="pump", model=MODEL).hello()
    assert store.samples.take() == 1
    assert [told(it) for it in store.samples.history("pump")] == [[(0, 1, 1), (600, 2, 2)]]
