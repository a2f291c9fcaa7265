"""The parts of a rehearsal: fleets, draws, durations, spreads, pictures."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from random import Random

import pytest

from cloud.simulation.availability import Availability, parse_availability
from cloud.simulation.chances import binomial
from cloud.simulation.drawing import COVERAGE, draw
from cloud.simulation.durations import parse_duration, parse_share, spoken
from cloud.simulation.fleets import make_fleet
from cloud.simulation.results import Run, Sample, Spread, reached
from cloud.simulation.terminal import plot
from cloud.simulation.troubles import Troubles, check_strata, parse_fails
from protocol.errors import UserError
from protocol.identity import place
from protocol.schedule import Stratum


def run_of(*running: int, devices: int = 100, seed: int = 1) -> Run:
    samples = tuple(Sample(60.0 * index, count, count, 0, 0) for index, count in enumerate(running))
    return Run(
        seed=seed,
        devices=devices,
        ended="completed",
        ended_at_s=60.0,
        broken_at_end=0,
        stopped_for=(),
        samples=samples,
        happenings=(),
    )


def test_a_fleet_has_as_many_devices_as_it_says_and_their_own_places() -> None:
    fleet = make_fleet(
        1003, hardware={"pi3": 0.3, "pi4": 0.5}, versions={"1.0.0": 0.9, "1.1.0": 0.1}, groups={"a": 0.1}
    )

    assert fleet.devices == 1003
    assert sum(count for kind, count in fleet.counts.items() if kind.hardware_model == "pi4") == pytest.approx(
        702, abs=2
    )
    places = [it for kind in fleet.counts for it in fleet.places(kind, "rel-1")]
    assert sorted(places) == sorted(place(f"device-{number:07}", "rel-1") for number in range(1003))


@pytest.mark.parametrize(
    "shares", [{"hardware": {"pi3": 0.7, "pi4": 0.7}}, {"groups": {"everyone": 0.5}}, {"hardware": {"Pi 3": 1.0}}]
)
def test_a_fleet_that_cannot_be_is_refused(shares: dict[str, dict[str, float]]) -> None:
    said = {"hardware": {"pi4": 1.0}, "versions": {"1.0.0": 1.0}, "groups": {}} | shares
    with pytest.raises(Exception, match=r"at most 100%|has no share|is not an id"):
        make_fleet(10, **said)


@pytest.mark.parametrize(("trials", "share"), [(20, 0.1), (1000, 0.02), (100_000, 0.4), (500, 0.9)])
def test_binomial_draws_have_the_mean_and_spread_that_they_should(trials: int, share: float) -> None:
    chance = Random(1)
    drawn = [binomial(trials, share, chance) for _ in range(2000)]

    mean = sum(drawn) / len(drawn)
    variance = sum((it - mean) ** 2 for it in drawn) / len(drawn)
    assert mean == pytest.approx(trials * share, abs=5 * math.sqrt(trials * share * (1 - share) / 2000))
    assert variance == pytest.approx(trials * share * (1 - share), rel=0.2)
    assert (binomial(10, 0.0, chance), binomial(10, 1.0, chance)) == (0, 10)


@pytest.mark.parametrize("there", ["daily:6h", "intermittent:6h/18h"])
def test_how_many_are_quiet_agrees_with_who_is_there(there: str) -> None:
    availability, chance = parse_availability(there), Random(2)
    waits = [availability.attend(0.0, 0.0, chance)[0] for _ in range(20_000)]

    assert sum(wait == 0 for wait in waits) / 20_000 == pytest.approx(availability.share_on, abs=0.02)
    # Seen from the other end: who has been off for an hour is as many as who will be off for an hour more.
    assert sum(wait > 3600 for wait in waits) / 20_000 == pytest.approx(availability.quiet(3600), abs=0.02)
    spans = sum(availability.went_quiet(600, 3600 + 600 * step) for step in range(1000))
    assert spans == pytest.approx(availability.quiet(3600), abs=0.01)


def test_work_goes_on_when_the_device_is_back() -> None:
    daily = Availability(on_s=3600, off_s=82_800, daily=True)
    begun, done = daily.attend(0.0, 2 * 3600.0, Random(1))

    assert done - begun == pytest.approx(2 * 3600 + 82_800 * round((done - begun - 7200) / 82_800))
    assert done - begun > 82_800


def test_durations_and_shares_are_read_and_said() -> None:
    assert (parse_duration("1h30m"), parse_duration("2d"), parse_duration("0")) == (5400, 172_800, 0)
    assert (parse_share("15%"), parse_share("0.5%")) == (0.15, 0.005)
    assert [spoken(it) for it in (None, 0, 59, 3661, 90_000)] == ["-", "0s", "59s", "1h 1m", "1d 1h"]


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "9999999w", "1h\n30m x"])
def test_what_is_no_duration_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="Nothing was simulated"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["sometimes", "daily:25h", "intermittent:2h", "intermittent:0/1h", "always:1h"])
def test_what_is_no_availability_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="Nothing was simulated"):
        parse_availability(text)


def test_the_narrowest_stratum_counts() -> None:
    everywhere, strata = parse_fails(["1%", "pi3=40%", "@1.0.0=5%", "pi3@1.0.0=90%"])
    kinds = make_fleet(100, hardware={"pi3": 0.5, "pi4": 0.5}, versions={"1.0.0": 0.5, "1.1.0": 0.5}, groups={}).counts
    troubles = Troubles(fails=everywhere, fails_of=strata)

    chances = {(kind.hardware_model, kind.version): troubles.chance_for(kind) for kind in kinds}
    assert chances == {
        ("pi3", "1.0.0"): 0.9,
        ("pi3", "1.1.0"): 0.4,
        ("pi4", "1.0.0"): 0.05,
        ("pi4", "1.1.0"): 0.01,
    }
    with pytest.raises(UserError, match="no device of this fleet is pi5"):
        check_strata({Stratum(hardware_model="pi5"): 0.5}, list(kinds))


def test_spreads_and_milestones() -> None:
    runs = [run_of(0, 50, 100), run_of(0, 0, 60), run_of(0, 90, 95)]

    assert Spread.of([1, 2, 3]) == Spread(2.0, 1.1, 2.9)
    assert reached(runs, 50) == (Spread.of([60.0, 120.0, 60.0]), 3)
    assert reached(runs, 100) == (Spread(120.0, 120.0, 120.0), 1)
    assert reached(runs[1:2], 100) == (None, 0)


def test_a_picture_is_an_svg_with_two_panels_and_small() -> None:
    drawn = draw([run_of(0, 10, 100), run_of(0, 30, 90)], "A <plan>", "two & runs")

    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    texts = [it.text for it in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A <plan>", "two & runs", "run it", "never heard again"} <= set(texts)
    assert len(drawn) < 30_000


def test_a_plot_rises_where_the_curve_does() -> None:
    lines = plot([run_of(0, 50, 100)], COVERAGE[1], width=60, rows=4)

    filled = [sum(char != " " for char in line.partition("┤")[2]) for line in lines[:4]]
    assert filled == sorted(filled)
    assert filled[0] < filled[-1]
    assert lines[0].strip().startswith("100")
    assert all(len(line) <= 60 for line in lines)
