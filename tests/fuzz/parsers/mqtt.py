"""Targets: packets of a broker that means ill, at the device's link and at the cloud's.

An input is a row of packets, each its first byte, the length of its body (two bytes) and its body; they are framed as
MQTT frames them. After a first byte of 0 the body goes out as it is, framed or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiomqtt
from paho.mqtt.enums import MQTTProtocolVersion

from cloud.connection import BrokerAccess
from cloud.link import Link as CloudLink
from cloud.link import UpMessage
from device_agent.connection import Connection
from device_agent.link_settings import LinkSettings
from device_agent.log_limit import LogLimit
from device_agent.receiving import Receiver
from protocol.chunks import pack_chunk
from protocol.codec import encode
from protocol.topics import Topics
from protocol.up import Ask, DeviceState, Hello, Presence, Report, Want
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.agent import heard
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import MESSAGES

TOPICS: Final = Topics()
MAX_FRAMED_BYTES: Final = 150_000
_OURS: Final = ("/device_agent/", "/cloud/", "/protocol/")


def framed(content: bytes) -> bytes:
    """Return the bytes that an input stands for."""
    out, position = bytearray(), 0
    while position + 3 <= len(content) and len(out) < MAX_FRAMED_BYTES:
        first, length = content[position], int.from_bytes(content[position + 1 : position + 3], "big")
        body = content[position + 3 : position + 3 + length]
        position += 3 + length
        if first:
            out.append(first)
            remaining = len(body)
            while True:
                out.append(remaining % 128 | (0x80 if remaining > 127 else 0))
                remaining //= 128
                if not remaining:
                    break
        out += body
    return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    """Return one packet as an input has it."""
    return bytes((first,)) + len(body).to_bytes(2, "big") + body


def publish(topic: str, payload: bytes, *, qos: int = 0, version_5: bool = True, properties: bytes = b"") -> bytes:
    """Return a PUBLISH."""
    name = topic.encode()
    mid = b"\x00\x05" if qos else b""
    more = bytes((len(properties),)) + properties if version_5 else b""
    return packet(0x30 | qos << 1, len(name).to_bytes(2, "big") + name + mid + more + payload)


UP_5: Final = packet(0x20, b"\x00\x00\x00") + packet(0x90, b"\x00\x01\x00\x01")
UP_3: Final = packet(0x20, b"\x00\x00") + packet(0x90, b"\x00\x01\x01")


def rows() -> list[bytes]:
    """Return what brokers send, in both versions: first the byte that says which."""
    found = []
    for version_5, up in ((True, UP_5), (False, UP_3)):
        mark = b"\x05" if version_5 else b"\x04"
        for each in heard():
            topic, _, payload = each.partition(b"\n")
            found.append(mark + up + publish(topic.decode(), payload[:60_000], qos=1, version_5=version_5))
        chunk = publish(TOPICS.chunks("a" * 64), pack_chunk(0, b"x" * 500), version_5=version_5)
        ends = b"\x00\x07" + (b"\x00\x00" if version_5 else b"")
        more = (packet(0xD0, b""), packet(0x40, ends), packet(0xB0, ends), packet(0xE0, b"\x8e\x00"), packet(0xC0, b""))
        two = publish("t", b"p", qos=2, version_5=version_5)
        found += [
            mark + up + chunk + chunk,
            mark + up + b"".join(more),
            mark + up + two + packet(0x62, b"\x00\x05"),
            mark + packet(0x20, b"\x00\x84\x00"),
        ]
    described = publish("t", b"p", properties=b"\x01\x01\x02\x00\x00\x00\x09\x03\x00\x01c\x26\x00\x01k\x00\x01v")
    found.append(b"\x05" + UP_5 + described)
    found.append(
        b"\x05"
        + packet(0x20, b"\x00\x00\x13\x27\x00\x02\x04\x00\x21\x00\x0a\x24\x01\x22\x00\x05\x12\x00\x02id\x25\x01")
    )
    return found


class _Loud(logging.Handler):
    """Takes note of what somebody logged with a traceback: an error that was caught, and should not have been."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.caught: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.caught.append(record.exc_info[1])


@contextlib.contextmanager
def listening(name: str) -> Iterator[_Loud]:
    """Note what a module logs, and let it go no further."""
    logger, handler = logging.getLogger(name), _Loud()
    before = logger.propagate, logger.disabled
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled = before


