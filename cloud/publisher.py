"""A QoS 0 publisher for one thread, that never holds more than the one message which the socket did not take whole.

paho queues without bound when the socket is full. Here nothing is handed to it before the message before is out: the
broker's pace becomes the caller's, and memory stays flat, also against a broker that reads no more. All of paho runs in
the caller's thread: `publish` writes to the socket itself, which is also what makes it fast.
"""

import logging
import select
import socket
import ssl
import time
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cloud.connection import (
    ANSWER_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    KEEPALIVE_S,
    NO_DELAY,
    Backoff,
    BrokerAccess,
    TlsError,
    Versions,
)

TEND_S: Final = 1.0
"""How often the keepalive is looked after, at least."""
FAREWELL_S: Final = 1.0
_log = logging.getLogger(__name__)


class Publisher:
    """Connects, and again when the connection is lost, as long as somebody calls `wait`."""

    def __init__(self, broker: BrokerAccess, client_id: str, *, backoff: Backoff | None = None) -> None:
        self._broker = broker
        self._client_id = client_id
        self._backoff = backoff or Backoff()
        self._versions = Versions(broker.first_version)
        self._client: paho.Client | None = None
        self._up = False
        self._up_since = self._answer_by = 0.0
        self._connect_at = 0.0
        self._tend_at = 0.0
        self._why = ""
        self._told = False

    @property
    def is_up(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._up

    @property
    def is_ready(self) -> bool:
        """Whether a message can be published now."""
        return self._up and self._client is not None and not self._client.want_write()

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message, when `is_ready`; lost if the connection is about to be."""
        assert self._client is not None  # noqa: S101 - is_ready says so
        if self._client.publish(topic, payload).rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end()
        elif time.monotonic() >= self._tend_at:
            self._tend()

    def wait(self, timeout_s: float, wake: socket.socket) -> None:
        """Return when a message can be published, when `wake` has something to read, or after `timeout_s`.

        Connects where there is no connection and it is time to try again, which blocks for up to CONNECT_TIMEOUT_S.
        """
        now = time.monotonic()
        if self._client is None and now >= self._connect_at:
            self._connect()
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self._client is None:
            poll.poll(1000 * max(0.0, min(timeout_s, self._connect_at - now)))
            return
        opened = self._client.socket()
        if opened is None:
            self._end()
            return
        writing = self._client.want_write()
        poll.register(opened, select.POLLIN | (select.POLLOUT if writing else 0))
        events = dict(poll.poll(1000 * max(0.0, min(timeout_s, TEND_S))))
        happened = events.get(opened.fileno(), 0)
        if happened & select.POLLOUT:
            self._client.loop_write()
        if happened & ~select.POLLOUT:
            self._read()
        self._tend()

    def close(self) -> None:
        """Disconnect; what was handed over and is not out yet has a second to leave."""
        client, deadline = self._client, time.monotonic() + FAREWELL_S
        if client is None:
            return
        if self._up:
            self._up = False  # so that nobody mistakes the end for a loss
            client.disconnect()
            while client.want_write() and (opened := client.socket()) is not None and time.monotonic() < deadline:
                poll = select.poll()
                poll.register(opened, select.POLLOUT)
                poll.poll(100)
                client.loop_write()
        self._dispose()

    def _connect(self) -> None:
        try:
            tls = None if self._broker.tls is None else self._broker.tls.context()
        except TlsError as error:
            self._lost(str(error))
            return
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._client_id, protocol=self._versions.current, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.username_pw_set(self._broker.username, self._broker.password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_socket_open = _no_delay
        client.on_connect = self._connack
        self._client = client
        try:
            client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            self._lost(str(error) or type(error).__name__)
        else:
            self._answer_by = time.monotonic() + ANSWER_TIMEOUT_S

    def _connack(
        self, _client: paho.Client, _user: Any, _flags: paho.ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if code.is_failure:
            self._why = f"refused: {code}"
            return  # it hangs up, and `_tend` sees that
        self._up, self._told = True, False
        self._up_since = time.monotonic()
        _log.info("chunk stream connected to %s (MQTT %s)", self._broker, _version_name(self._versions.current))

    def _read(self) -> None:
        """Read what the broker sends: a packet, and those that came in the same TLS record, which `poll` cannot see."""
        more = True
        while more and self._client is not None:
            self._client.loop_read()
            opened = self._client.socket()
            more = isinstance(opened, ssl.SSLSocket) and opened.pending() > 0

    def _tend(self) -> None:
        """Keep the connection alive, and notice when it is not."""
        now = time.monotonic()
        self._tend_at = now + TEND_S
        if self._client is None:
            return
        if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS or self._client.socket() is None:
            self._end()
        elif not self._up and now > self._answer_by:
            self._why = f"no answer within {ANSWER_TIMEOUT_S:g} s"
            self._end()

    def _end(self) -> None:
        if self._up:
            self._backoff.ended(time.monotonic() - self._up_since)
            self._lost("the connection was lost")
        else:
            self._versions.refused()
            self._lost(self._why or "the broker hung up")

    def _lost(self, why: str) -> None:
        self._dispose()
        self._why = ""
        delay_s = self._backoff.next_s()
        self._connect_at = time.monotonic() + delay_s
        if not self._told:  # once until it is back
            self._told = True
            _log.warning("chunk stream: %s: %s; trying again, next in %.1f s", self._broker, why, delay_s)

    def _dispose(self) -> None:
        client, self._client, self._up = self._client, None, False
        if client is not None:
            client.on_connect = None  # no circle of references: the socket closes now
            opened = client.socket()
            if opened is not None:
                opened.close()


def _no_delay(_client: paho.Client, _user: Any, opened: Any) -> None:
    opened.setsockopt(*NO_DELAY)


def _version_name(version: MQTTProtocolVersion) -> str:
    return "5" if version is MQTTProtocolVersion.MQTTv5 else "3.1.1"
