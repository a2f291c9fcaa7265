"""The online key stolen and used to the full: what it can do, and that it ends when the key is replaced."""

import dataclasses
from collections.abc import Iterator

import pytest

from protocol.identity import MAX_INTEGER
from tests.attacks.attacker import TOPICS, Intruder, desired, metadata, notice
from tests.attacks.evidence import refused
from tests.attacks.scene import Scene
from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def own_fleet(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[Fleet]:
    """A fleet whose root this file changes."""
    require_mosquitto()
    opened = open_fleet(tmp_path_factory.mktemp("robbed"), images)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def robbed(own_fleet: Fleet) -> Iterator[Scene]:
    """A device whose cloud lost its online key."""
    assert own_fleet.broker.secured is not None
    with Intruder(own_fleet.broker.cloud_port, own_fleet.broker.secured.tls.context()) as intruder:
        yield Scene.begin(own_fleet, intruder, "robbed-1")


def test_numbers_that_were_used_up_are_given_back_when_the_key_is_replaced(robbed: Scene) -> None:
    """The worst that it can do: no number is left for anything that the cloud could ever say again."""
    stolen, device = robbed.key("online"), robbed.device
    silent = dataclasses.replace(robbed.notice(), seq=MAX_INTEGER, releases=())
    closed = dataclasses.replace(robbed.desired(), seq=MAX_INTEGER, ota_enabled=False, metadata_version=MAX_INTEGER)
    files = robbed.files()
    snapshot, timestamp = files.signed("snapshot"), files.signed("timestamp")
    snapshot.version = timestamp.version = 2**31
    files.put("snapshot", snapshot.version, metadata(snapshot, stolen))
    files.put("timestamp", timestamp.version, metadata(timestamp, stolen))
    files.date(stolen)
    slots = robbed.at_rest().slots
    robbed.intruder.say(robbed.channel_topic, notice(silent, stolen), retain=True)
    robbed.intruder.say(robbed.topic("desired"), desired(closed, stolen))
    robbed.intruder.say(TOPICS.bundle(robbed.product), files.bundle, retain=True)
    wait_until(lambda: device.heard("desired") == MAX_INTEGER, what="the last number")
    image = robbed.next_image()
    robbed.fleet.push(image, "--group", robbed.group, "--immediate")
    wait_until(lambda: refused(device).get("stale_notice", 0) > 0, what="the cloud is refused")
    robbed.intruder.fence(device)
    assert robbed.at_rest().slots == slots
    robbed.fleet.call("key", "online", "prepare")
    robbed.fleet.call("key", "online", "replace", "--yes")
    device.expect(image)
    robbed.fleet.expect_outcome(device, image)
    counted = refused(device)
    robbed.intruder.say(robbed.channel_topic, notice(silent, stolen), retain=True)
    robbed.intruder.say(robbed.topic("desired"), desired(closed, stolen))
    robbed.expect_refused("bad_signature", 2, counted)
    robbed.takes_the_next_good_release()
