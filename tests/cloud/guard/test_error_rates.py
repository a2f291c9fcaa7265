"""The gates err no more often than they say, by simulations with a fixed seed; `error_rates` prints larger ones."""

import random

from cloud.guard.policy import FailureGate
from cloud.guard.sequential import bad_that_stop, log_bound, rate_log_e
from tests.cloud.guard.error_rates import FIVE_DAYS, KINDS, alike, run, silent, unhealthy

SEED = 7
STATED = 0.01
"""The false_stop_permille of every gate, unless a policy says otherwise."""


def test_a_rate_that_is_tolerable_reaches_the_bound_as_seldom_as_stated() -> None:
    """The test by itself, at exactly the tolerable rate, looked at after every one of 2,000 devices."""
    chance, gate, runs = random.Random(SEED), FailureGate(), 1000
    bound = log_bound(gate.false_stop_permille)
    stops = {n: bad_that_stop(n, bound, gate.tolerable_permille, gate.intolerable_permille) for n in range(1, 2001)}
    false_stops = 0
    for _ in range(runs):
        bad = 0
        for devices in range(1, 2001):
            bad += chance.random() < 0.02
            if bad >= stops[devices]:
                false_stops += 1
                break
    assert false_stops <= runs * STATED * 1.5
    assert false_stops > 0  # the bound is no wall: it could have been crossed


def test_the_number_that_stops_is_the_first_over_the_bound() -> None:
    bound = log_bound(10)
    for devices in (1, 3, 10, 100, 1000):
        bad = bad_that_stop(devices, bound, 20, 200)
        assert rate_log_e(devices, bad, 20, 200) >= bound
        assert rate_log_e(devices, bad - 1, 20, 200) < bound


def test_good_releases_go_through_and_bad_ones_stop_in_the_first_phase() -> None:
    chance = random.Random(SEED)
    tolerable = [run(chance, 400, lambda _: 0.02) for _ in range(40)]
    assert sum(it.completed for it in tolerable) >= 39
    for rate in (0.5, 1.0):
        bad = [run(chance, 400, lambda _: rate) for _ in range(20)]  # noqa: B023
        assert all(it.stopped for it in bad)
        assert all(it.began == 20 for it in bad)  # 5 % of 400, and nobody outside


def test_of_four_kinds_of_devices_the_one_that_fails_is_stopped_alone() -> None:
    chance = random.Random(SEED)
    courses = [run(chance, 1000, lambda kind: 0.6 if kind == KINDS[0] else 0.0) for _ in range(20)]
    assert sum(it.strata == (KINDS[0],) and it.completed for it in courses) >= 18
    assert all(set(it.strata) <= {KINDS[0]} for it in courses)


def test_silence_that_both_sides_share_stops_nothing_and_that_of_one_side_does() -> None:
    chance, runs = random.Random(SEED), 60
    assert sum(silent(chance, 200, 1.0, nights=True) is not None for _ in range(runs)) <= 2
    assert all(silent(chance, 500, 10.0, nights=False) is not None for _ in range(20))
    late = [silent(chance, 500, 10.0, nights=True, begins=FIVE_DAYS) for _ in range(20)]
    assert all(look is not None and look > FIVE_DAYS for look in late)  # five nights are no credit


def test_health_within_what_is_tolerable_stops_nothing() -> None:
    chance, runs = random.Random(SEED), 150
    assert sum(unhealthy(chance, 100, 0.02) for _ in range(runs)) <= 4
    assert sum(unhealthy(chance, 100, 0.3) for _ in range(50)) >= 49


def test_health_that_is_as_bad_on_old_and_new_stops_nothing_down_to_the_last_device() -> None:
    chance, runs = random.Random(SEED), 200
    for devices, share in ((10, 0.1), (10, 0.3), (10, 0.7), (60, 0.3)):
        assert sum(alike(chance, devices, share) for _ in range(runs)) <= runs * STATED * 1.5, (devices, share)