def is_ours(error: BaseException) -> bool:
    """Tell whether an error was raised in our own code, and not in paho's, which stumbles over some packets."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    return any(part in place for part in _OURS) and "site-packages" not in place


class _Wired(Connection):
    """A connection that is there already, by a pair of sockets."""

    near: socket.socket

    def _make_client(self, will: tuple[str, bytes]) -> Receiver:
        client = super()._make_client(will)
        client.on_socket_open = None  # TCP's options are not for such a socket
        client._create_socket_connection = lambda: self.near  # type: ignore[method-assign]
        return client


_CONNECTION_LOG: Final = "device_agent.connection"
SETTINGS: Final = LinkSettings(url="mqtt://127.0.0.1:1", device_id="pi-1", connect_timeout_s=5.0)


@contextlib.contextmanager
def device_link(_directory: Path) -> Iterator[Parse]:
    """A device's connection, from CONNECT to its end: it ends, and none of our own code stumbles."""
    wanted: dict[str, int] = {TOPICS.all_down("pi-1"): 1}

    with listening(_CONNECTION_LOG) as loud:

        def parse(content: bytes) -> object:
            heard_bytes: list[int] = []

            def take(topic: str, payload: memoryview) -> bool:
                heard_bytes.append(len(topic) + len(payload))
                return True

            near, far = socket.socketpair()
            with near, far:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_FRAMED_BYTES)
                far.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    far.send(framed(content[1:]))
                far.shutdown(socket.SHUT_WR)
                is_5 = content[:1] != b"\x04"
                connection = _Wired(
                    SETTINGS,
                    MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
                    will=(TOPICS.up("pi-1", "presence"), b"{}"),
                    filters=lambda: (wanted, ()),
                    on_up=lambda _present: None,
                    on_message=lambda topic, payload: heard_bytes.append(len(topic) + len(payload)),
                    on_bulk=take,
                    on_denied=lambda _what, _why: None,
                    limited=LogLimit(logging.getLogger(_CONNECTION_LOG)),
                )
                connection.near = near
                loud.caught.clear()
                try:
                    why = connection.run(threading.Event()).why
                except Exception as error:
                    if is_ours(error):
                        raise
                    why = type(error).__name__  # the link logs it, and makes another connection
                for caught in loud.caught:
                    if is_ours(caught):
                        raise caught
                return f"{why[:40]} {len(heard_bytes)}"

        yield parse


KINDS: Final = {Hello: "hello", DeviceState: "state", Report: "report", Want: "want", Ask: "ask", Presence: "presence"}


def said() -> list[bytes]:
    """Return a message of each kind that the cloud hears: a line of flags, its topic, its payload."""
    return [
        (b"r" if type(message) is Presence else b"-") + TOPICS.up("pi-1", kind).encode() + b"\n" + encode(message)
        for message in MESSAGES
        if (kind := KINDS.get(type(message))) is not None
    ]


@contextlib.contextmanager
def cloud_link(_directory: Path) -> Iterator[Parse]:
    """The cloud's link, from aiomqtt's message to the handler: whatever comes is handled, or refused by name."""
    loop = asyncio.new_event_loop()
    handled: list[UpMessage] = []

    async def handle(device_id: str, message: UpMessage) -> None:
        assert device_id
        handled.append(message)

    link = CloudLink(BrokerAccess(host="127.0.0.1"), TOPICS, handle)
    workers = [loop.create_task(link._work(lane)) for lane in link._lanes.values()]

    async def settled() -> None:
        while link.waiting or any(lane.inbox._lines for lane in link._lanes.values()):  # noqa: ASYNC110 - it is at once
            await asyncio.sleep(0)

    def parse(content: bytes) -> object:
        topic, _, payload = content[1:].partition(b"\n")
        before = dict(link.refused())
        handled.clear()
        text = topic.decode("utf-8", errors="replace")
        try:
            message = aiomqtt.Message(text, payload, 1, content[:1] == b"r", 1, None)
        except ValueError:  # no topic at all: the link has a test of its own for those
            return "no topic"
        link._take(message)
        loop.run_until_complete(settled())
        now = {key: count for key, count in link.refused().items() if count != before.get(key)}
        assert not any(code == "failed" for _, code in now), now
        assert len(handled) + len(now) == 1
        return ",".join(f"{kind} {code}" for kind, code in now) or type(handled[0]).__name__

    try:
        yield parse
    finally:
        for worker in workers:
            worker.cancel()
        loop.run_until_complete(asyncio.gather(*workers, return_exceptions=True))
        loop.close()


TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="mqtt.device",
        make=device_link,
        seeds=rows,
        shape="packets",
        covers=("device_agent.connection.Connection", "device_agent.receiving.Receiver"),
        words=(b"\x30\x00\x04\x00\x01t\x00", b"\x20\x00\x03\x00\x00\x00", b"\x90", b"\x62\x00\x02\x00\x05", UP_5, UP_3),
    ),
    Target(
        name="mqtt.cloud_message",
        make=cloud_link,
        seeds=said,
        shape="json",
        covers=("cloud.link.Link",),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
