"""What the cloud's link does while the broker is away, silent or slow, over real brokers."""

import asyncio
import logging
import os
import signal

import pytest

from cloud import link as link_module
from cloud.broker import HOST, EmbeddedBroker
from cloud.link import LinkError
from protocol.codec import encode
from tests.cloud.hearing import HELLO, MESSAGES, TIMEOUT_S, TOPICS, Hearing, linked, until, up
from tests.support.brokers import free_port
from tests.support.mqtt import Peer


def test_after_the_broker_was_killed_it_comes_back_and_says_so(broker: EmbeddedBroker) -> None:
    async def story() -> None:
        hearing = Hearing()
        async with linked(broker, hearing) as (link, ups):
            await up(ups)
            await asyncio.to_thread(broker.kill)
            await until(lambda: not link.is_connected)
            with pytest.raises(LinkError, match="is not reached; nothing was published"):
                await link.publish("topic", b"")
            await asyncio.to_thread(broker.start)
            await up(ups)
            with Peer(broker.port, "device") as device:
                await asyncio.to_thread(device.publish, TOPICS.up("device", "hello"), encode(HELLO))
            assert await hearing.next() == ("device", HELLO)
            await link.publish("topic", b"")

    asyncio.run(story())


@pytest.mark.broker
def test_a_publish_that_nobody_acknowledges_is_an_error_in_time(mosquitto: EmbeddedBroker) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with linked(mosquitto, Hearing()) as (link, ups):
            await up(ups)
            os.kill(mosquitto.pid, signal.SIGSTOP)
            try:
                with pytest.raises(LinkError, match="did not acknowledge"):
                    await link.publish("topic", b"", timeout_s=0.2)
                waiting = asyncio.create_task(link.publish("topic", b"", timeout_s=60))
                await asyncio.sleep(0)
                began = loop.time()
                await asyncio.to_thread(mosquitto.kill)
                with pytest.raises(LinkError, match="was lost before it acknowledged"):
                    await waiting
                assert loop.time() - began < TIMEOUT_S
            finally:
                if mosquitto.is_running:
                    os.kill(mosquitto.pid, signal.SIGCONT)

    asyncio.run(story())


@pytest.mark.broker
def test_what_devices_say_while_the_cloud_is_away_for_a_moment_waits_at_the_broker(mosquitto: EmbeddedBroker) -> None:
    async def story() -> None:
        hearing = Hearing()
        async with linked(mosquitto, hearing) as (_, ups):
            await up(ups)
        with Peer(mosquitto.port, "device") as device:
            for kind in ("hello", "report"):
                await asyncio.to_thread(device.publish, TOPICS.up("device", kind), encode(MESSAGES[kind]))
        async with linked(mosquitto, hearing) as (_, ups):
            await up(ups)
            assert [(await hearing.next())[1] for _ in range(2)] == [HELLO, MESSAGES["report"]]

    asyncio.run(story())


def test_without_a_broker_it_tries_on_and_ends_when_it_is_told_to(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with linked(port, Hearing()) as (link, _):
            await until(lambda: link._backoff._failures >= 4)
            with pytest.raises(LinkError, match="is not reached"):
                await link.publish("topic", b"")
            began = loop.time()
        assert loop.time() - began < 2

    with caplog.at_level(logging.WARNING, logger="cloud.link"):
        asyncio.run(story())
    assert [f"mqtt://{HOST}:{port}" in record.getMessage() for record in caplog.records] == [True]


def test_a_listener_that_says_nothing_is_given_up_and_the_other_version_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT_S", 0.3)

    async def story() -> None:
        levels: asyncio.Queue[int] = asyncio.Queue()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            levels.put_nowait((await reader.read(100))[8])
            await reader.read()  # until the client closes the connection, which is what it must do
            writer.close()
            await writer.wait_closed()
            levels.put_nowait(0)

        server = await asyncio.start_server(listen, HOST, 0)
        async with server:
            async with linked(server.sockets[0].getsockname()[1], Hearing()):
                assert [await asyncio.wait_for(levels.get(), TIMEOUT_S) for _ in range(3)] == [5, 0, 4]
            assert await asyncio.wait_for(levels.get(), TIMEOUT_S) == 0

    asyncio.run(story())
