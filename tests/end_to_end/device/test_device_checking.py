"""D11: a device asks at the start of a session, on a timer, when its application asks, and with whatever it is told."""

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.fleet import TOPICS
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


def test_a_session_begins_with_a_check(device: Watched, factory: Image, new: Image) -> None:
    device.push(new)  # gradual: not in the middle of this session
    device.expect_pending(new, "next_session")
    device.expect_only(factory)
    session = device.session()
    device.kill()
    device.start()
    device.expect_success(new)
    assert device.session() == session + 1
    device.expect_only(factory, new)


def test_a_timer_checks(workshop: Workshop, factory: Image, new: Image) -> None:
    device = workshop.device(factory, "--check-interval", "1")
    session = device.session()
    device.push(new)
    device.expect_success(new)
    assert device.session() == session, "it was taken in the session in which it was released"
    device.expect_only(factory, new)


@pytest.mark.parametrize("who", ["application", "person"])
def test_the_application_or_a_person_asks_for_a_check(device: Watched, factory: Image, new: Image, who: str) -> None:
    device.push(new)
    device.expect_pending(new, "next_session")
    device.expect_only(factory)
    session = device.session()
    if who == "application":
        device.tell("/updates/check")
    else:
        device.command("check")
    device.expect_success(new)
    assert device.session() == session


def test_what_was_missed_is_noticed_with_whatever_the_cloud_says_next(
    workshop: Workshop, device: Watched, factory: Image, new: Image
) -> None:
    """The broker lost a notice; then the operator changes something else, and that message names the notice."""
    other = workshop.enrol(factory)
    other.push(new, "--immediate")
    topic = TOPICS.notice("thermostat", other.group, "app")
    with device.fleet.peer("forgetful") as peer:
        peer.subscribe(topic)
        assert peer.receive()[0] == topic
        peer.publish(topic, b"", retain=True)
    session = device.session()
    device.fleet.json("group", "add", other.group, device.device_id)
    device.expect_success(new)
    assert device.session() == session
    assert device.followed() == 0, "no hello was answered: it was told of its groups unasked"
    device.expect_only(factory, new)
