"""The cloud's control connection: hears every device, hands typed messages on in order, publishes until acknowledged.

Bytes from the network are counted, noted (`cloud/refusals.py`) and dropped when they are not what `docs/protocol.md`
says; nothing that a device sends ends the loop. What waits to be handled is bounded (`cloud/inbox.py` says what gives
way); wants have a line of their own, so that a slow database does not stop downloads.

The session is kept by the broker for an hour, so that a short absence of the cloud loses little. On each connection
the subscription is made again, and `on_up` is called: the broker may have forgotten what it was told to retain.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cloud.connection import (
    ANSWER_TIMEOUT_S,
    KEEPALIVE_S,
    NO_DELAY,
    UNSUPPORTED_VERSION,
    Backoff,
    BrokerAccess,
    TlsError,
    Versions,
)
from cloud.inbox import Inbox, Room, Waiting
from cloud.refusals import Refusals
from protocol.codec import decode
from protocol.errors import FleetliftError, ProtocolError
from protocol.identity import check_id
from protocol.topics import Topics, UpTopic
from protocol.up import Ask, DeviceState, Hello, Presence, Report, Want

UpMessage = Hello | DeviceState | Report | Want | Ask | Presence
Handler = Callable[[str, UpMessage], Awaitable[None]]
"""Takes a device's id and what it said. One message of a device at a time."""

KINDS: Final[Mapping[str, type[UpMessage]]] = {
    "hello": Hello,
    "state": DeviceState,
    "report": Report,
    "want": Want,
    "ask": Ask,
    "presence": Presence,
}
RETAINED: Final = frozenset({"presence"})
"""The kinds that may be retained. Of the others an old copy says nothing; amqtt even sends what nobody asked for."""
SESSION_EXPIRY_S: Final = 3600
MAX_PACKET_BYTES: Final = 132 * 1024
"""The largest packet taken from the broker: the largest message with its headers, and some room for the topic."""
PUBLISH_TIMEOUT_S: Final = 10.0
MAX_PUBLISHING: Final = 64
_SUBSCRIBE_FAILED: Final = 0x80
_log = logging.getLogger(__name__)
_aiomqtt_log = logging.getLogger(f"{__name__}.aiomqtt")
_aiomqtt_log.setLevel(logging.ERROR)  # it warns of what is told here in other words


class LinkError(FleetliftError):
    """The broker is not reached, or did not acknowledge: the message may or may not be with it. Publish it again."""


