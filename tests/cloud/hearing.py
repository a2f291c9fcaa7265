"""A cloud's link with nothing behind it but what the tests look at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import MQTTv5, MQTTv311

from cloud.broker import HOST, EmbeddedBroker
from cloud.connection import Backoff, BrokerAccess
from cloud.link import Link, UpMessage
from protocol.phases import Phase
from protocol.topics import Topics
from protocol.up import Ask, Asked, DeviceState, Entry, Hello, JournalPosition, Presence, Report, Want
from protocol.values import ComponentState
from tests.support.processes import wait_until

TOPICS = Topics()
TIMEOUT_S = 20.0
STATE = DeviceState(session=1, seq=1, phase=Phase.IDLE)
HELLO = Hello(
    product="thermostat",
    hardware_model="pi-4",
    agent_version="1.0.0",
    journal=JournalPosition(journal_id="journal", next_seq=1),
    state=STATE,
)
INSTALLED = ComponentState(component="app", version="1.0.0", build=1, digest="ab" * 32)
MESSAGES: dict[str, UpMessage] = {
    "hello": HELLO,
    "state": STATE,
    "report": Report(journal_id="journal", entries=(Entry(seq=1, at_ms=1, installed=INSTALLED),)),
    "want": Want(blob="ab" * 32, ranges=((0, 64),)),
    "ask": Ask(request=1, what=Asked.BUNDLE),
    "presence": Presence(online=True, session=1),
}


@dataclass
class Hearing:
    """A handler that keeps what it hears, in order, and can be made slow or bad."""

    heard: asyncio.Queue[tuple[str, UpMessage]] = field(default_factory=asyncio.Queue)
    before: Callable[[str, UpMessage], Awaitable[None]] | None = None

    async def __call__(self, device_id: str, message: UpMessage) -> None:
        if self.before:
            await self.before(device_id, message)
        self.heard.put_nowait((device_id, message))

    async def next(self) -> tuple[str, UpMessage]:
        return await asyncio.wait_for(self.heard.get(), TIMEOUT_S)


@asynccontextmanager
async def linked(
    broker: EmbeddedBroker | int, handle: Hearing, *, find_version: bool = False, **settings: Any
) -> AsyncIterator[tuple[Link, asyncio.Queue[None]]]:
    """A link that runs, and a queue with an item for each time it came up; without waiting for the first."""
    ups: asyncio.Queue[None] = asyncio.Queue()
    if isinstance(broker, int):
        access = BrokerAccess(host=HOST, port=broker)
    else:
        known = MQTTv311 if broker.kind == "amqtt" and not find_version else MQTTv5
        access = BrokerAccess(host=HOST, port=broker.port, first_version=known)
    settings = {"backoff": Backoff(longest_s=0.2), **settings}
    link = Link(access, TOPICS, handle, on_up=lambda: ups.put_nowait(None), **settings)
    running = asyncio.create_task(link.run())
    try:
        yield link, ups
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until(predicate: Callable[[], object]) -> None:
    """Poll what offers no event to wait on."""
    await asyncio.to_thread(wait_until, predicate)


def up(ups: asyncio.Queue[None]) -> Awaitable[None]:
    return asyncio.wait_for(ups.get(), TIMEOUT_S)
