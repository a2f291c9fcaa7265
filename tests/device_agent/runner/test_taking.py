"""What a device takes, and when the operator's mind is changed."""

from device_agent.config import UpdateSettings
from protocol.down import Ota
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.values import FirmwareRef, Urgency
from tests.device_agent.runner.playing import Start, hold, waits
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_world import World


def test_a_first_installation(world: World, cloud: Cloud, start: Start) -> None:
    image = world.image("1.0.0")
    cloud.release(image)
    device = start()
    device.run()
    assert world.running == world.current_digest() == image.digest
    (end,) = cloud.ends()
    assert (end.outcome, end.from_version, end.booted_digest) == (Outcome.SUCCEEDED, None, image.digest)
    assert device.application.kept_up
    assert cloud.states[-1].components[0].digest == image.digest
    assert cloud.states[-1].phase is Phase.IDLE


def test_gradual_waits_for_the_next_session_or_check(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.NEXT_SESSION
    assert cloud.states[-1].pending[0].why is Wait.NEXT_SESSION
    device.desk.check()
    device.run()
    assert world.running == new.digest
    assert device.status["pending"] is None


def test_gradual_is_taken_when_a_session_starts(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    device.link.disconnect()
    device.run()
    device.link.connect()
    device.run()
    assert world.running == new.digest


def test_immediate_is_taken_on_arrival(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert world.running == new.digest


def test_a_timer_asks_by_itself(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start(updates=UpdateSettings(check_interval_s=3600))
    device.run()
    hellos = len(cloud.hellos)
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.run(4000.0, until=lambda: world.running == new.digest)
    assert len(cloud.hellos) == hellos + 1
    assert world.running == new.digest


def test_a_single_device_ota_comes_with_a_desired(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.otas.append(Ota(ota_id="o1", order=cloud.next_order(), firmware=new))
    cloud.desired_seq += 1
    device.link.deliver("desired", cloud.desired(0))
    device.run()
    assert world.running == new.digest
    assert cloud.ends()[-1].source_id == "o1"


def test_switched_off_for_the_product(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.release(world.image("1.1.0"))
    cloud.ota_enabled = False
    cloud.desired_seq += 1
    device = start()
    device.run()
    assert world.running == old.digest
    assert device.status["pending"] is None


def test_a_release_that_is_disabled_is_called_off(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold("install"),))
    release = cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run()
    cloud.disable(release)
    device.link.notify()
    device.run()
    end = cloud.ends()[-1]
    assert (end.outcome, end.reason) == (Outcome.CANCELLED, Reason.WITHDRAWN)
    assert device.idle()
    assert device.status["pending"] is None


def test_nothing_is_called_off_once_it_is_tried(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    release = cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    cloud.disable(release)
    device.link.notify()
    device.run(until=lambda: len(cloud.ends()) == 2)
    assert cloud.ends()[-1].outcome is Outcome.SUCCEEDED
    device.run()
    assert world.running == old.digest  # and then it goes to what is wanted