class Link:
    """`run` connects, and again, until it is cancelled; `publish` meanwhile, from the same event loop."""

    def __init__(
        self,
        broker: BrokerAccess,
        topics: Topics,
        handle: Handler,
        *,
        on_up: Callable[[], None] = lambda: None,
        client_id: str = "fleetlift.control",
        workers: int = 8,
        room: Room | None = None,
        backoff: Backoff | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals or Refusals()
        self._broker = broker
        self._topics = topics
        self._handle = handle
        self._on_up = on_up
        self._client_id = client_id
        self._backoff = backoff or Backoff()
        self._versions = Versions(broker.first_version)
        self._lanes = {"want": _Lane(room, workers=1), "": _Lane(room, workers=workers)}
        self._client: aiomqtt.Client | None = None
        self._lost: asyncio.Future[None] | None = None
        self._publishing = asyncio.Semaphore(MAX_PUBLISHING)
        self._received: Counter[str] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._told = False

    @property
    def is_connected(self) -> bool:
        """Whether the broker is reached, and the subscriptions are made."""
        return self._client is not None

    @property
    def waiting(self) -> int:
        """How many messages wait to be handled."""
        return sum(len(lane.inbox) for lane in self._lanes.values())

    def received(self) -> Mapping[str, int]:
        """Return how many messages came, by kind, the refused ones among them."""
        return dict(self._received)

    def refused(self) -> Mapping[tuple[str, str], int]:
        """Return how many messages were dropped, by (kind, code): codes of ProtocolError, or one of these.

        `overload`: there was no room; `no_topic`: the broker sent one without a topic; `retained`: an old copy;
        `failed`: the handler raised.
        """
        return dict(self._refused)

    async def run(self) -> None:
        """Connect, serve and connect again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, lane in self._lanes.items():
                for number in range(lane.workers):
                    tasks.create_task(self._work(lane), name=f"link-{name or 'control'}-{number}")
            while True:
                delay_s = await self._serve()
                await asyncio.sleep(delay_s)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, timeout_s: float = PUBLISH_TIMEOUT_S
    ) -> None:
        """Publish, and return when the broker has acknowledged it (QoS 1); raises LinkError.

        An acknowledgement says that the broker has the message. A broker that denies it may acknowledge all the same
        (MQTT 3.1.1 offers nothing else).
        """
        async with self._publishing:
            client, lost = self._client, self._lost
            if client is None or lost is None:
                raise LinkError(f"{self._broker} is not reached; nothing was published on {topic}")
            sending = asyncio.ensure_future(client.publish(topic, payload, qos, retain, timeout=timeout_s))
            try:
                await asyncio.wait((sending, lost), return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise LinkError(f"{self._broker} was lost before it acknowledged a message on {topic}")
                sending.result()
            except aiomqtt.MqttError as error:
                raise LinkError(f"{self._broker} did not acknowledge a message on {topic}: {error}") from error
            finally:
                sending.cancel()

    async def _serve(self) -> float:
        """Serve one connection until it ends; return how long to wait before the next."""
        why = "the connection was lost"
        try:
            client = self._make_client()
        except TlsError as error:
            return self._next_delay_s(str(error))
        entering = asyncio.ensure_future(client.__aenter__())
        try:
            await asyncio.shield(entering)
        except aiomqtt.MqttError as error:
            why = str(error) or type(error).__name__
            if not _not_reached(error):
                self._versions.refused()
            await _abandon(client)
        except asyncio.CancelledError:
            with contextlib.suppress(aiomqtt.MqttError):
                await entering  # cancelled half-way, it would leave its socket open for good
            await _abandon(client)
            raise
        else:
            began = asyncio.get_running_loop().time()
            try:
                await self._listen(client)
            except aiomqtt.MqttError as error:
                why = str(error.__cause__ or error)
            finally:
                self._down()
                with contextlib.suppress(aiomqtt.MqttError):
                    await client.__aexit__(None, None, None)
            self._backoff.ended(asyncio.get_running_loop().time() - began)
        return self._next_delay_s(why)

    def _next_delay_s(self, why: str) -> float:
        delay_s = self._backoff.next_s()
        if not self._told:  # once until it is back
            self._told = True
            _log.warning("%s: %s; trying again, next in %.1f s", self._broker, why, delay_s)
        return delay_s

    def _make_client(self) -> aiomqtt.Client:
        is_5 = self._versions.current is MQTTProtocolVersion.MQTTv5
        properties = None
        if is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.MaximumPacketSize = MAX_PACKET_BYTES
        client = _Client(
            self._bad_topic,
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=self._broker.password,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if is_5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if is_5 else False,
            clean_start=False if is_5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            keepalive=KEEPALIVE_S,
            timeout=ANSWER_TIMEOUT_S,
            socket_options=(NO_DELAY,),
            tls_context=None if self._broker.tls is None else self._broker.tls.context(),
            queue_type=self._intake(),
            logger=_aiomqtt_log,
        )
        client.pending_calls_threshold = MAX_PUBLISHING
        return client

    def _intake(self) -> type[asyncio.Queue[aiomqtt.Message]]:
        """Return the queue that aiomqtt fills: it goes straight into the inbox, which has bounds, and stays empty."""
        take = self._take

        class Intake(asyncio.Queue[aiomqtt.Message]):
            def put_nowait(self, item: aiomqtt.Message) -> None:
                take(item)

        return Intake

    async def _listen(self, client: aiomqtt.Client) -> None:
        codes = await client.subscribe(self._topics.all_up(), qos=1)
        if any(_value(code) >= _SUBSCRIBE_FAILED for code in codes):
            raise aiomqtt.MqttError(f"the subscription to {self._topics.all_up()} was refused")
        self._client, self._lost, self._told = client, asyncio.get_running_loop().create_future(), False
        _log.info("connected to %s (MQTT %s)", self._broker, "5" if self._versions.current == 5 else "3.1.1")
        self._on_up()
        async for _ in client.messages:  # none comes this way; it ends when the connection does
            pass

    def _down(self) -> None:
        self._client = None
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def _take(self, message: aiomqtt.Message) -> None:
        topic = message.topic.value
        try:
            meant = self._topics.parse(topic)
        except ProtocolError as error:
            self._refuse(self._who(topic), "topic", error.code, str(error))
            return
        if not isinstance(meant, UpTopic):
            self._refuse(topic, "topic", "not_up", "nothing is published there by devices")
            return
        self._received[meant.kind] += 1
        if message.retain and meant.kind not in RETAINED:
            self._refuse(
                meant.device_id, meant.kind, "retained", "an old copy that the broker retained: it says nothing"
            )
        elif not self._lane(meant.kind).put(Waiting(meant.device_id, meant.kind, topic, message.payload)):
            self._refuse(meant.device_id, meant.kind, "overload", "too many messages were waiting", of_all=True)

    def _bad_topic(self, why: str) -> None:
        self._refuse(str(self._broker), "topic", "no_topic", f"the broker sent a message without a topic: {why}")

    def _lane(self, kind: str) -> "_Lane":
        return self._lanes.get(kind) or self._lanes[""]

    async def _work(self, lane: "_Lane") -> None:
        while True:
            waiting = await lane.take()
            try:
                message = decode(waiting.payload, KINDS[waiting.kind])
                await self._handle(waiting.device_id, message)
            except ProtocolError as error:
                self._refuse(waiting.device_id, waiting.kind, error.code, str(error))
            except Exception as error:  # noqa: BLE001 - whatever one message does, the next is handled
                why = f"the server failed at it: {type(error).__name__}: {error}"
                self._refuse(waiting.device_id, waiting.kind, "failed", why, of_all=True)
                _log.debug("%s", waiting.topic, exc_info=error)
            finally:
                lane.done(waiting.device_id)
            await asyncio.sleep(0)  # a handler that never waits must not keep the connection from being read

    def _refuse(self, who: str, kind: str, code: str, why: str, *, of_all: bool = False) -> None:
        self._refused[kind, code] += 1
        self._refusals.note(who, kind, code, why, of_all=of_all)

    def _who(self, topic: str) -> str:
        """Return the device that a topic names in its place, though it is none of ours; else the topic."""
        device_id = topic.removeprefix(f"{self._topics.root}/d/").partition("/")[0]
        try:
            return check_id(device_id)
        except ProtocolError:
            return topic


class _Client(aiomqtt.Client):
    """aiomqtt's client, but a message whose topic is none (not UTF-8, empty, a filter) does no more than be refused.

    What is raised while paho hands a message on leaves the packet where it is: it is handed on again, and again, with
    all of a processor's power, for as long as the connection lasts.
    """

    def __init__(self, refuse: Callable[[str], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refuse = refuse

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            super()._on_message(client, userdata, message)
        except ValueError as error:
            self._refuse(str(error))


class _Lane:
    """An inbox with those who work on it."""

    def __init__(self, room: Room | None, *, workers: int) -> None:
        self.inbox = Inbox(room)
        self.workers = workers
        self._filled = asyncio.Event()

    def put(self, message: Waiting) -> bool:
        taken = self.inbox.put(message)
        self._filled.set()
        return taken

    async def take(self) -> Waiting:
        while (message := self.inbox.take()) is None:
            self._filled.clear()
            await self._filled.wait()
        return message

    def done(self, device_id: str) -> None:
        self.inbox.done(device_id)
        self._filled.set()


def _not_reached(error: aiomqtt.MqttError) -> bool:
    """Tell a broker that is not there, or refuses for another reason, from one that refuses this MQTT version."""
    if isinstance(error, aiomqtt.MqttCodeError):
        return _value(error.rc) not in (UNSUPPORTED_VERSION, 1)
    return error.args != ("Operation timed out",)


async def _abandon(client: aiomqtt.Client) -> None:
    """Close the socket of a client whose `__aenter__` failed, which leaves it open when no answer came."""
    client.timeout = 0.1
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)


def _value(code: Any) -> int:
    return int(code.value if isinstance(code, ReasonCode) else code)
