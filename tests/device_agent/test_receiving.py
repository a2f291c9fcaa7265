"""Bulk is handed on where it lies in the packet; all else takes paho's way."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from cloud.broker import EmbeddedBroker
from device_agent.receiving import MAX_UNSENT, Receiver
from tests.support.linking import TOPICS, DeafBroker, Owner
from tests.support.mqtt import Peer


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    made: list[Owner] = []
    yield made
    for owner in made:
        owner.link.stop(timeout_s=1)


def test_bulk_is_handed_on_where_it_lies_and_all_else_goes_its_way(broker: EmbeddedBroker, owners: list[Owner]) -> None:
    """Nothing would come as bulk if paho did not call the private method that is overridden."""
    owner = Owner(broker.url)
    owners.append(owner)
    bulk, other = TOPICS.chunks("a" * 64), TOPICS.chunks("b" * 64)
    owner.bulk_topics = {bulk, "acknowledged"}
    owner.link.subscribe({bulk: 0, other: 0, "acknowledged": 1})
    owner.link.start()
    owner.expect("up")
    content = os.urandom(64 * 1024 + 12)
    with Peer(broker.port, "cloud") as peer:
        for payload in (b"raise", content, b"", b"x"):
            peer.publish(bulk, payload, qos=0)
            assert owner.receive() == (f"bulk: {bulk}", payload)
        for topic, qos in (("acknowledged", 1), (other, 0)):
            peer.publish(topic, content, qos=qos)
            assert owner.receive() == (topic, content)
    assert owner.events.empty()


def test_bulk_with_properties_goes_the_usual_way(owners: list[Owner]) -> None:
    topic = b"\x00\x04bulk"
    plain, described = topic + b"\x00ab", topic + b"\x02\x01\x01cd"
    with DeafBroker(then=b"".join(b"\x30%c" % len(body) + body for body in (plain, described))) as deaf:
        owner = Owner(deaf.url)
        owners.append(owner)
        owner.bulk_topics = {"bulk"}
        owner.link.start()
        owner.expect("up")
        assert [owner.receive(), owner.receive()] == [("bulk: bulk", b"ab"), ("bulk", b"cd")]
        assert owner.link.is_up


def test_a_message_of_a_quality_that_nobody_asked_for_ends_the_connection(owners: list[Owner]) -> None:
    """Such messages are kept until they are released: a broker that never does could fill the device's memory."""
    body = b"\x00\x01t\x00\x05\x00" + b"x" * 100
    for first in (0x34, 0x36):
        with DeafBroker(then=bytes((first, len(body))) + body) as deaf:
            owner = Owner(deaf.url)
            owners.append(owner)
            owner.link.start()
            assert deaf.connected.acquire(timeout=10)
            assert deaf.connected.acquire(timeout=10), "it is still connected"
            owner.link.stop(timeout_s=1)
            assert owner.messages.empty()


@pytest.mark.parametrize("packet", [b"\x32\x06\x00\x01t\x00\x05\x00", b"\xc0\x00", b"\x62\x02\x00\x05"])
def test_a_broker_that_has_us_answer_and_does_not_read_is_left(packet: bytes) -> None:
    """Its few bytes would be some hundred in the device's memory, each time."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    receiver = Receiver(
        CallbackAPIVersion.VERSION2, "d", protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    receiver._create_socket_connection = lambda: near  # type: ignore[method-assign]

    def flood() -> None:
        with contextlib.suppress(OSError):
            far.sendall(b"\x20\x03\x00\x00\x00" + packet * 50_000)

    with near, far:
        receiver.connect("nowhere")
        thread = threading.Thread(target=flood)
        thread.start()
        highest = 0
        while receiver.loop(1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS and highest <= MAX_UNSENT + 200:
            highest = max(highest, len(receiver._out_packet))
        assert MAX_UNSENT // 2 < highest <= MAX_UNSENT + 200
        far.shutdown(socket.SHUT_RDWR)
        thread.join(10)
