"""Which releases a notice carries, whom a release would reach, and why each other device waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.fleet import DeviceSituation, FleetView
from cloud.planner import components_of, forecast, plan, superseded_otas
from cloud.shadowing import TooManyReleasesError, notice_releases, rollback_range
from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts
from protocol.selection import Assignment, Channels, Decision, Verdict, select
from protocol.values import MAX_RELEASES, ComponentState, FirmwareRef, Urgency
from tests.cloud.planner_stories import write_back

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.story"))


def firmware(number: int, *hardware: str, component: str = "app") -> FirmwareRef:
    """Firmware 1 is 1.0.0, 2 is 1.1.0, ... 6 is 2.0.0: five of each line."""
    return FirmwareRef(
        component=component,
        version=f"{1 + (number - 1) // 5}.{(number - 1) % 5}.0",
        build=number,
        seq=number,
        digest=f"{number:064x}",
        size_bytes=10,
        hardware_models=hardware or ("*",),
    )


def release(label: int, number: int, target_range: str = "*", percentage: int = 100, *hardware: str) -> NoticeRelease:
    return NoticeRelease(
        release_id=f"rel-{label}",
        label=label,
        order=label,
        firmware=firmware(number, *hardware),
        percentage=percentage,
        target_range=target_range,
    )


def device(number: int | None, device_id: str = "pi-1", model: str = "pi4", *groups: str) -> DeviceSituation:
    running = firmware(number) if number else None
    components = {"app": _state(running)} if running else {}
    facts = DeviceFacts(device_id=device_id, hardware_model=model, agent_version="0.1.0", components=components)
    return DeviceSituation(facts=facts, assignment=Assignment(groups=(*groups, "everyone")), online=True)


def _state(running: FirmwareRef) -> ComponentState:
    return ComponentState(
        component=running.component, version=running.version, build=running.build, digest=running.digest
    )


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_stories_tell_what_the_planner_answers(path: Path) -> None:
    told = path.read_text()

    assert write_back(told) == told


def test_there_are_stories_and_they_can_be_reviewed() -> None:
    assert len(STORIES) >= 5
    assert all(len(path.read_text().splitlines()) <= 80 for path in STORIES)


# Which releases a notice carries

RANGES = ("*", "1.x", "2.x", "1.1.0", ">=1.1.0 <2.0.0", "1.x || 2.0.0", "build>=3", "os:>=1.0.0", "!=1.2.0", "* 1.x")
MODELS = (("*",), ("pi3",), ("pi4",), ("pi3", "pi4"))
NUMBERS = st.integers(1, 8)

made_releases = st.builds(
    lambda number, target_range, percentage, hardware: (number, target_range, percentage, hardware),
    NUMBERS,
    st.sampled_from(RANGES),
    st.sampled_from((1, 30, 70, 100, 100, 100)),
    st.sampled_from(MODELS),
)
channels_made = st.lists(made_releases, max_size=12).map(
    lambda made: tuple(
        release(label, number, target_range, percentage, *hardware)
        for label, (number, target_range, percentage, hardware) in reversed(list(enumerate(made, start=1)))
    )
)


def renamed(releases: tuple[NoticeRelease, ...], group: str, order: int) -> tuple[NoticeRelease, ...]:
    return tuple(replace(each, release_id=f"{group}-{each.release_id}", order=each.order + order) for each in releases)


@st.composite
def devices_made(draw: st.DrawFn) -> DeviceSituation:
    number = draw(st.none() | NUMBERS)
    base = draw(st.none() | st.sampled_from((1, 6)))
    made = device(number, f"pi-{draw(st.integers(0, 400))}", draw(st.sampled_from(("pi3", "pi4", "pi5"))))
    components = dict(made.facts.components)
    if base:
        components["os"] = _state(firmware(base, component="os"))
    failed = {firmware(draw(NUMBERS)).digest: draw(st.integers(0, 30))} if draw(st.booleans()) else {}
    otas = (Ota(ota_id="ota-1", order=draw(st.integers(1, 40)), firmware=firmware(draw(NUMBERS))),)
    assignment = Assignment(
        groups=("pilot", "everyone") if draw(st.booleans()) else ("everyone",),
        otas=otas if draw(st.booleans()) else (),
        pins=(firmware(draw(NUMBERS)),) if draw(st.integers(0, 9)) == 0 else (),
    )
    facts = replace(made.facts, components=components, failed=failed, floors={"app": draw(st.integers(0, 3))})
    return replace(made, facts=facts, assignment=assignment)


def decided(situation: DeviceSituation, channels: Channels) -> tuple[object, ...]:
    decision: Decision = select(situation.facts, situation.assignment, channels, "app", now_ms=0)
    return decision.verdict, decision.wanted, decision.blocked_by


@settings(max_examples=600, deadline=None)
@given(pilot=channels_made, everyone=channels_made, situation=devices_made())
def test_what_a_notice_leaves_out_changes_no_decision(
    pilot: tuple[NoticeRelease, ...], everyone: tuple[NoticeRelease, ...], situation: DeviceSituation
) -> None:
    channels = {("pilot", "app"): renamed(pilot, "pilot", 0), ("everyone", "app"): renamed(everyone, "everyone", 12)}
    noticed = {key: notice_releases(releases) for key, releases in channels.items()}

    assert decided(situation, noticed) == decided(situation, channels)


def test_a_notice_is_newest_label_first_whatever_the_order_of_the_rows() -> None:
    kept = notice_releases([release(2, 2, "1.x"), release(3, 3, "2.x"), release(1, 1)])

    assert [each.label for each in kept] == [3, 2, 1]


def test_a_thousand_plain_releases_are_one_in_the_notice() -> None:
    assert [each.label for each in notice_releases([release(label, 1) for label in range(1, 1001)])] == [1000]


def test_a_line_of_its_own_range_stays_one_release_long() -> None:
    line = [release(label, 1 + label % 5, "1.x") for label in range(1, 101)]

    assert [each.label for each in notice_releases(line)] == [100]


def test_more_releases_than_a_notice_carries_are_refused_with_what_to_do() -> None:
    crowd = [release(label, 1, percentage=50) for label in range(1, MAX_RELEASES + 1)]
    assert len(notice_releases(crowd)) == MAX_RELEASES

    with pytest.raises(TooManyReleasesError, match=r"65 enabled releases .* disable old ones"):
        notice_releases([*crowd, release(MAX_RELEASES + 1, 1, percentage=50)])


# Whom a release reaches


def test_a_forecast_at_a_percentage_names_the_very_devices_whose_bucket_it_covers() -> None:
    fleet = FleetView(
        product="thermostat", channels={}, devices=tuple(device(1, f"pi-{number}") for number in range(200))
    )
    candidate = release(1, 2, percentage=40)

    told = forecast(fleet, candidate)

    channels = {("everyone", "app"): [candidate]}
    takers = [
        it.device_id
        for it in fleet.devices
        if select(it.facts, it.assignment, channels, "app", now_ms=0).verdict is Verdict.TAKE
    ]
    assert list(told.takes) == takers
    assert 50 < told.reach < 110
    assert {hold.reason.value for hold in told.holds} == {"percentage"}


def test_a_group_without_devices_is_reached_by_nobody_and_says_so() -> None:
    told = forecast(FleetView(product="thermostat", channels={}, devices=()), release(1, 1), "pilot")

    assert told.reach == 0
    assert told.sentence == "app 1.0.0 to pilot: reaches nobody, because the group has no devices yet"


@settings(max_examples=200, deadline=None)
@given(pilot=channels_made, everyone=channels_made, fleet=st.lists(devices_made(), max_size=4))
def test_every_device_and_component_is_moved_or_held_once(
    pilot: tuple[NoticeRelease, ...], everyone: tuple[NoticeRelease, ...], fleet: list[DeviceSituation]
) -> None:
    devices = tuple(replace(it, facts=replace(it.facts, device_id=f"pi-{number}")) for number, it in enumerate(fleet))
    channels = {("pilot", "app"): renamed(pilot, "pilot", 0), ("everyone", "app"): renamed(everyone, "everyone", 12)}
    view = FleetView(product="thermostat", channels=channels, devices=devices)

    made = plan(view, 0)

    told = [(it.device_id, it.component) for it in made.actions] + [(it.device_id, it.component) for it in made.holds]
    assert sorted(told) == [(it.device_id, name) for it in devices for name in components_of(channels, it)]
    assert all(hold.detail for hold in made.holds)


def test_an_ota_is_overtaken_by_a_later_release_that_reaches_its_device_and_by_no_other() -> None:
    waiting = replace(device(1), assignment=Assignment(groups=("everyone",), otas=(_ota("ota-1", 5),)))

    assert superseded_otas(waiting, {("everyone", "app"): [release(6, 3)]}, 0) == ("ota-1",)
    assert superseded_otas(waiting, {("everyone", "app"): [release(4, 3)]}, 0) == ()
    assert superseded_otas(waiting, {("everyone", "app"): [release(6, 3, "2.x")]}, 0) == ()
    assert superseded_otas(waiting, {("pilot", "app"): [release(6, 3)]}, 0) == ()


def _ota(ota_id: str, order: int) -> Ota:
    return Ota(ota_id=ota_id, order=order, firmware=firmware(2), urgency=Urgency.IMMEDIATE)


# Rolling back


@pytest.mark.parametrize(
    ("earlier", "later", "reached"),
    [
        (release(1, 2), [release(2, 3)], "*"),
        (release(1, 2, "1.x"), [release(2, 3, "1.x")], "1.x"),
        (release(1, 2, "1.0.0"), [release(2, 3, "1.1.0")], "1.0.0 || =1.2.0"),
        (release(1, 2, "1.0.0"), [release(2, 3, "1.0.0")], "1.0.0 || =1.2.0"),
        (release(1, 2, "1.0.0"), [release(2, 3, "1.1.0"), release(3, 4, "1.2.0")], "1.0.0 || =1.2.0 || =1.3.0"),
        (release(1, 2, "1.x"), [release(2, 7, "2.x"), release(3, 3, "1.x")], "1.x"),
        (release(1, 2, "1.x"), [release(2, 7, "*")], "1.x || =2.1.0"),
    ],
)
def test_a_rollback_follows_the_devices_that_moved_on_and_leaves_other_lines_alone(
    earlier: NoticeRelease, later: list[NoticeRelease], reached: str
) -> None:
    assert rollback_range(earlier, later) == reached
