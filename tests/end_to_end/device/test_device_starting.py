"""D7, and half of D10: what is installed when the application starts, and what is when it says that it is ready."""

import pytest

from cloud.demo.observing import digest_of
from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
AT_NEXT_START = {"install": "next_start"}


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


def test_a_mandatory_update_that_is_known_goes_before_the_application(
    device: Watched, factory: Image, new: Image
) -> None:
    device.push(new, "--mandatory")
    device.expect_pending(new, "next_session")
    device.end()
    device.expect_only_started(factory)
    device.begin()
    device.expect_success(new)
    device.expect_only(factory, new)  # the version before was not started again


def test_a_mandatory_update_that_came_meanwhile_goes_before_the_application(
    workshop: Workshop, factory: Image, new: Image
) -> None:
    device = workshop.device(factory, "--startup-wait", "30")
    device.end()
    device.push(new, "--mandatory")
    device.begin()
    device.expect_success(new)
    device.expect_only(factory, new)


def test_an_update_that_is_not_mandatory_lets_the_application_start_first(
    workshop: Workshop, factory: Image, images: Images
) -> None:
    # Large, and a chunk at a time: the version before is stopped once it is there, and is to have said so by then.
    large = images.thermostat("7.15.0", filler_bytes=32 * 1024 * 1024)
    device = workshop.device(factory, "--startup-wait", "30", "--window", "65536")
    device.end()
    device.push(large)
    device.begin()
    device.expect_success(large)
    device.expect_only(factory, factory, large)


def downloaded(workshop: Workshop, factory: Image, new: Image) -> Watched:
    """Return a device that installs at the next start, and has downloaded an image."""
    device = workshop.device(factory, updates=AT_NEXT_START)
    with device.listening() as ear:
        device.push(new, "--immediate")
        assert ear.expect("update_ready")["version"] == new.version
    device.expect_pending(new, "next_start")
    assert digest_of(device.slots / "target") == new.digest, "it is on the disk, whole"
    device.expect_ends(new, ("installing", None))
    device.expect_only(factory)
    return device


def test_what_is_downloaded_is_installed_when_the_device_starts_next(
    workshop: Workshop, factory: Image, new: Image
) -> None:
    device = downloaded(workshop, factory, new)
    device.end()
    device.expect_only_started(factory)
    device.begin()
    device.expect_success(new)
    device.expect_only(factory, new)


def test_what_is_downloaded_is_installed_when_the_application_starts_next(
    workshop: Workshop, factory: Image, new: Image
) -> None:
    device = downloaded(workshop, factory, new)
    device.end_application()
    device.expect_success(new)
    device.expect_only(factory, new)


@pytest.mark.parametrize("who", ["application", "person"])
def test_what_is_downloaded_is_installed_when_somebody_says_that_it_may_be(
    workshop: Workshop, factory: Image, new: Image, who: str
) -> None:
    device = downloaded(workshop, factory, new)
    device.check()  # asking is no readiness
    device.expect_only(factory)
    if who == "application":
        device.tell("/updates/ready")
    else:
        device.command("ready")
    device.expect_success(new)
    device.expect_only(factory, new)
