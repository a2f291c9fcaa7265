"""Falling back, failing and trying again; and a journal that cannot be written."""

import pytest

from device_agent.events import Failed
from protocol.down import Ota
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.values import FirmwareRef
from tests.device_agent.runner.playing import Start, component, hold, waits, writable
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_world import World


def test_a_version_that_failed_is_remembered(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    bad = world.image("2.0.0")
    world.unhealthy.add(bad.digest)
    release = cloud.release(bad)
    device = start()
    device.run()
    end = cloud.ends()[-1]
    assert (end.outcome, end.reason) == (Outcome.ROLLED_BACK, Reason.HEALTH_FAILED)
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.FAILED_BEFORE
    assert cloud.states[-1].failed == (bad.digest,)
    assert device.control.events[-2:] == [
        {"event": "update_rolled_back", "component": "app", "version": "2.0.0", "reason": Reason.HEALTH_FAILED},
        {
            "event": "firmware_update_pending",
            "component": "app",
            "version": "2.0.0",
            "mandatory": False,
            "forced": False,
        },
    ]
    device.desk.check()
    device.run()
    start().run()
    assert len(cloud.ends()) == 2
    # Told to, it tries again.
    world.unhealthy.clear()
    cloud.otas.append(Ota(ota_id="o1", order=release.order + 1, firmware=bad))
    cloud.desired_seq += 1
    device = start()
    device.run()
    assert world.running == bad.digest
    assert device.journal.failed() == {}


def test_a_version_that_ends_by_itself(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    cloud.release(world.image("2.0.0"))
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    world.time += 0.1
    device.application.end_by_itself()
    device.run()
    assert cloud.ends()[-1].reason is Reason.START_FAILED
    assert world.running == old.digest


def test_an_end_in_the_first_instant_counts(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("2.0.0")
    world.ending.add(new.digest)  # before the agent notes that it runs
    cloud.release(new)
    device.link.notify()
    began = world.time
    device.run(until=lambda: cloud.ends()[-1].version == "2.0.0")
    assert cloud.ends()[-1].reason is Reason.START_FAILED
    assert world.time - began < 1


def test_the_broker_has_to_be_reached_again(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("2.0.0")
    cloud.release(new)
    device.desk.holds_changed((hold("restart"),))
    device.link.notify()
    device.run()
    device.link.disconnect()
    device.run()
    device.desk.holds_changed(())
    device.run(until=lambda: world.running == new.digest)
    device.run()
    assert world.running == old.digest
    device.link.connect()
    device.run()
    assert cloud.ends()[-1].reason is Reason.BROKER_UNREACHED


@pytest.mark.parametrize("confirms", [True, False])
def test_a_trial_that_is_to_be_confirmed(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, *, confirms: bool
) -> None:
    device = start(component=component(confirm=True))
    device.run()
    device.desk.confirm()  # of the version before: it is not the trial's
    device.run()
    new = world.image("2.0.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: world.running == new.digest)
    if confirms:
        world.time += 0.1
        device.desk.confirm()
    device.run()
    assert cloud.ends()[-1].reason is (None if confirms else Reason.NOT_CONFIRMED)


def test_what_could_not_be_had_backs_off(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.fetching.failure = Failed(Reason.DOWNLOAD_FAILED, "nothing came")
    device.link.notify()
    device.run(1.0)
    assert waits(device)["why"] == Wait.BACKING_OFF
    device.run(90.0)
    assert [end.reason for end in cloud.ends()[1:]] == [Reason.DOWNLOAD_FAILED] * 2  # at once, and after a minute
    device.fetching.failure = None
    device.desk.check()  # a person does not wait
    device.run()
    assert world.running == new.digest
    assert device.journal.back_off(new.digest) is None


def test_back_off_outlasts_a_restart(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.fetching.failure = Failed(Reason.TOO_LARGE, "no room")
    device.link.notify()
    device.run(1.0)
    device = start()
    device.run(30.0)
    assert waits(device)["why"] == Wait.BACKING_OFF
    device.run(90.0)
    assert world.running == new.digest


def test_a_journal_that_cannot_be_written_stops_a_forward_step_and_no_fall_back(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    bad = world.image("2.0.0")
    world.unhealthy.add(bad.digest)
    cloud.release(bad)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    writable(device, on=False)
    device.run(until=device.idle)
    assert world.running == old.digest  # back without a journal
    assert all(end.version != "2.0.0" for end in cloud.ends())
    device.run(10.0)
    writable(device, on=True)
    device.run(30.0)
    assert cloud.ends()[-1].reason is Reason.HEALTH_FAILED  # and told, when it writes again
    assert bad.digest in device.journal.failed()
    writable(device, on=False)
    cloud.release(world.image("2.1.0"))
    device.link.notify()
    device.run(30.0)
    assert device.idle()
    writable(device, on=True)
    device.desk.check()
    device.run(60.0)
    assert cloud.ends()[-1].version == "2.1.0"


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.INSTALLING, Phase.PROVING])
def test_a_forward_step_is_taken_when_the_journal_writes_again(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, phase: Phase
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is phase)
    device.fetching.stalled = phase is Phase.DOWNLOADING
    writable(device, on=False)
    device.run(20.0)
    assert device.snapshot.phase is phase
    assert device.journal.refused().keys() <= {"not_stored"}
    writable(device, on=True)
    device.fetching.go_on()
    device.run(120.0)
    assert world.running == new.digest
    assert cloud.ends()[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.INSTALLING, Phase.PROVING])
def test_an_agent_that_starts_with_a_full_disk_goes_on_when_there_is_room(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, phase: Phase
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is phase)
    device = start()
    writable(device, on=False)
    device.run(20.0)
    assert device.snapshot.phase is phase
    writable(device, on=True)
    device.run(120.0)
    end = cloud.ends()[-1]
    assert (end.version, end.outcome, end.reason, end.detail) == ("1.1.0", Outcome.SUCCEEDED, None, "")
    assert world.running == new.digest


def test_a_trial_does_not_wait_for_the_journal_for_ever(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    writable(device, on=False)
    device.run(120.0)
    assert device.idle()
    assert world.running == old.digest


def test_a_version_before_that_does_not_start_is_tried_again(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    bad = world.image("2.0.0")
    world.unhealthy.add(bad.digest)
    world.crashing.add(old.digest)
    cloud.release(bad)
    device.link.notify()
    device.run(until=lambda: cloud.ends()[-1].version == "2.0.0")
    assert world.running is None
    world.crashing.clear()
    device.run(120.0)
    assert world.running == old.digest
    assert device.application.kept_up
