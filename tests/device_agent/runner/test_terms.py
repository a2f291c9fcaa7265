"""A release's own terms at the device: windows, deadlines, ramps, turns; and what is wanted and cannot be had."""

import dataclasses

import pytest

from device_agent.deciding import LONGEST_PAUSE_S
from protocol.identity import place
from protocol.manifest import Requirements
from protocol.phases import Outcome, Phase, Wait
from protocol.schedule import PER_CENT, Ramp, Terms, Window
from protocol.up import DeviceState
from protocol.values import FirmwareRef, Urgency
from tests.device_agent.runner.playing import Start, hold, waits
from tests.support.simulated_cloud import DEVICE, Cloud
from tests.support.simulated_device import Device
from tests.support.simulated_world import World

HOUR_S = 3600
# The world begins on a Friday, 2027-01-15, at 08:00 UTC.
NIGHT = Window(start_minute=2 * 60, duration_minutes=120)
MORNING = Window(start_minute=9 * 60, duration_minutes=60)


def in_ms(world: World, seconds: float) -> int:
    return round((world.time + seconds) * 1000)


def state(cloud: Cloud) -> DeviceState:
    return cloud.states[-1]


def why(cloud: Cloud) -> list[tuple[str, Wait]]:
    return [(item.version, item.why) for item in state(cloud).pending]


def take(device: Device, cloud: Cloud, image: FirmwareRef, terms: Terms, **values: object) -> None:
    cloud.release(image, terms=terms, **values)
    device.link.notify()
    device.run()


def expect_at(world: World, device: Device, image: FirmwareRef, at_s: float, *, within_s: float = 5) -> None:
    """Let things happen until the device runs an image; check when it began to."""
    device.run(until=lambda: world.running == image.digest, for_s=24 * HOUR_S)
    assert world.running == image.digest
    assert at_s <= world.time < at_s + within_s


def test_outside_its_window_a_release_is_downloaded_and_not_installed(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms(windows=(MORNING,), canaries=("pilot",)))
    assert (device.snapshot.phase, world.running) == (Phase.INSTALLING, old.digest)
    assert device.snapshot.attempt is not None
    assert device.snapshot.attempt.terms == Terms(windows=(MORNING,)), "what gates do not heed revises nothing"
    assert device.snapshot.stores == 3
    assert why(cloud) == [("1.1.0", Wait.WINDOW)]
    opens_ms = 1_800_003_600_000
    assert device.snapshot.waiting is not None
    assert device.snapshot.waiting.until_ms == opens_ms
    expect_at(world, device, new, opens_ms / 1000)


@pytest.mark.parametrize("terms", [Terms(windows=(NIGHT,)), Terms(not_before_ms=1_800_060_000_000)])
def test_a_clock_that_is_set_is_noticed_soon(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, terms: Terms
) -> None:
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, terms)
    world.clock_ahead_s = 18.5 * HOUR_S  # half past two
    expect_at(world, device, new, world.time, within_s=LONGEST_PAUSE_S + 5)


