"""One connection to a broker, from TCP connect to its end; `link` makes the next one.

paho's client is driven by its public `loop()` in the caller's thread; other threads only ever queue packets (a callback
for `on_socket_register_write` keeps paho from writing in their threads) and wake that loop.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_agent.link_settings import LinkError, LinkSettings
from device_agent.log_limit import LogLimit
from device_agent.receiving import OnBulk, Receiver
from device_agent.tls import DeviceSocket, explain, is_refusal

MAX_PACKET_BYTES: Final = 132 * 1024
"""The largest packet taken from the broker: 128 KiB with its headers, and some room for the topic."""
MAX_FILTERS: Final = 64
"""The most filters in one SUBSCRIBE or UNSUBSCRIBE."""
_LOOP_S: Final = 1.0
_CONNECTING_LOOP_S: Final = 0.1
_UNSUPPORTED_VERSION: Final = 132  # MQTT 5, section 3.2.2.2; paho translates the 1 of MQTT 3.1.1 to it
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a connection ended: `up_for_s` if it was up, and what the broker thinks of the MQTT version."""

    why: str
    up_for_s: float | None = None
    answered: bool = False
    """The broker answered CONNECT, with whatever code."""
    hung_up: bool = False
    """It was there, and closed the connection instead."""
    silent: bool = False
    """It was there, and said nothing."""
    version_refused: bool = False
    certificate_refused: bool = False
    """The broker does not accept this device's certificate, and says so."""
    wanted: bool = False
    """It was ended by `reconnect`."""


