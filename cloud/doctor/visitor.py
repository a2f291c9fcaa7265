"""An MQTT client that tells what the broker answered, word by word, and what it did without a word.

Everything is awaited: `publish` returns the broker's reason code, `until` what came before a message of one's own.
That order is kept makes an absence provable without waiting for it: what was going to come would have come before.
"""

import contextlib
import queue
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cloud.connection import CONNECT_TIMEOUT_S, NO_DELAY
from protocol.errors import FleetliftError

ANSWER_TIMEOUT_S: Final = 5.0
FAILURE: Final = 0x80
"""The first reason code that says no (MQTT 5, section 2.4)."""
NO_SUBSCRIBERS: Final = 0x10
"""A success, too."""
MAX_HEARD: Final = 20_000
"""Messages kept until somebody asks for them: an open broker may send us everything that a fleet says."""
MAX_PAYLOAD_BYTES: Final = 1024
"""As much of a payload as is kept."""


class VisitError(FleetliftError):
    """The broker did not let us in, closed the connection, or did not answer in time."""


class RefusedError(VisitError):
    """The broker did not let us in."""


class NotReachedError(VisitError):
    """Nothing listens there, or the way to it is closed: that says nothing about who is let in."""


class SilentError(VisitError):
    """No answer came in time, and the connection stands; `before` is what came instead."""

    def __init__(self, message: str, before: Sequence["Heard"] = ()) -> None:
        super().__init__(message)
        self.before = tuple(before)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that came."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """How to connect. `session_expiry_s` above 0 keeps the session after the connection; `will`: topic and payload."""

    host: str
    port: int
    client_id: str
    context: ssl.SSLContext | None = None
    clean: bool = True
    session_expiry_s: int = 0
    keepalive_s: int = 30
    version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    will: tuple[str, bytes] | None = None
    will_retained: bool = False
    username: str | None = None
    password: str | None = None
    receives_at_most: int | None = None
    """Unacknowledged QoS 1 messages that we take at a time (MQTT 5, Receive Maximum)."""

    def open(self) -> "Visitor":
        """Connect; raises RefusedError or NotReachedError."""
        return Visitor(self).connect()


class Visitor:
    """One connection, made by `connect` and over with `close` or `vanish`."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.welcome: Properties | None = None
        """What the broker stated with its CONNACK (MQTT 5)."""
        self.session_present = False
        self.closed_with: int | None = None
        """The reason code with which the connection ended, once it did."""
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._heard: queue.Queue[Heard | None] = queue.Queue(MAX_HEARD)
        self._client = client = self._make_client()
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_subscribe, self._on_publish
        client.on_message, client.on_socket_open = self._on_message, _no_delay

    @property
    def _is_5(self) -> bool:
        return self.visit.version is MQTTProtocolVersion.MQTTv5

    def connect(self) -> Self:
        """Connect; raises RefusedError or NotReachedError with the reason."""
        visit, properties = self.visit, None
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = visit.session_expiry_s
            if visit.receives_at_most is not None:
                properties.ReceiveMaximum = visit.receives_at_most
        try:
            if self._is_5:
                self._client.connect(
                    visit.host, visit.port, visit.keepalive_s, clean_start=visit.clean, properties=properties
                )
            else:
                self._client.connect(visit.host, visit.port, visit.keepalive_s)
        except (OSError, ValueError) as error:
            hung_up = isinstance(error, ssl.SSLError | ConnectionResetError | BrokenPipeError)
            raise (RefusedError if hung_up else NotReachedError)(_why(error)) from error
        self._client.loop_start()
        try:
            kind, told = self._next_answer("connack")
        except SilentError as error:
            self.vanish()
            raise RefusedError(str(error)) from error
        if kind == "connack" and told < FAILURE:
            return self
        self.vanish()
        raise RefusedError("the connection was closed" if kind == "closed" else f"refused with code 0x{told:02x}")

    def subscribe(self, *filters: str, qos: int = 1, no_local: bool = False) -> list[int]:
        """Subscribe and return the broker's codes: below 0x80 it says that it grants them. Raises VisitError."""
        options = SubscribeOptions(qos, noLocal=no_local)
        wanted: Sequence[Any] = [(it, options if self._is_5 else qos) for it in filters]
        self._client.subscribe(list(wanted))
        return [int(code) for code in self._await("suback")]

    def publish(self, topic: str, payload: bytes = b"", *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return the broker's reason code, 0 where it took it (or QoS 0); raises VisitError."""
        sent = self._client.publish(topic, payload, qos, retain)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise VisitError("the connection was closed")
        return int(self._await("puback"))

    def send(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish and do not wait; `acknowledged` collects the answers."""
        self._client.publish(topic, payload, qos)

    def acknowledged(self, count: int) -> list[int]:
        """Return the reason codes of the next `count` answers; raises VisitError."""
        return [int(self._await("puback")) for _ in range(count)]

    def until(self, topic: str, payload: bytes | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[Heard]:
        """Return what comes before a message on `topic` (with this payload); raises SilentError or VisitError."""
        before: list[Heard] = []
        while True:
            try:
                heard = self._heard.get(timeout=timeout_s)
            except queue.Empty:
                raise SilentError(f"nothing came on {topic} within {timeout_s:g} s", before) from None
            if heard is None:
                raise VisitError("the connection was closed")
            if heard.topic == topic and payload in (None, heard.payload):
                return before
            before.append(heard)

    def wait_until_closed(self, timeout_s: float = ANSWER_TIMEOUT_S) -> int | None:
        """Return the code with which the broker ends the connection; None if it does not."""
        try:
            while (answer := self._answers.get(timeout=timeout_s))[0] != "closed":
                pass
        except queue.Empty:
            return None
        return int(answer[1])

    def close(self) -> None:
        """Disconnect as one should; idempotent."""
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Cut the connection without a word; the broker publishes the will."""
        opened = self._client.socket()
        if isinstance(opened, socket.socket):
            with contextlib.suppress(OSError):  # it is cut already
                opened.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_client(self) -> paho.Client:
        visit = self.visit
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            visit.client_id,
            clean_session=None if self._is_5 else visit.clean,
            protocol=visit.version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the doctor counts, not the library
        client.username_pw_set(visit.username, visit.password)
        if visit.context is not None:
            client.tls_set_context(visit.context)
        if visit.will is not None:
            client.will_set(*visit.will, qos=1, retain=visit.will_retained)
        return client

    def _await(self, wanted: str) -> Any:
        kind, told = self._next_answer(wanted)
        if kind == "closed":
            raise VisitError("the connection was closed")
        return told

    def _next_answer(self, wanted: str) -> tuple[str, Any]:
        while True:
            try:
                kind, told = self._answers.get(timeout=ANSWER_TIMEOUT_S)
            except queue.Empty:
                raise SilentError(f"no {wanted.upper()} within {ANSWER_TIMEOUT_S:g} s") from None
            if kind in (wanted, "closed"):
                if kind == "closed":
                    self._answers.put(("closed", told))  # for whoever asks next
                return kind, told

    def _on_connect(
        self, _client: paho.Client, _user: Any, flags: paho.ConnectFlags, code: ReasonCode, more: Properties | None
    ) -> None:
        self.welcome, self.session_present = more, flags.session_present
        self._answers.put(("connack", int(code.value)))

    def _on_disconnect(
        self, _client: paho.Client, _user: Any, _flags: paho.DisconnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        self.closed_with = int(code.value)
        self._answers.put(("closed", int(code.value)))
        self._hear(None)

    def _on_subscribe(
        self, _client: paho.Client, _user: Any, _mid: int, codes: list[ReasonCode], _more: Properties | None
    ) -> None:
        self._answers.put(("suback", [code.value for code in codes]))

    def _on_publish(
        self, _client: paho.Client, _user: Any, _mid: int, code: ReasonCode, _more: Properties | None
    ) -> None:
        self._answers.put(("puback", 0 if code.value == NO_SUBSCRIBERS else int(code.value)))

    def _on_message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        self._hear(Heard(message.topic, bytes(message.payload[:MAX_PAYLOAD_BYTES]), message.retain))

    def _hear(self, heard: Heard | None) -> None:
        try:
            self._heard.put_nowait(heard)
        except queue.Full:  # the oldest are enough to show what came
            return


def _no_delay(_client: paho.Client, _user: Any, opened: Any) -> None:
    opened.setsockopt(*NO_DELAY)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
