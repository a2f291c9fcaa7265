"""What the cloud is told of an application's crashes and gauges, by the whole agent."""

from protocol.phases import Outcome
from protocol.up import Health
from protocol.values import FirmwareRef
from tests.device_agent.runner.playing import Start
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_world import World


def told(cloud: Cloud) -> tuple[Health, ...]:
    return cloud.states[-1].health


def test_a_crash_is_told_at_once_and_counts_on_after_a_restart(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    device.application.end_by_itself(restart_in_s=1.0)
    device.run(0.5)
    assert told(cloud) == (Health(component="app", digest=old.digest, crashes=1),)
    assert device.status["health"] == {"app": {"crashes": 1, "gauges": {}}}
    device = start()
    device.run()
    assert told(cloud) == (Health(component="app", digest=old.digest, crashes=1),)


def test_a_version_that_ends_in_its_trial_has_crashed(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    world.ending.add(new.digest)
    cloud.release(new)
    device.run()
    assert cloud.ends()[-1].outcome is Outcome.ROLLED_BACK
    assert device.journal.crashes().of("app", new.digest) == 1
    assert device.journal.crashes().of("app", old.digest) == 0


def test_gauges_are_told_every_half_minute(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.gauge("queue-depth", 1, None)
    device.run(1)
    assert told(cloud)[0].gauges == {"queue-depth": 1}
    before = len(cloud.states)
    for value in range(2, 30):
        device.desk.gauge("queue-depth", value, "app")
        device.run(1)
        world.time += 1
    assert len(cloud.states) == before
    device.run(31)
    assert told(cloud)[0].gauges == {"queue-depth": 29}
    assert len(cloud.states) == before + 1
