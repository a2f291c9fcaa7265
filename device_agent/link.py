"""The agent's link to its broker: reconnects by itself, and is never in anybody's way.

1. Everything wanted is subscribed again, and acknowledged by the broker, before `on_up` is called.
2. `publish` neither blocks nor raises for a lost broker. True says that the message was handed to a live connection,
   not that it arrived: what must not be lost is kept by the caller until the cloud itself acknowledges it. Nothing is
   queued while the link is down, and a connection that ends takes its queue with it.
3. MQTT 5 is tried first. A broker that refuses it, or is silent at it and answers 3.1.1, is spoken to in 3.1.1 from
   then on; one that merely hangs up is tried in the other version next, and in MQTT 5 again at the connect after.
4. The broker is not trusted: a packet over the limit ends the connection, an exception ends nothing.

Callbacks run in the link's own thread, one at a time: they must not block for long, nor call `stop`. The other methods
may be called from any thread, callbacks included. QoS 1 messages may arrive twice.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from paho.mqtt.enums import MQTTProtocolVersion

from device_agent.connection import Connection, End
from device_agent.link_settings import LinkError, LinkSettings
from device_agent.log_limit import LogLimit
from device_agent.receiving import OnBulk
from protocol.errors import FleetliftError
from protocol.topics import Topics

__all__ = ["Link", "LinkError", "LinkSettings"]

_JOIN_S = 0.2
_DOUBTS = 5
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Link:
    """The agent's one link: constructed once, started once, reconnecting until it is stopped.

    `will()` gives the last will (and the farewell that `stop` publishes), retained on the device's presence topic; it
    is called before each attempt to connect. `on_up(session_present)` and `on_down(why)` alternate. `on_bulk(topic,
    payload)` is offered each message of QoS 0 before `on_message`, as a view of the packet; True says that it took it.
    `on_denied(topic or filter, reason)` tells what the broker refused, where it says so: MQTT 5 does for publishes.
    """

    def __init__(
        self,
        settings: LinkSettings,
        topics: Topics,
        *,
        will: Callable[[], bytes],
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
        on_message: Callable[[str, bytes], None],
        on_bulk: OnBulk | None = None,
        on_denied: Callable[[str, str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._presence_topic = topics.up(settings.device_id, "presence")
        self._will = will
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._on_bulk = on_bulk
        self._on_denied = on_denied
        self._limited = LogLimit(_LOG)
        self._lock = threading.Lock()  # guards the next two; never held while paho or a callback runs
        self._wanted: dict[str, int] = {}
        self._unwanted: set[str] = set()
        self._connection: Connection | None = None
        self._problem: str | None = "not started"
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    @property
    def is_up(self) -> bool:
        """Whether the broker is connected and has acknowledged the subscriptions."""
        connection = self._connection
        return connection is not None and connection.is_up

    @property
    def problem(self) -> str | None:
        """Why the link is down, for people; None while it is up."""
        return None if self.is_up else self._problem

    @property
    def mqtt_version(self) -> str | None:
        """`5` or `3.1.1` while the link is up."""
        connection = self._connection
        if connection is None or not connection.is_up:
            return None
        return "5" if connection.version is MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def start(self) -> None:
        """Connect, and stay connected; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Publish the farewell, wait until it is acknowledged, disconnect and end the thread; `on_down` is not called.

        Returns when the thread has ended, or after `timeout_s` (a connect that hangs ends by its own timeout).
        """
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        self._hurry.set()
        while self._thread.is_alive() and time.monotonic() < deadline:
            connection = self._connection  # perhaps a new one: it was being made when we said stop
            if connection is not None:
                connection.close(self._presence_topic, self._guarded(self._will, b""), timeout_s / 2)
            self._thread.join(_JOIN_S)

    def reconnect(self) -> None:
        """End the connection and make another at once, with what is to be had now: for a new certificate."""
        connection = self._connection
        if connection is not None:
            connection.reconnect()
        else:
            self._hurry.set()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over; False when the link is down or too much waits for the broker."""
        connection = self._connection
        return connection is not None and connection.publish(topic, payload, qos, retain)

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        """Want these topic filters (at these qualities of service) from now on; True if the broker is asked now."""
        with self._lock:
            self._wanted.update(filters)
            self._unwanted.difference_update(filters)
        connection = self._connection
        return connection is not None and connection.subscribe(filters)

    def unsubscribe(self, filters: Iterable[str]) -> bool:
        """Want these topic filters no more; True if the broker is told now, else it is at the next connect."""
        names = list(filters)
        with self._lock:
            for name in names:
                self._wanted.pop(name, None)
            self._unwanted.update(names)
        connection = self._connection
        if connection is None or not connection.unsubscribe(names):
            return False
        with self._lock:
            self._unwanted.difference_update(names)
        return True

    def _filters(self) -> tuple[dict[str, int], set[str]]:
        with self._lock:
            unwanted, self._unwanted = self._unwanted, set()
            return dict(self._wanted), unwanted

    def _run(self) -> None:
        choice, failures = _VersionChoice(), 0
        refused: End | None = None
        while not self._stopping.is_set():
            end = self._connect_once(choice)
            if refused is not None and end.hung_up:
                end = refused  # TLS 1.3 refuses after the handshake, and a reset may overtake the word: it is the same
            refused = end if end.certificate_refused else None
            news, self._problem = end.why != self._problem, end.why
            if self._stopping.is_set():
                return
            if end.up_for_s is None:
                _LOG.log(logging.WARNING if news else logging.DEBUG, "no link to the broker: %s", end.why)
            else:
                _LOG.warning("the link to the broker went down: %s", end.why)
                self._guarded(lambda why=end.why: self._on_down(why), None)  # type: ignore[misc]
            if choice.learn(end) or end.wanted:
                continue  # no failure: the same broker, at once, in the version that it may speak
            # A broker that accepts and hangs up at once (a client id used twice) is no better than one that is gone.
            lasting = (end.up_for_s or 0.0) > self._settings.backoff_max_s / 2
            failures = 0 if lasting else failures + 1
            self._hurry.wait(self._delay_s(failures, refused=end.certificate_refused))
            self._hurry.clear()

    def _delay_s(self, failures: int, *, refused: bool) -> float:
        longest_s = self._settings.refused_backoff_max_s if refused else self._settings.backoff_max_s
        ceiling = min(longest_s, self._settings.backoff_min_s * 2.0 ** min(failures, 16))
        return ceiling * random.uniform(0.25, 1.0)  # noqa: S311 - to spread a fleet that lost its broker at one moment

    def _connect_once(self, choice: _VersionChoice) -> End:
        try:
            self._connection = Connection(
                self._settings,
                choice.version,
                will=(self._presence_topic, self._guarded(self._will, b"")),
                filters=self._filters,
                on_up=lambda session_present: self._guarded(lambda: self._on_up(session_present), None),
                on_message=self._on_message,
                on_bulk=self._on_bulk,
                on_denied=self._denied,
                limited=self._limited,
                answer_timeout_s=None if choice.is_known else self._settings.version_timeout_s,
            )
            return self._connection.run(self._stopping)
        except FleetliftError as error:
            return End(why=str(error))
        except Exception as error:  # noqa: BLE001 - what the broker sent made paho stumble: the next client is a new one
            self._limited.tell_failure(error, "the link's loop failed")
            return End(why=f"{type(error).__name__}: {error}")
        finally:
            self._connection = None

    def _denied(self, what: str, why: str) -> None:
        self._limited.tell(logging.WARNING, f"refused {what}", "the broker refused %s: %s", what, why)
        if (on_denied := self._on_denied) is not None:
            self._guarded(lambda: on_denied(what, why), None)

    def _guarded(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - a callback's mistake must not cost the device its link
            self._limited.tell_failure(error, "a callback of the link failed")
            return otherwise


class _VersionChoice:
    """Which version to try next, learned from how the last connection ended."""

    def __init__(self) -> None:
        self.version = MQTTProtocolVersion.MQTTv5
        self.is_known = False
        self._silent_at_5 = False
        self._doubts = 0

    def learn(self, end: End) -> bool:
        """Take note; True when the other version should be tried at once."""
        at_5 = self.version is MQTTProtocolVersion.MQTTv5
        if end.answered and not end.version_refused:
            self._doubts = 0
            self.is_known = self.is_known or at_5 or self._silent_at_5
            self.version = self.version if self.is_known else MQTTProtocolVersion.MQTTv5
            return False
        if end.silent or end.hung_up:
            self._doubts += 1
            if self.is_known and self._doubts < _DOUBTS:
                return False  # more likely a broker in trouble than another broker
        elif not end.version_refused:
            return False  # there was nobody to learn from
        self.is_known = at_5 and end.version_refused
        self._silent_at_5 = at_5 and end.silent
        self.version = MQTTProtocolVersion.MQTTv311 if at_5 else MQTTProtocolVersion.MQTTv5
        return at_5
