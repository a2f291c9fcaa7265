"""The start of a device: what goes before the application, and what does not keep it waiting."""

from device_agent.config import UpdateSettings
from protocol.values import FirmwareRef
from tests.device_agent.runner.playing import Start
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_world import World


def test_a_known_mandatory_update_goes_first(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    device.desk.disable(world.time + 5, "")  # so that it is known, and not taken
    cloud.release(new, mandatory=True)
    device.link.notify()
    device.run(1.0)
    world.running = None
    world.time += 10
    world.starts.clear()
    start().run()
    assert world.starts == [new.digest]


def test_a_mandatory_update_is_waited_for_only_so_long(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    device.desk.disable(world.time + 5, "")
    cloud.release(world.image("1.1.0"), mandatory=True)
    device.link.notify()
    device.run(1.0)
    world.running = None
    world.time += 10
    began = world.time
    device = start(online=False)
    device.run(until=lambda: world.running is not None)
    assert world.running == old.digest
    assert 10 <= world.time - began <= 20


def test_news_are_waited_for_if_so_set(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    new = world.image("1.1.0")
    cloud.release(new, mandatory=True)
    world.running = None
    world.starts.clear()
    start(updates=UpdateSettings(startup_wait_s=30.0)).run()
    assert world.starts == [new.digest]


def test_a_device_alone_starts_its_application_at_once(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    world.running = None
    began = world.time
    device = start(online=False)
    device.run(until=lambda: world.running is not None)
    assert world.running == old.digest
    assert world.time - began < 0.1