def test_windows_are_meant_by_the_device_s_own_clock(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(timezone="Asia/Tokyo"), world.image("1.1.0")
    take(device, cloud, new, Terms(windows=(NIGHT,)))
    assert cloud.hellos[-1].timezone == "Asia/Tokyo"
    assert world.running == old.digest
    expect_at(world, device, new, 1_800_000_000 + 9 * HOUR_S)  # two o'clock in Tokyo


def test_a_window_that_closes_before_the_restart_keeps_it_waiting(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    device.desk.holds_changed((hold("restart"),))
    take(device, cloud, new, Terms(windows=(Window(start_minute=8 * 60, duration_minutes=10),)))
    assert why(cloud) == [("1.1.0", Wait.HELD)]
    world.time += 600
    device.desk.holds_changed(())
    device.run()
    assert (device.snapshot.phase, world.running) == (Phase.INSTALLING, old.digest)
    assert why(cloud) == [("1.1.0", Wait.WINDOW)]


def test_a_deadline_ends_windows_and_no_hold(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    device.desk.holds_changed((hold("install"),))
    take(device, cloud, new, Terms(windows=(NIGHT,), deadline_ms=in_ms(world, 1000)))
    device.run(for_s=2000)
    world.time += 2000
    device.run()
    assert why(cloud) == [("1.1.0", Wait.HELD)]
    device.desk.holds_changed(())
    device.run()
    assert world.running == new.digest


def test_a_deadline_is_met_in_its_moment(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    deadline_ms = in_ms(world, 1000)
    take(device, cloud, new, Terms(windows=(NIGHT,), deadline_ms=deadline_ms))
    expect_at(world, device, new, deadline_ms / 1000)


def test_forced_goes_over_windows(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms(windows=(NIGHT,)), forced=True)
    assert world.running == new.digest


def test_terms_may_change_while_an_update_waits(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms(windows=(NIGHT,)))
    cloud.patch(cloud.releases[0], terms=Terms())
    device.link.notify()
    device.run()
    assert world.running == new.digest
    assert len(cloud.attempts()) == 2  # the one before, and this: not begun again


def test_a_window_is_waited_for_over_a_restart_without_a_cloud(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms(windows=(MORNING,)))
    device = start(online=False)
    device.run()
    assert world.running == old.digest
    expect_at(world, device, new, 1_800_003_600)


@pytest.mark.parametrize("windows", [(), (NIGHT,)])
def test_a_mandatory_update_outside_its_window_keeps_no_application_from_starting(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, windows: tuple[Window, ...]
) -> None:
    device, new = start(), world.image("1.1.0")
    device.fetching.stalled = True
    take(device, cloud, new, Terms(windows=windows), mandatory=True)
    assert device.snapshot.phase is Phase.DOWNLOADING
    world.running = None
    device = start(online=False)
    device.fetching.stalled = True
    device.run(1.0)
    assert (world.running == old.digest) is bool(windows), "only what is installed now is waited for"


@pytest.mark.parametrize("urgency", list(Urgency))
def test_a_release_is_taken_when_its_time_has_come(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, urgency: Urgency
) -> None:
    device, new = start(), world.image("1.1.0")
    begins_ms = in_ms(world, 1234)
    take(device, cloud, new, Terms(not_before_ms=begins_ms), urgency=urgency)
    assert (device.snapshot.phase, why(cloud)) == (Phase.IDLE, [])
    expect_at(world, device, new, begins_ms / 1000)


def test_a_ramp_is_followed_without_another_message(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    ramp = Ramp(from_percentage=0, starts_at_ms=in_ms(world, 0), ends_at_ms=in_ms(world, 100 * 100))
    take(device, cloud, new, Terms(ramp=ramp), urgency=Urgency.GRADUAL)
    covered_s = 1_800_000_000 + (place(DEVICE, "r2") + 1) / PER_CENT * 100
    assert covered_s - world.time > 300, "another name of the release would make a better test"
    heard = len(cloud.hellos)
    expect_at(world, device, new, covered_s - 15, within_s=30)
    assert len(cloud.hellos) == heard


def test_what_comes_gradually_for_another_reason_still_waits_when_a_moment_comes(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, gradual, later = start(), world.image("1.1.0"), world.image("1.2.0")
    device.run()
    cloud.release(gradual, urgency=Urgency.GRADUAL)
    take(device, cloud, later, Terms(not_before_ms=in_ms(world, 400 * 86_400), paused=True))
    assert why(cloud) == [("1.1.0", Wait.NEXT_SESSION)]
    device.run(for_s=HOUR_S)
    assert world.running == old.digest


def test_a_paused_release_is_withdrawn_from_who_is_mid_way(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    device.desk.holds_changed((hold("install"),))
    take(device, cloud, new, Terms())
    assert device.snapshot.phase is Phase.INSTALLING
    cloud.patch(cloud.releases[0], terms=Terms(paused=True))
    device.link.notify()
    device.desk.holds_changed(())
    device.run()
    assert (device.snapshot.phase, world.running) == (Phase.IDLE, old.digest)
    assert cloud.ends()[-1].outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"requires": Requirements(components={"os": ">=9.0.0"})}, Wait.REQUIREMENT),
        ({"data_schema": 3}, Wait.DATA_SCHEMA),
    ],
)
def test_what_is_wanted_and_cannot_be_had_is_pending_with_its_reason(  # noqa: PLR0917 - fixtures
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, changes: dict[str, object], expected: Wait
) -> None:
    device, new = start(), dataclasses.replace(world.image("1.1.0"), **changes)  # type: ignore[arg-type]
    take(device, cloud, new, Terms())
    assert why(cloud) == [("1.1.0", expected)]
    assert state(cloud).pending[0].detail
    assert waits(device)["why"] == expected
    assert world.running == old.digest


# Turns.


def test_a_member_of_a_set_installs_in_its_turn(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.takes_turns, cloud.desired_seq = True, 2
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms(), forced=True)
    assert (device.snapshot.phase, why(cloud)) == (Phase.INSTALLING, [("1.1.0", Wait.TURN)])
    asked = state(cloud).waits_for_turn
    assert device.snapshot.attempt is not None
    assert asked == device.snapshot.attempt.attempt_id
    cloud.give_turn(asked)
    device.link.deliver("desired", cloud.desired(0))
    device.run()
    assert world.running == new.digest
    assert state(cloud).waits_for_turn == ""


def test_a_turn_of_an_earlier_attempt_is_none(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.takes_turns, cloud.desired_seq = True, 2
    device, first, second = start(), world.image("1.1.0"), world.image("1.2.0")
    take(device, cloud, first, Terms())
    earlier = state(cloud).waits_for_turn
    take(device, cloud, second, Terms())
    later = state(cloud).waits_for_turn
    assert later not in ("", earlier)
    cloud.give_turn(earlier)
    device.link.deliver("desired", cloud.desired(0))
    device.desk.disable(None, "")
    device.desk.enable()
    device = start()
    device.run()
    assert (device.snapshot.phase, world.running) == (Phase.INSTALLING, old.digest)
    cloud.give_turn(later)
    device.link.deliver("desired", cloud.desired(0))
    device.run()
    assert world.running == second.digest


def test_a_turn_is_asked_for_when_nothing_else_is_in_the_way(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    cloud.takes_turns, cloud.desired_seq = True, 2
    device, new = start(), world.image("1.1.0")
    device.desk.holds_changed((hold("install"),))
    take(device, cloud, new, Terms())
    assert (state(cloud).waits_for_turn, why(cloud)) == ("", [("1.1.0", Wait.HELD)])
    device.desk.holds_changed(())
    device.run()
    assert state(cloud).waits_for_turn


def test_a_turn_outlasts_a_restart_of_its_holder(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.takes_turns, cloud.desired_seq = True, 2
    device, new = start(), world.image("1.1.0")
    take(device, cloud, new, Terms())
    cloud.give_turn(state(cloud).waits_for_turn)
    device.link.deliver("desired", cloud.desired(0))
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    device = start(online=False)
    device.run(for_s=1.0)
    assert device.snapshot.phase is not Phase.IDLE
    device.go_online()
    device.run()
    assert world.running == new.digest
    assert cloud.ends()[-1].outcome is Outcome.SUCCEEDED
