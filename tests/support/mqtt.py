"""A plain MQTT peer for tests: connects, subscribes and publishes with every acknowledgement awaited."""

import queue
import socket
import ssl
import threading
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

TIMEOUT_S = 10.0


class Peer:
    """One client on a broker; as a context manager it connects and disconnects."""

    def __init__(
        self,
        port: int,
        client_id: str,
        *,
        persistent: bool = False,
        version: int = paho.MQTTv311,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        clean = None if version == paho.MQTTv5 else not persistent
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=clean, protocol=MQTTProtocolVersion(version)
        )
        if tls is not None:
            self._client.tls_set_context(tls)
        self._port = port
        self._messages: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self._acknowledged: queue.SimpleQueue[list[ReasonCode]] = queue.SimpleQueue()
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_socket_open = self._on_socket_open

    def connect(self) -> Self:
        self._client.connect("127.0.0.1", self._port, keepalive=30)
        self._client.loop_start()
        assert self.connected.wait(TIMEOUT_S), "no CONNACK"
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe; returns at the SUBACK (which an ACL can turn into an empty promise)."""
        self._client.subscribe(topic_filter, qos)
        codes = self._acknowledged.get(timeout=TIMEOUT_S)
        assert not any(code.is_failure for code in codes), codes

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish; returns when it is acknowledged (QoS 1) or handed to the socket (QoS 0)."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(TIMEOUT_S)

    def receive(self, timeout_s: float = TIMEOUT_S) -> tuple[str, bytes]:
        """Return the next message's topic and payload; raises `queue.Empty` when none comes in time."""
        message = self._messages.get(timeout=timeout_s)
        return message.topic, bytes(message.payload)

    def drain(self) -> list[tuple[str, bytes]]:
        """Everything that has arrived so far."""
        return [self.receive() for _ in range(self._messages.qsize())]

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_connect(
        self, _client: paho.Client, _user: Any, _flags: paho.ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if not code.is_failure:
            self.connected.set()

    def _on_disconnect(
        self,
        _client: paho.Client,
        _user: Any,
        _flags: paho.DisconnectFlags,
        _code: ReasonCode,
        _more: Properties | None,
    ) -> None:
        self.disconnected.set()

    def _on_subscribe(
        self, _client: paho.Client, _user: Any, _mid: int, codes: list[ReasonCode], _more: Properties | None
    ) -> None:
        self._acknowledged.put(codes)

    def _on_message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        self._messages.put(message)

    @staticmethod
    def _on_socket_open(_client: paho.Client, _user: Any, opened: Any) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
