"""The control connection over real brokers: typed messages in order, acknowledged publishes, nothing that ends it."""

import asyncio
import logging
import socket
from contextlib import suppress

import pytest

from cloud.broker import HOST, EmbeddedBroker
from cloud.connection import BrokerAccess
from cloud.inbox import Room
from cloud.link import Link, UpMessage
from protocol.codec import MAX_MESSAGE_BYTES, encode
from protocol.phases import Phase
from protocol.topics import Topics
from protocol.up import Ask, Asked, DeviceState, Presence, Want
from tests.cloud.hearing import HELLO, MESSAGES, TOPICS, Hearing, linked, until, up
from tests.support.mqtt import Peer


def test_every_kind_of_message_arrives_as_what_it_is(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        hearing = Hearing()
        async with linked(broker, hearing, find_version=True) as (link, ups):
            await up(ups)
            with Peer(broker.port, "device") as device:
                for kind, message in MESSAGES.items():
                    await asyncio.to_thread(device.publish, TOPICS.up("device", kind), encode(message))
                    assert await hearing.next() == ("device", message)
            assert link.received() == dict.fromkeys(MESSAGES, 1)
            assert link.refused() == {}

    asyncio.run(story())


def test_what_is_published_is_with_the_broker_when_publish_returns(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        async with linked(broker, Hearing()) as (link, ups):
            await up(ups)
            topic = TOPICS.notice("thermostat", "everyone", "app")
            await link.publish(topic, b"notice", retain=True)
            await link.publish(TOPICS.down("device", "ack"), b"ack", qos=0)
            with Peer(broker.port, "late") as late:
                await asyncio.to_thread(late.subscribe, topic)
                assert await asyncio.to_thread(late.receive) == (topic, b"notice")

    asyncio.run(story())


BAD: list[tuple[str, bytes, tuple[str, str]]] = [
    (TOPICS.up("device", "hello"), encode(HELLO)[:-1], ("hello", "bad_message")),
    (TOPICS.up("device", "hello"), b"", ("hello", "bad_message")),
    (TOPICS.up("device", "hello"), b"\xff\xfe", ("hello", "bad_message")),
    (TOPICS.up("device", "state"), b'{"session":1,"session":2}', ("state", "bad_message")),
    (TOPICS.up("device", "state"), b'{"session":NaN}', ("state", "bad_message")),
    (TOPICS.up("device", "state"), b"[" * 50_000, ("state", "bad_message")),
    (TOPICS.up("device", "report"), b'{"journal_id":1,"entries":"none"}', ("report", "bad_message")),
    (TOPICS.up("device", "want"), b'{"blob":"../../etc/passwd","ranges":[[0,1]]}', ("want", "bad_message")),
    (TOPICS.up("device", "ask"), b" " * (MAX_MESSAGE_BYTES + 1), ("ask", "bad_message")),
    (TOPICS.up("device", "nonsense"), b"{}", ("topic", "bad_identity")),
    (TOPICS.up("DEVICE", "hello"), encode(HELLO), ("topic", "bad_identity")),
    (TOPICS.up("a" * 65, "hello"), encode(HELLO), ("topic", "bad_identity")),
]


def test_what_is_wrong_is_counted_logged_once_and_ends_nothing(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        hearing = Hearing()
        async with linked(broker, hearing) as (link, ups):
            await up(ups)
            with Peer(broker.port, "device") as device:
                for _ in range(2):
                    for topic, payload, _ in BAD:
                        await asyncio.to_thread(device.publish, topic, payload)
                for kind in ("ask", "want"):  # each of the two lines is through with what came before
                    await asyncio.to_thread(device.publish, TOPICS.up("device", kind), encode(MESSAGES[kind]))
                    assert await hearing.next() == ("device", MESSAGES[kind])
            expected = {key: 2 * sum(1 for *_, other in BAD if other == key) for *_, key in BAD}
            assert link.refused() == expected

    with caplog.at_level(logging.WARNING, logger="cloud.refusals"):
        asyncio.run(story())
    told = [record.getMessage() for record in caplog.records if "was not processed" in record.getMessage()]
    assert len(told) == len({(topic.split("/")[3], key) for topic, _, key in BAD}), "once a device, kind and code"
    assert any(line.startswith("want of device was not processed (bad_message): Want: ") for line in told)


def test_an_old_copy_that_somebody_retained_is_not_a_message(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        with Peer(broker.port, "device") as device:
            for kind in ("want", "presence"):
                await asyncio.to_thread(device.publish, TOPICS.up("device", kind), encode(MESSAGES[kind]), retain=True)
        hearing = Hearing()
        async with linked(broker, hearing) as (link, ups):
            await up(ups)
            assert await hearing.next() == ("device", MESSAGES["presence"])
            with Peer(broker.port, "device") as device:
                await asyncio.to_thread(device.publish, TOPICS.up("device", "want"), encode(MESSAGES["want"]))
            assert await hearing.next() == ("device", MESSAGES["want"])
            assert link.refused() == {("want", "retained"): 1}
            assert hearing.heard.empty()

    asyncio.run(story())


@pytest.mark.broker
def test_a_slow_handler_keeps_each_device_in_order_and_holds_up_neither_others_nor_wants(
    mosquitto: EmbeddedBroker,
) -> None:
    async def story() -> None:
        release = asyncio.Event()

        async def slow(device_id: str, message: UpMessage) -> None:
            if device_id == "slow" and not isinstance(message, Want):
                await release.wait()

        hearing = Hearing(before=slow)
        async with linked(mosquitto, hearing) as (link, ups):
            await up(ups)
            with Peer(mosquitto.port, "both") as peer:
                for request in range(5):
                    await asyncio.to_thread(
                        peer.publish, TOPICS.up("slow", "ask"), encode(Ask(request=request, what=Asked.BUNDLE))
                    )
                await asyncio.to_thread(peer.publish, TOPICS.up("slow", "want"), encode(MESSAGES["want"]))
                await asyncio.to_thread(peer.publish, TOPICS.up("other", "hello"), encode(HELLO))
                assert sorted([(await hearing.next())[0] for _ in range(2)]) == ["other", "slow"]
                assert link.waiting == 4
                release.set()
                asks = [(await hearing.next())[1] for _ in range(5)]
                assert [ask.request for ask in asks if isinstance(ask, Ask)] == [0, 1, 2, 3, 4]

    asyncio.run(story())


@pytest.mark.broker
def test_at_overload_reports_are_refused_and_the_newest_state_is_kept(mosquitto: EmbeddedBroker) -> None:
    async def story() -> None:
        release = asyncio.Event()

        async def stuck(_device_id: str, _message: UpMessage) -> None:
            await release.wait()

        hearing = Hearing(before=stuck)
        async with linked(mosquitto, hearing, room=Room(messages=10), workers=1) as (link, ups):
            await up(ups)
            with Peer(mosquitto.port, "device") as device:
                for _ in range(30):
                    await asyncio.to_thread(device.publish, TOPICS.up("device", "report"), encode(MESSAGES["report"]))
                for seq in range(30):
                    state = DeviceState(session=1, seq=seq, phase=Phase.IDLE)
                    await asyncio.to_thread(device.publish, TOPICS.up("device", "state"), encode(state))
                await asyncio.to_thread(device.publish, TOPICS.up("device", "want"), encode(MESSAGES["want"]))
            await until(lambda: link.received().get("want"))
            refused = link.refused()[("report", "overload")]
            assert 15 <= refused <= 20
            release.set()
            heard = [await hearing.next() for _ in range(30 - refused + 2)]
            states = [message.seq for _, message in heard if isinstance(message, DeviceState)]
            assert states == [29]
            assert link.waiting == 0
            with Peer(mosquitto.port, "device") as device:
                await asyncio.to_thread(device.publish, TOPICS.up("device", "report"), encode(MESSAGES["report"]))
            assert await hearing.next() == ("device", MESSAGES["report"])

    asyncio.run(story())


def test_a_handler_that_fails_is_counted_and_the_next_message_is_handled(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        async def failing(device_id: str, _message: UpMessage) -> None:
            if device_id == "bad":
                raise ZeroDivisionError

        hearing = Hearing(before=failing)
        async with linked(broker, hearing, workers=1) as (link, ups):
            await up(ups)
            with Peer(broker.port, "device") as device:
                for name in ("bad", "good"):
                    await asyncio.to_thread(device.publish, TOPICS.up(name, "hello"), encode(HELLO))
            assert await hearing.next() == ("good", HELLO)
            assert link.refused() == {("hello", "failed"): 1}

    asyncio.run(story())


def test_the_socket_has_no_delay(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        async with linked(broker, Hearing()) as (link, ups):
            await up(ups)
            assert link._client is not None
            opened = link._client._client.socket()
            assert isinstance(opened, socket.socket)
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(story())


def test_a_broker_is_called_by_its_url() -> None:
    assert [str(BrokerAccess(host=host)) for host in ("broker", "::1")] == ["mqtt://broker:1883", "mqtt://[::1]:1883"]


def test_the_password_is_in_no_text() -> None:
    access = BrokerAccess(host="broker", username="cloud", password="hunter2")
    assert "hunter2" not in f"{access} {access!r}"


@pytest.mark.parametrize("topic", [b"a/+/b", b"#", b"", b"\xff\xfe"])
def test_a_message_without_a_topic_is_refused_once_and_the_next_one_is_handled(topic: bytes) -> None:
    good = b"fleetlift/v1/d/pi-1/up/presence"
    handled: list[str] = []

    def publish(name: bytes) -> bytes:
        body = len(name).to_bytes(2, "big") + name + b"\x00" + encode(Presence(online=True, session=1))
        return b"\x31%c%b" % (len(body), body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01" + publish(topic) * 2 + publish(good)):
            await reader.read(4096)
            writer.write(answer)
        await reader.read()
        writer.close()

    async def run() -> None:
        came = asyncio.Event()

        async def handle(device_id: str, _message: UpMessage) -> None:
            handled.append(device_id)
            came.set()

        async with await asyncio.start_server(serve, HOST, 0) as server:
            link = Link(BrokerAccess(host=HOST, port=server.sockets[0].getsockname()[1]), Topics(), handle)
            running = asyncio.ensure_future(link.run())
            await asyncio.wait_for(came.wait(), 10)
            assert link.refused() == {("topic", "no_topic"): 2}
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(run())
    assert handled == ["pi-1"]
