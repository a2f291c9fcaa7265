"""Asking one device of each kind gives every device the answer that it would have been given by itself."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.cohorts import Cohorts, by_place
from cloud.fleet import DeviceSituation, FleetView
from cloud.holding import Hold, HoldReason, why_not_now, why_not_taken
from cloud.planner import components_of, forecast, plan
from protocol.down import NoticeRelease
from protocol.identity import place
from protocol.phases import Phase, Wait
from protocol.schedule import Ramp, Stratum, Terms
from protocol.selection import Channels, select
from protocol.up import Availability, Pending
from tests.cloud.test_planner import device, devices_made, firmware, made_releases, release

NOW_MS = 1_000
ramps = st.builds(
    lambda first, starts, span: Ramp(from_percentage=first, starts_at_ms=starts, ends_at_ms=starts + span),
    st.integers(0, 100),
    st.integers(0, 2_000),
    st.integers(1, 3_000),
)
terms = st.builds(
    Terms,
    canaries=st.sampled_from(((), (), ("pilot",))),
    ramp=st.none() | ramps,
    paused=st.sampled_from((False, False, False, True)),
    stopped=st.sampled_from(((), (), (Stratum(hardware_model="pi4"),))),
    base_first=st.booleans(),
)


@st.composite
def channels_made(draw: st.DrawFn) -> Channels:
    """Channels of two groups and two components, half of them for a share of the places."""
    channels: dict[tuple[str, str], list[NoticeRelease]] = {}
    for group in ("pilot", "everyone"):
        for component in ("app", "os"):
            made = []
            for label, (number, target_range, percentage, hardware) in enumerate(
                draw(st.lists(made_releases, max_size=3)), start=1
            ):
                told = release(label, number, target_range, percentage, *hardware)
                of = firmware(number, *hardware, component=component)
                release_id = f"{group}-{component}-{label}"
                made.append(replace(told, firmware=of, release_id=release_id, terms=draw(terms)))
            if made:
                channels[group, component] = made[::-1]
    return channels


@st.composite
def fleets(draw: st.DrawFn) -> tuple[DeviceSituation, ...]:
    """Devices of a few kinds, several of each, in no order."""
    kinds = draw(st.lists(devices_made(), min_size=1, max_size=4))
    found = []
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(kinds))
        found.append(
            replace(
                kind,
                facts=replace(kind.facts, device_id=f"pi-{draw(st.integers(0, 9))}-{number}"),
                online=draw(st.booleans()),
                phase=draw(st.sampled_from((Phase.IDLE, Phase.IDLE, Phase.DOWNLOADING))),
                availability=Availability(enabled=draw(st.sampled_from((True, True, False)))),
                pending=draw(st.sampled_from(((), (), (_pending(),)))),
                last_seen_at_ms=draw(st.none() | st.integers(0, 5)),
            )
        )
    return tuple(found)


def _pending() -> Pending:
    waits = firmware(2)
    return Pending(component="app", version=waits.version, digest=waits.digest, source_id="r", why=Wait.NEXT_START)


def view(devices: tuple[DeviceSituation, ...], channels: Channels) -> FleetView:
    return FleetView(product="thermostat", channels=channels, devices=devices, now_ms=NOW_MS)


@settings(max_examples=300, deadline=None)
@given(devices=fleets(), channels=channels_made())
def test_a_plan_is_what_asking_every_device_gives(devices: tuple[DeviceSituation, ...], channels: Channels) -> None:
    made = plan(view(devices, channels), NOW_MS)

    moves, holds = [], []
    for it in devices:
        for component in components_of(channels, it):
            decision = select(it.facts, it.assignment, channels, component, now_ms=NOW_MS)
            why = why_not_now(it, decision, NOW_MS)
            if why is not None:
                holds.append(Hold(it.device_id, component, *why))
            elif decision.wanted is not None:
                moves.append((it.device_id, component, decision.wanted.source_id))
    assert [(it.device_id, it.component, it.source_id) for it in made.actions] == moves
    assert list(made.holds) == holds
    assert (made.moving, sum(made.counts.values())) == (len(moves), len(holds))
    assert all(made.counts[reason] == sum(it.reason is reason for it in holds) for reason in made.counts)


@settings(max_examples=300, deadline=None)
@given(devices=fleets(), channels=channels_made(), on=terms, percentage=st.sampled_from((0, 1, 30, 70, 100)))
def test_a_forecast_is_what_asking_every_device_gives(
    devices: tuple[DeviceSituation, ...], channels: Channels, on: Terms, percentage: int
) -> None:
    candidate = replace(release(9, 5, "*", 1), percentage=percentage, terms=on, order=99)

    for group in ("pilot", "everyone"):
        told = forecast(view(devices, channels), candidate, group)
        with_it = {**channels, (group, "app"): (candidate, *channels.get((group, "app"), ()))}
        takes, holds = [], []
        for it in devices:
            decision = select(it.facts, it.assignment, with_it, "app", now_ms=NOW_MS)
            why = why_not_taken(it, decision, candidate)
            if group not in it.assignment.groups:
                why = HoldReason.NOT_IN_GROUP, f"is not in group {group}"
            if why is None:
                takes.append(it.device_id)
            else:
                holds.append(Hold(it.device_id, "app", *why))
        assert list(told.takes) == takes
        assert list(told.holds) == holds
        assert told.reach == len(takes)


@settings(max_examples=100, deadline=None)
@given(devices=fleets())
def test_cohorts_are_the_devices_that_they_were_made_of(devices: tuple[DeviceSituation, ...]) -> None:
    kept = Cohorts.of(devices)

    assert tuple(kept) == devices
    assert kept[-1:] == devices[-1:]
    assert sum(map(len, kept.members)) == len(kept) == len(devices)
    assert Cohorts.of(kept) is kept


def test_a_thousand_devices_that_differ_by_their_ids_are_one_kind() -> None:
    kept = Cohorts.of([device(1, f"pi-{number}") for number in range(1000)])

    assert (len(kept), len(kept.kinds)) == (1000, 1)


@settings(max_examples=200, deadline=None)
@given(below=st.integers(1, 999_999), seed=st.integers(0, 10_000))
def test_places_for_many_are_the_places_of_each(below: int, seed: int) -> None:
    ids = [f"pi-{seed}-{number}" for number in range(40)]
    near = (place(ids[0], "rel-1") + below % 3 - 1) % 1_000_000

    for at in (below, near):
        inside, outside = by_place(ids, range(len(ids)), "rel-1", at)
        assert list(inside) == [number for number, it in enumerate(ids) if place(it, "rel-1") < at]
        assert sorted([*inside, *outside]) == list(range(len(ids)))


def test_a_base_that_is_paused_holds_those_whom_it_covers_and_no_others() -> None:
    base = replace(release(1, 2, "*", 50), firmware=firmware(2, component="os"), release_id="base")
    base = replace(base, terms=Terms(base_first=True, paused=True))
    devices = tuple(device(1, f"pi-{n}") for n in range(20))
    channels = {("everyone", "os"): (base,), ("everyone", "app"): (release(2, 2),)}
    made = plan(FleetView(product="thermostat", channels=channels, devices=devices, now_ms=NOW_MS), NOW_MS)
    waiting = {it.device_id for it in made.holds if it.reason is HoldReason.BASE_FIRST}
    assert waiting == {f"pi-{n}" for n in range(20) if place(f"pi-{n}", "base") < 500_000}