class Connection:
    """A paho client for one connection; `run` is called once, the rest from any thread.

    `filters()` returns what to subscribe, and what a session that the broker kept may still hold and should not.
    `limited` logs what the broker can have us say as often as it likes, also over many connections.
    """

    def __init__(
        self,
        settings: LinkSettings,
        version: MQTTProtocolVersion,
        *,
        will: tuple[str, bytes],
        filters: Callable[[], tuple[Mapping[str, int], Iterable[str]]],
        on_up: Callable[[bool], None],
        on_message: Callable[[str, bytes], None],
        on_bulk: OnBulk | None,
        on_denied: Callable[[str, str], None],
        limited: LogLimit,
        answer_timeout_s: float | None = None,
    ) -> None:
        self.version = version
        self._settings = settings
        self._answer_timeout_s = answer_timeout_s or settings.connect_timeout_s
        self._filters = filters
        self._on_up = on_up
        self._on_message = on_message
        self._on_bulk = on_bulk
        self._limited = limited
        self._receipts = _Receipts(on_denied)
        self._awaited: set[int | None] = set()
        self._session_present = False
        self._answered = False
        self._connected = False
        self._closing = False
        self._up_since: float | None = None
        self._why = ""
        self._refused_version = False
        self._failure: ssl.SSLError | None = None
        self._reconnecting = False
        self._client: Receiver | None = self._make_client(will)

    @property
    def is_up(self) -> bool:
        """Whether the broker accepted the connection and acknowledged the subscriptions."""
        return self._up_since is not None and self._client is not None

    def run(self, stopping: threading.Event) -> End:
        """Connect and serve until the connection ends; callbacks are called in this thread. Raises LinkError."""
        client = self._client
        assert client is not None, "a connection runs once"  # noqa: S101
        _, host, port = self._settings.address()
        client.username_pw_set(self._settings.username, self._settings.password())
        arguments: dict[str, Any] = {}
        if self.version is MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._settings.session_expiry_s
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            arguments = {"clean_start": False, "properties": properties}
        try:
            client.connect(host, port, self._settings.keepalive_s, **arguments)
            return self._serve(client, stopping)
        except (OSError, ValueError) as error:  # ValueError: a certificate or a host name that is none
            return End(
                why=f"{host}:{port}: {explain(error, time.time())}",
                up_for_s=self._up_for_s(),
                certificate_refused=is_refusal(error),
            )
        finally:
            self._dispose(client)

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Queue a message; False when the connection is not up, or too much waits for the broker already."""
        client = self._client
        if client is None or self._up_since is None or (qos == 0 and client.want_write()):
            return False
        info = client.publish(topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._receipts.sent(info.mid, (topic,))
        return True

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        """Queue SUBSCRIBE for these filters; False when nobody is connected."""
        client = self._client
        return client is not None and self._connected and None not in self._send_subscribe(client, filters)

    def unsubscribe(self, names: Sequence[str]) -> bool:
        """Queue UNSUBSCRIBE for these filters; False when nobody is connected."""
        client = self._client
        if client is None or not self._connected:
            return False
        for first in range(0, len(names), MAX_FILTERS):
            client.unsubscribe(list(names[first : first + MAX_FILTERS]))
        return True

    def reconnect(self) -> None:
        """End the connection, for another to follow at once."""
        client = self._client
        if client is not None and not self._closing:
            self._reconnecting = True
            if self._connected:
                client.disconnect()

    def close(self, topic: str, farewell: bytes, timeout_s: float) -> None:
        """Publish a last retained message, wait for its acknowledgement, and disconnect; once."""
        client = self._client
        if client is None or self._closing:
            return
        self._closing = True
        if self.is_up:
            try:
                client.publish(topic, farewell, qos=1, retain=True).wait_for_publish(timeout_s)
            except (RuntimeError, ValueError) as error:
                _LOG.info("no farewell: %s", error)
        client.disconnect()

    def _make_client(self, will: tuple[str, bytes]) -> Receiver:
        version_5 = self.version is MQTTProtocolVersion.MQTTv5
        client = Receiver(
            CallbackAPIVersion.VERSION2,
            self._settings.device_id,
            clean_session=None if version_5 else False,
            protocol=self.version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._settings.connect_timeout_s
        client.max_queued_messages_set(self._settings.max_queued)
        client.will_set(*will, qos=1, retain=True)
        if self._settings.address()[0] == "mqtts":
            make = self._settings.tls or _system_context
            try:
                client.tls_set_context(make())
            except (OSError, ValueError) as error:
                raise LinkError(f"TLS is not possible: {error}") from error
        client.on_socket_open = _no_delay
        client.on_socket_close = self._socket_closed
        client.on_socket_register_write = _write_in_the_loop_only
        client.on_connect = self._connack
        client.on_subscribe = self._suback
        client.on_publish = self._puback
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_bulk = self._bulk if self._on_bulk is not None else None
        return client

    def _serve(self, client: paho.Client, stopping: threading.Event) -> End:
        began, silent = time.monotonic(), False
        while client.loop(_LOOP_S if self._up_since else _CONNECTING_LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            allowed_s = self._settings.connect_timeout_s if self._answered else self._answer_timeout_s
            if self._up_since is None and (stopping.is_set() or time.monotonic() - began > allowed_s):
                self._why, silent = f"no answer from the broker within {allowed_s:g} s", not self._answered
                break
            # paho has no limit of its own: without this one, a broker could make the device collect 256 MiB.
            if client._in_packet["remaining_length"] > MAX_PACKET_BYTES:  # noqa: SLF001
                self._why = f"the broker sent a packet over {MAX_PACKET_BYTES} bytes"
                break
        failure = self._failure
        if self._reconnecting:
            self._why = "connecting anew, with the certificate of now"
        elif failure is not None:
            self._why = explain(failure, time.time())
        elif not self._answered and not silent and self._settings.address()[0] == "mqtts":
            self._why = "the broker ended the connection after the TLS handshake: it may not accept the certificate"
        return End(
            why=self._why or "the connection was lost",
            up_for_s=self._up_for_s(),
            answered=self._answered,
            hung_up=not (self._answered or silent or failure),
            silent=silent,
            version_refused=self._refused_version,
            certificate_refused=failure is not None and is_refusal(failure),
            wanted=self._reconnecting,
        )

    def _up_for_s(self) -> float | None:
        return None if self._up_since is None else time.monotonic() - self._up_since

    def _dispose(self, client: Receiver) -> None:
        # Without the callbacks there is no reference circle: the sockets close now, not when somebody collects it.
        self._client = None
        client.on_connect = client.on_subscribe = client.on_publish = client.on_disconnect = client.on_message = None
        client.on_bulk = client.on_socket_close = None

    def _socket_closed(self, _client: paho.Client, _user: Any, closed: Any) -> None:
        if isinstance(closed, DeviceSocket):
            self._failure = closed.failure

    def _send_subscribe(self, client: paho.Client, filters: Mapping[str, int]) -> set[int | None]:
        mids: set[int | None] = set()
        names = list(filters)
        for first in range(0, len(names), MAX_FILTERS):
            batch = names[first : first + MAX_FILTERS]
            _, mid = client.subscribe([(name, filters[name]) for name in batch])
            mids.add(mid)
            if mid is not None:
                self._receipts.sent(mid, tuple(batch))
        return mids

    def _connack(
        self, client: paho.Client, _user: Any, flags: paho.ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        self._answered = True
        if code.is_failure:
            self._why = f"refused by the broker: {code}"
            self._refused_version = code.value == _UNSUPPORTED_VERSION
            return
        self._session_present = flags.session_present
        self._connected = True  # before the filters are read: who subscribes from now on is sent at once
        if self._reconnecting:
            client.disconnect()
            return
        wanted, unwanted = self._filters()
        self.unsubscribe(list(unwanted))
        self._awaited = self._send_subscribe(client, wanted)
        self._maybe_up()

    def _suback(
        self, _client: paho.Client, _user: Any, mid: int, codes: list[ReasonCode], _more: Properties | None
    ) -> None:
        self._receipts.acknowledged(mid, codes)
        if mid in self._awaited:
            self._awaited.discard(mid)
            self._maybe_up()

    def _maybe_up(self) -> None:
        if not self._awaited and self._up_since is None:
            self._up_since = time.monotonic()
            self._on_up(self._session_present)

    def _puback(self, _client: paho.Client, _user: Any, mid: int, code: ReasonCode, _more: Properties | None) -> None:
        self._receipts.acknowledged(mid, (code,))

    def _disconnected(
        self, _client: paho.Client, _user: Any, flags: paho.DisconnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if not self._why:
            by = "the broker disconnected" if flags.is_disconnect_packet_from_server else "the connection was lost"
            self._why = f"{by}: {code}"

    def _message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            self._limited.tell(
                logging.WARNING, "topic", "a message was dropped, its topic is no UTF-8: %.200r", error.object
            )
            return
        try:
            self._on_message(topic, bytes(message.payload))  # no copy: they are bytes already
        except Exception as error:  # noqa: BLE001 - whatever a message does to its reader, the next one is read
            self._limited.tell_failure(error, "a message on %.200r could not be handled", topic)

    def _bulk(self, topic: str, payload: memoryview) -> bool:
        try:
            return self._on_bulk is not None and self._on_bulk(topic, payload)
        except Exception as error:  # noqa: BLE001 - the same
            self._limited.tell_failure(error, "a message on %.200r could not be handled", topic)
            return True


class _Receipts:
    """Pairs what was sent with its acknowledgement, whichever thread comes first, and tells what was denied."""

    def __init__(self, on_denied: Callable[[str, str], None]) -> None:
        self._on_denied = on_denied
        self._lock = threading.Lock()
        self._sent: dict[int, tuple[str, ...]] = {}
        self._early: dict[int, Sequence[ReasonCode]] = {}

    def sent(self, mid: int, names: tuple[str, ...]) -> None:
        with self._lock:
            codes = self._early.pop(mid, None)
            if codes is None:
                self._sent[mid] = names
                return
        self._settle(names, codes)

    def acknowledged(self, mid: int, codes: Sequence[ReasonCode]) -> None:
        with self._lock:
            names = self._sent.pop(mid, None)
            if names is None:
                self._early[mid] = codes
                return
        self._settle(names, codes)

    def _settle(self, names: tuple[str, ...], codes: Sequence[ReasonCode]) -> None:
        for name, code in zip(names, codes, strict=False):
            if code.is_failure:
                self._on_denied(name, str(code))


def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _no_delay(_client: paho.Client, _user: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _write_in_the_loop_only(_client: paho.Client, _user: Any, _opened: Any) -> None:
    pass
