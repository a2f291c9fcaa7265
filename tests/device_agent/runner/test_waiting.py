"""The application has the last word on when: disabled updates, holds, starts; and what goes over them."""

import pytest

from device_agent.admission import InstallPolicy
from device_agent.config import UpdateSettings
from protocol.phases import Phase, Wait
from protocol.values import FirmwareRef, Scope, Urgency
from tests.device_agent.runner.playing import Start, component, hold, waits
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_world import World


@pytest.mark.parametrize("urgency", list(Urgency))
def test_disabled_updates_do_not_start(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, urgency: Urgency
) -> None:
    device = start()
    device.run()
    device.desk.disable(None, "dosing")
    new = world.image("1.1.0")
    cloud.release(new, urgency=urgency)
    device.desk.check()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, Phase.IDLE)
    assert device.fetching.received_bytes(new) == 0
    assert waits(device) == {
        "component": "app",
        "version": "1.1.0",
        "mandatory": False,
        "forced": False,
        "why": "disabled",
        "detail": "dosing",
    }
    assert not cloud.states[-1].availability.enabled
    assert device.control.names().count("firmware_update_pending") == 1
    device.desk.enable()
    device.run()
    assert world.running == new.digest
    assert device.control.names()[-1] == "update_installed"
    assert {"updates_disabled", "updates_enabled"} <= set(device.control.names())


def test_disabled_outlasts_a_restart(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.desk.disable(None, "dosing")
    new = world.image("1.1.0")
    cloud.release(new)
    device = start()
    device.run()
    assert world.running == old.digest
    device.desk.enable()
    device.run()
    assert world.running == new.digest


def test_a_disabling_ends_in_time(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.disable(world.time + 50, "cleaning")
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(49.0)
    assert world.running == old.digest
    device.run(60.0)
    assert world.running == new.digest


def test_disabled_from_the_start(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    new = world.image("1.1.0")
    cloud.release(new, mandatory=True)
    device = start(updates=UpdateSettings(enabled_at_start=False))
    device.run()
    assert world.running == old.digest
    device.desk.enable()
    device.run()
    assert world.running == new.digest


@pytest.mark.parametrize(
    ("scope", "phase"),
    [("download", Phase.IDLE), ("install", Phase.INSTALLING), ("restart", Phase.INSTALLING)],
)
def test_a_hold_keeps_its_step_waiting(  # noqa: PLR0917 - fixtures
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, scope: str, phase: Phase
) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold(scope),))
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, phase)
    assert waits(device)["why"] == Wait.HELD
    info = cloud.states[-1].availability.holds[0]
    assert (info.owner, info.why, info.scopes) == ("pid 8, uid 1000", "dosing", (Scope(scope),))
    device.desk.holds_changed(())
    device.run()
    assert world.running == new.digest


def test_a_hold_pauses_a_download_and_keeps_what_is_there(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.fetching.progress is not None)
    device.desk.holds_changed((hold("download"),))
    device.run()
    assert device.snapshot.phase is Phase.DOWNLOADING
    assert 0 < device.fetching.received_bytes(new) < new.size_bytes
    device.desk.holds_changed(())
    device.run()
    assert world.running == new.digest
    assert len(world.fetched) == len(set(world.fetched))


def test_a_forced_update_goes_over_both_and_says_so(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.disable(None, "dosing")
    device.desk.holds_changed((hold("download", "install", "restart"),))
    new = world.image("1.1.0")
    cloud.release(new, forced=True, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    assert world.running == new.digest
    assert "forced" in device.control.names()
    assert cloud.ends()[-1].forced


def test_an_update_that_waits_may_be_forced(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold("restart"),))
    new = world.image("1.1.0")
    release = cloud.release(new)
    device.link.notify()
    device.run()
    assert device.snapshot.phase is Phase.INSTALLING
    cloud.patch(release, forced=True)
    device.link.notify()
    device.run()
    assert world.running == new.digest
    assert len(cloud.attempts()) == 2  # the one before, and this: not begun again


def test_next_start_waits_for_the_application(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start(updates=UpdateSettings(install=InstallPolicy.NEXT_START))
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, Phase.INSTALLING)
    assert waits(device)["why"] == Wait.NEXT_START
    device.application.end_by_itself(restart_in_s=1.0)
    device.run()
    assert world.running == new.digest
    assert world.starts[-1] == new.digest
    assert world.starts == [old.digest, new.digest]


def test_next_start_is_any_moment_that_the_application_is_ready(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start(updates=UpdateSettings(install=InstallPolicy.NEXT_START))
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    device.desk.ready()
    device.run()
    assert world.running == new.digest


def test_what_is_downloaded_goes_before_the_application(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    policy = UpdateSettings(install=InstallPolicy.NEXT_START)
    device = start(updates=policy)
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    world.running = None  # the device was switched off, and is on again
    world.starts.clear()
    start(updates=policy, online=False, component=component(needs_broker=False)).run()
    assert world.starts == [new.digest]
    assert world.running == new.digest


def test_an_agent_that_starts_alone_is_no_start_of_the_application(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    policy = UpdateSettings(install=InstallPolicy.NEXT_START)
    device = start(updates=policy)
    device.run()
    cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run()
    device = start(updates=policy)
    device.run()
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.NEXT_START
