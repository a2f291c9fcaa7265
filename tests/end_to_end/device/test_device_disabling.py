"""D1 to D4: an application disables and enables updates, and hears of what waits."""

import time

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


def decide(device: Watched, image: Image, urgency: str, kind: str) -> None:
    """Have the operator decide an image, for a fleet (of one) or for the single device."""
    if kind == "fleet":
        device.push(image, urgency)
    else:
        device.publish(image)
        device.fleet.json("ota", device.device_id, image.version, urgency)


@pytest.mark.parametrize("urgency", ["--gradual", "--immediate"])
@pytest.mark.parametrize("kind", ["fleet", "single device"])
def test_nothing_starts_while_updates_are_disabled_and_the_pending_one_when_they_are_enabled(
    device: Watched, factory: Image, new: Image, urgency: str, kind: str
) -> None:
    device.tell("/updates/disable", why="measuring")
    decide(device, new, urgency, kind)
    device.check()  # a gradual one would be taken now
    device.expect_pending(new, "disabled")
    device.check()
    assert device.ends() == []
    assert not (device.slots / "target").exists(), "it was downloaded"
    device.expect_only(factory)
    enabled_at_ms = time.time() * 1000
    device.tell("/updates/enable")
    device.expect_success(new)
    assert device.attempts()[0]["started_at_ms"] >= int(enabled_at_ms)
    device.expect_only(factory, new)


def test_a_disabling_outlasts_the_agent_until_a_person_enables(device: Watched, factory: Image, new: Image) -> None:
    device.command("disable", "--why", "maintenance")
    device.cut_power()
    device.push(new, "--immediate")
    device.begin()
    device.expect_pending(new, "disabled")
    device.expect_only(factory, factory)
    assert device.ends() == []
    device.command("enable")
    device.expect_success(new)


def test_a_disabling_ends_by_itself_when_its_time_is_up(device: Watched, factory: Image, new: Image) -> None:
    device.publish(new)
    disabled_at = time.time()
    device.tell("/updates/disable", until_s=4)
    device.fleet.json("ota", device.device_id, new.version)
    with device.listening() as ear:
        ear.expect("updates_enabled")
        assert time.time() >= disabled_at + 4
    device.expect_success(new)
    assert device.attempts()[0]["started_at_ms"] >= (disabled_at + 4) * 1000 - 1
    device.expect_only(factory, new)


def test_updates_are_enabled_unless_somebody_says_otherwise(workshop: Workshop, factory: Image) -> None:
    usual, careful = workshop.device(factory), workshop.device(factory, "--updates-disabled")
    for device, enabled in ((usual, True), (careful, False)):
        device.wait_until(
            lambda device=device, enabled=enabled: device.shown()["availability"]["enabled"] is enabled,  # type: ignore[misc]
            f"the cloud shows that updates are {'enabled' if enabled else 'disabled'}",
        )
        assert device.application()["updates_enabled"] is enabled


def test_the_running_application_hears_of_a_release_that_waits(device: Watched, factory: Image, new: Image) -> None:
    assert device.application()["updates_pending"] is False
    device.push(new)  # gradual, in the middle of a session
    device.wait_until(lambda: device.application()["updates_pending"], "the application sees updates_pending")
    device.wait_until(lambda: device.application()["events"], "its handler is called")
    told = {"component": "app", "version": new.version, "mandatory": False, "forced": False}
    assert device.application()["events"] == [{"event": "firmware_update_pending", **told}]
    device.expect_only(factory)
    device.check()
    device.expect_success(new)
    device.wait_until(lambda: device.application()["updates_pending"] is False, "nothing waits any more")
