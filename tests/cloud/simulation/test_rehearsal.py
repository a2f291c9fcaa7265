"""A rehearsal's answers against arithmetic: what a plan breaks, when it stops, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cloud.guard.policy import FailureGate, Gates, HealthGate, Phase, Policy, Response, SilenceGate
from cloud.simulation import many
from cloud.simulation.availability import ALWAYS, DAILY, Availability, parse_availability
from cloud.simulation.cohorts import Conduct
from cloud.simulation.fleets import Fleet, make_fleet
from cloud.simulation.rehearsal import START_MS, Script, rehearse
from cloud.simulation.results import Run
from cloud.simulation.troubles import Troubles
from protocol.schedule import Stratum, Terms, Window

HOUR_S = 3600
DAY_S = 86_400
TICK_S = 30.0
WORK_S = 300.0
PROOF_S = 60.0
LATEST_S = WORK_S * 1.5 + PROOF_S + 3 * TICK_S
"""When whoever is always there has told how it went, counted from when it was covered."""
UNWATCHED = Gates(failures=FailureGate(tolerable_permille=997, intolerable_permille=998), silence=None)
"""Gates that never stop."""


def fleet_of(devices: int, **shares: dict[str, float]) -> Fleet:
    said = {"hardware": {"pi4": 1.0}, "versions": {"1.0.0": 1.0}, "groups": {}} | shares
    return make_fleet(devices, **said)


def conduct(availability: Availability = ALWAYS, **changes: float) -> Conduct:
    usual = {"never": 0.0, "work_s": WORK_S, "proof_s": PROOF_S, "fails_after_s": 0.0, "silent": 0.0, "tick_s": TICK_S}
    return Conduct(availability=availability, **(usual | changes))


def script(devices: int = 20_000, *phases: Phase, gates: Gates = UNWATCHED, **changes: object) -> Script:
    made = Script(
        fleet=fleet_of(devices),
        conduct=conduct(),
        troubles=Troubles(),
        policy=Policy(phases=phases or (Phase(percentage=100),), gates=gates),
        until_s=60 * DAY_S,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def within(seen: float, trials: int, share: float, sigmas: float = 5) -> bool:
    return abs(seen - trials * share) <= sigmas * math.sqrt(trials * share * (1 - share))


@pytest.mark.parametrize("fails", [0.01, 0.15, 0.5])
@pytest.mark.parametrize("percentage", [5, 20])
def test_a_canary_phase_breaks_its_share_times_the_chance(fails: float, percentage: int) -> None:
    phases = (Phase(percentage=percentage, soak_s=HOUR_S), Phase(percentage=100, soak_s=HOUR_S))

    run = rehearse(script(20_000, *phases, troubles=Troubles(fails=fails)), seed=3)

    canary = run.at(HOUR_S - 1)
    assert within(canary.covered, 20_000, percentage / 100)
    assert within(canary.failed, 20_000, percentage / 100 * fails)
    assert canary.failed + canary.running == canary.covered
    assert within(run.broken, 20_000, fails)


def test_a_linear_ramp_covers_its_share_of_the_time_and_ends_when_it_says() -> None:
    run = rehearse(script(10_000, Phase(percentage=100, ramp_s=10 * HOUR_S, soak_s=0)), seed=5)

    for hour in range(1, 10):
        assert within(run.at(hour * HOUR_S).covered, 10_000, hour / 10)
    assert run.at(10 * HOUR_S - 60).covered < 10_000
    assert run.at(10 * HOUR_S + TICK_S).covered == 10_000
    reached_s = run.reached_s(100)
    assert reached_s is not None
    assert 10 * HOUR_S <= reached_s <= 10 * HOUR_S + LATEST_S


def test_a_pace_is_kept() -> None:
    plan = Policy(phases=(Phase(percentage=100),), pace_per_hour=500, gates=UNWATCHED)

    run = rehearse(script(5000, policy=plan), seed=2)

    for hour in range(9):
        gained = run.at((hour + 1) * HOUR_S).covered - run.at(hour * HOUR_S).covered
        assert within(gained, 5000, 0.1)
    assert run.reached_s(100) == pytest.approx(10 * HOUR_S, abs=LATEST_S)


@pytest.mark.parametrize("most", [0, 3, 20])
def test_a_cap_stops_at_one_more_and_whoever_has_restarted_by_then(most: int) -> None:
    gates = Gates(failures=replace(UNWATCHED.failures, max_failures=most), silence=None)
    ramp = Phase(percentage=100, ramp_s=100 * HOUR_S)

    for seed in range(5):
        run = rehearse(script(10_000, ramp, gates=gates, troubles=Troubles(fails=0.2)), seed)

        # 100 devices an hour: in the half minute of a look one or two fail at the same time, and while one proves
        # itself (a minute) two others have restarted.
        assert run.ended == "paused"
        assert most + 1 <= run.broken_at_end <= most + 5
        assert run.broken_at_end <= run.broken <= run.broken_at_end + 10


def test_who_has_not_restarted_when_it_stops_lets_it_be() -> None:
    gates = Gates(failures=replace(UNWATCHED.failures, max_failures=0), silence=None)

    run = rehearse(script(10_000, gates=gates, troubles=Troubles(fails=0.5)), seed=1)

    # Work takes 150 to 450 s, evenly; the first failure is known after 150 + 60 s and a tick or two.
    assert run.ended_at_s is not None
    assert 210 <= run.ended_at_s <= 270
    restarted = (run.ended_at_s - 150) / 300
    assert run.broken + run.last.running == pytest.approx(10_000 * restarted, rel=0.2)
    assert run.broken > run.broken_at_end > 0


def test_a_gate_that_rolls_back_says_so() -> None:
    gates = Gates(failures=replace(UNWATCHED.failures, max_failures=2, then=Response.ROLL_BACK), silence=None)

    run = rehearse(script(5000, gates=gates, troubles=Troubles(fails=0.5)), seed=1)

    assert (run.ended, run.stopped) == ("rolled_back", True)
    assert "rolled back by its gate on failures" in run.happenings[-1].sentence


def test_a_good_release_takes_the_soaks_and_the_work_and_no_longer() -> None:
    phases = (Phase(percentage=10, soak_s=HOUR_S), Phase(percentage=50, soak_s=HOUR_S), Phase(percentage=100))

    run = rehearse(script(5000, *phases, gates=Gates()), seed=9)

    assert (run.ended, run.broken) == ("completed", 0)
    reached_s = run.reached_s(100)
    assert reached_s is not None
    assert 2 * HOUR_S <= reached_s <= 2 * HOUR_S + 3 * LATEST_S


def test_a_release_that_fails_on_one_model_is_stopped_for_it_alone() -> None:
    fleet = fleet_of(4000, hardware={"pi3": 0.25, "pi4": 0.75})
    troubles = Troubles(fails_of={Stratum(hardware_model="pi3"): 0.9})

    plan = (Phase(percentage=20, soak_s=HOUR_S), Phase(percentage=100))
    run = rehearse(script(4000, *plan, gates=Gates(), fleet=fleet, troubles=troubles), seed=4)

    assert run.stopped_for == ("pi3 on 1.0.0",)
    assert run.ended == "completed"
    assert run.last.running >= 3000
    assert run.broken <= 250


def test_who_goes_quiet_is_held_against_the_others_and_a_night_is_not() -> None:
    gates = Gates(silence=SilenceGate(quiet_after_s=HOUR_S))
    phases = (Phase(percentage=30, soak_s=3 * HOUR_S), Phase(percentage=100, soak_s=DAY_S))

    deadly = conduct(DAILY, silent=0.3)
    bad = [rehearse(script(3000, *phases, gates=gates, conduct=deadly), seed) for seed in range(5)]
    good = [rehearse(script(3000, *phases, gates=gates, conduct=conduct(DAILY)), seed) for seed in range(20)]

    assert [run.ended for run in bad] == ["paused"] * 5
    assert all("silence" in run.happenings[-1].sentence and run.last.covered < 1500 for run in bad)
    # Each has a chance of a false stop of 1 % at most: of 20, more than two are one in a thousand.
    assert sum(run.ended == "paused" for run in good) <= 2


@pytest.mark.parametrize(("soak_s", "stops_at_s"), [(60, 1.5 * WORK_S + HOUR_S), (3 * HOUR_S, 3 * HOUR_S)])
def test_silence_of_all_stops_it_when_the_last_has_been_quiet_and_the_soak_is_over(
    soak_s: int, stops_at_s: float
) -> None:
    """All are there and restart within one and a half times the work: quiet an hour after, and nobody to compare."""
    gates = Gates(silence=SilenceGate(quiet_after_s=HOUR_S))
    plan = script(2000, Phase(percentage=100, soak_s=soak_s), gates=gates, conduct=conduct(silent=1.0))

    run = rehearse(plan, seed=1)

    assert (run.ended, run.broken, run.last.running) == ("paused", 2000, 0)
    stop = run.happenings[-1]
    assert stop.sentence.count("all 2000 devices that restarted into it in this phase were not heard of since") == 1
    assert stops_at_s - 2 * TICK_S <= stop.at_s <= stops_at_s + 20 * TICK_S


def test_silence_of_all_who_took_it_is_held_against_whoever_is_beside_them() -> None:
    """A tenth takes it and falls silent; the others are there, so the gate compares, and stops it at a tenth."""
    gates = Gates(silence=SilenceGate(quiet_after_s=HOUR_S))
    phases = (Phase(percentage=10, soak_s=60), Phase(percentage=100, soak_s=60))

    run = rehearse(script(2000, *phases, gates=gates, conduct=conduct(silent=1.0)), seed=1)

    assert run.ended == "paused"
    assert "nobody else is there" not in run.happenings[-1].sentence
    assert within(run.broken, 2000, 0.1)


def test_who_crashes_after_it_kept_the_release_is_seen_by_the_gate_on_crashes() -> None:
    gates = Gates(silence=None, health=(HealthGate(at_most=3),))
    late = script(
        5000,
        Phase(percentage=10, soak_s=6 * HOUR_S),
        Phase(percentage=100, soak_s=HOUR_S),
        gates=gates,
        troubles=Troubles(fails=0.5),
        conduct=conduct(fails_after_s=2 * HOUR_S),
    )

    run = rehearse(late, seed=1)

    assert run.ended == "paused"
    assert run.last.covered < 700
    assert within(run.broken, 500, 0.5, sigmas=8)
    assert "crashes above 3" in run.happenings[-1].sentence


def test_daily_devices_take_a_day_and_those_that_never_come_are_never_reached() -> None:
    run = rehearse(script(5000, conduct=conduct(DAILY, never=0.02)), seed=1)

    half_s, most_s = run.reached_s(50), run.reached_s(90)
    assert half_s is not None
    assert most_s is not None
    # A third is there at once, and one in 24 of the others comes with each hour that passes.
    assert half_s == pytest.approx((0.5 / 0.98 - 1 / 3) * DAY_S, rel=0.1)
    assert most_s == pytest.approx((0.9 / 0.98 - 1 / 3) * DAY_S, rel=0.05)
    assert run.reached_s(100) is None
    assert within(run.last.running, 5000, 0.98)


def test_intermittent_devices_come_back_as_exponential_times_say() -> None:
    there = parse_availability("intermittent:10h/10h")
    run = rehearse(script(20_000, conduct=conduct(there, work_s=1.0)), seed=1)

    # Half are on; of the others 1 - exp(-t / 10 h) have come on by t.
    for hours in (2, 5, 10, 20):
        expected = 0.5 + 0.5 * (1 - math.exp(-hours / 10))
        assert run.at(hours * HOUR_S).running / 20_000 == pytest.approx(expected, abs=0.03)


def test_nobody_restarts_outside_the_windows() -> None:
    night = Terms(windows=(Window(start_minute=120, duration_minutes=60),))
    plan = Policy(phases=(Phase(percentage=100),), gates=UNWATCHED, terms=night)

    run = rehearse(script(500, policy=plan), seed=1)

    assert START_MS % (DAY_S * 1000) == 0
    assert run.at(2 * HOUR_S - 1).running == 0
    assert run.at(2 * HOUR_S + LATEST_S).running == 500


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    noisy = script(3000, Phase(percentage=50, soak_s=HOUR_S), Phase(percentage=100), troubles=Troubles(fails=0.1))

    assert rehearse(noisy, seed=1) == rehearse(noisy, seed=1)
    assert rehearse(noisy, seed=1).samples != rehearse(noisy, seed=2).samples


def test_runs_in_processes_of_their_own_are_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = script(1000, troubles=Troubles(fails=0.1))
    heard: list[int] = []
    alone = tuple(rehearse(noisy, seed) for seed in (4, 5, 6))
    monkeypatch.setattr(many, "WORTH_PROCESSES", 0)

    assert many.rehearse_all(noisy, 4, 3, heard.append) == alone
    assert heard == [1, 1, 1]


def test_the_default_gates_stop_a_bad_release_in_its_canary_phase_and_hardly_ever_a_good_one() -> None:
    phases = (Phase(percentage=10, soak_s=HOUR_S), Phase(percentage=100, soak_s=HOUR_S))

    def ends(fails: float) -> list[Run]:
        tried = script(2000, *phases, gates=Gates(), troubles=Troubles(fails=fails))
        return [rehearse(tried, seed) for seed in range(40)]

    bad, good = ends(0.3), ends(0.01)
    assert all(run.ended == "paused" and run.last.covered <= 260 for run in bad)
    assert sum(run.stopped for run in good) <= 3
