"""A cloud without its HTTP side, in a thread, and a device that is a plain MQTT client."""

import asyncio
import dataclasses
import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from cloud.broker import EmbeddedBroker
from cloud.changes import Changes
from cloud.connection import Backoff, BrokerAccess
from cloud.link import Link, UpMessage
from cloud.refusals import Refusals
from cloud.service import Service
from cloud.streams import Streams
from cloud.values import ChannelKey, ReleaseDraft
from protocol.codec import decode, encode
from protocol.down import Ack, Desired, Notice
from protocol.phases import Phase
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, unseal
from protocol.topics import Topics
from protocol.up import AttemptEntry, Entry, Report
from protocol.values import Via
from tests.cloud.homes import PRODUCT, OpenHome, hello_of
from tests.support.mqtt import TIMEOUT_S, Peer
from tests.support.processes import wait_until

T = TypeVar("T")
TOPICS = Topics()
CHANNEL = ChannelKey(PRODUCT, "everyone", "app")


class Cloud:
    """A service in a thread of its own, over an open home."""

    def __init__(self, home: OpenHome, port: int, *, open_joining: bool = True) -> None:
        self.home = home
        access = BrokerAccess(host="127.0.0.1", port=port)
        self.changes = Changes()
        self.streams = Streams(access, home.artifacts, TOPICS)

        async def receive(device_id: str, message: UpMessage) -> None:
            await self.service.receive(device_id, message)

        self.refusals = Refusals()
        backoff = Backoff(longest_s=0.2)
        self.link = Link(access, TOPICS, receive, on_up=self._up, backoff=backoff, refusals=self.refusals)
        self.service = Service(
            home.store,
            home.repository,
            home.artifacts,
            link=self.link,
            streams=self.streams,
            topics=TOPICS,
            changes=self.changes,
            open_joining=open_joining,
            refusals=self.refusals,
        )
        self.ups = queue.SimpleQueue[int]()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="cloud")

    def __enter__(self) -> Self:
        self.streams.start()
        self._thread.start()
        try:
            self.wait_for_connection()
            wait_until(lambda: self.streams.is_connected, what="the streams' connection")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(TIMEOUT_S)
        self.streams.stop()
        assert not self._thread.is_alive(), "the service did not end"

    def wait_for_connection(self) -> None:
        self.ups.get(timeout=TIMEOUT_S * 2)

    def release(self, version: str, **how: Any) -> str:
        made = self.home.store.releases.create(ReleaseDraft(channel=CHANNEL, version=version, **how), by="test")
        self.changes.bump()
        return made.release_id

    def _up(self) -> None:
        self.service.connected()
        self.ups.put(1)

    async def _run(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def stop_soon() -> None:
            loop.call_soon_threadsafe(stop.set)

        self._stop = stop_soon
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(self.service.run()), tasks.create_task(self.link.run())]
            await stop.wait()
            for task in work:
                task.cancel()


class Device:
    """A device's side of the protocol, by hand."""

    def __init__(self, peer: Peer, device_id: str, home: OpenHome) -> None:
        self.peer, self.device_id, self.home = peer, device_id, home
        peer.subscribe(TOPICS.all_down(device_id))
        peer.subscribe(TOPICS.bundle(PRODUCT))
        peer.subscribe(TOPICS.notice(PRODUCT, "everyone", "+"))
        self._kept: list[tuple[str, bytes]] = []

    def say(self, kind: str, message: object) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        self.peer.publish(TOPICS.up(self.device_id, kind), payload, retain=kind == "presence")

    def hear(self, topic: str, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the next message of a topic, keeping those of others for later."""
        for index, (kept, payload) in enumerate(self._kept):
            if kept == topic:
                del self._kept[index]
                return payload
        while True:
            heard, payload = self.peer.receive(timeout_s)
            if heard == topic:
                return payload
            self._kept.append((heard, payload))

    def down(self, kind: str, type_: type[T]) -> T:
        return decode(self.hear(TOPICS.down(self.device_id, kind)), type_)

    def desired(self) -> Desired:
        return unseal(self.hear(TOPICS.down(self.device_id, "desired")), DESIRED_TYPE, Desired, self._verify)

    def notice(self, group: str = "everyone", timeout_s: float = TIMEOUT_S) -> Notice:
        topic = TOPICS.notice(PRODUCT, group, "app")
        return unseal(self.hear(topic, timeout_s), NOTICE_TYPE, Notice, self._verify)

    def hello(self, *, session: int = 1, **facts: Any) -> Desired:
        self.say("hello", hello_of(session=session, **facts))
        self.down("ack", Ack)
        return self.desired()

    def _verify(self, pae: bytes, signatures: tuple[Any, ...]) -> None:
        root = json.loads(self.home.repository.root_bytes)["signed"]
        allowed = root["roles"]["timestamp"]["keyids"]
        assert [signature.keyid for signature in signatures] == allowed
        key = self.home.repository.sign(pae)  # Ed25519 signs the same bytes in the same way
        assert key == signatures


def entry(seq: int, **how: Any) -> Entry:
    digest = hashlib.sha256(b"image of 1.1.0").hexdigest()
    plain = AttemptEntry(
        attempt_id="a1",
        source_id="r1",
        via=Via.RELEASE,
        component="app",
        version="1.1.0",
        digest=digest,
        phase=Phase.DOWNLOADING,
    )
    return Entry(seq=seq, at_ms=1, attempt=dataclasses.replace(plain, **how))


def report(*numbers: int, journal_id: str = "j1", **how: Any) -> Report:
    return Report(journal_id=journal_id, entries=tuple(entry(number, **how) for number in numbers))


@contextmanager
def device_on(cloud: Cloud, broker: EmbeddedBroker, device_id: str = "pi-1") -> Iterator[Device]:
    with Peer(broker.port, device_id) as peer:
        yield Device(peer, device_id, cloud.home)
