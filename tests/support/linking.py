"""A link's owner, who hears everything in order, and a broker that answers little: for tests of the link."""

import itertools
import os
import queue
import socket
import ssl
import struct
import threading
from typing import Self

from device_agent.link import Link, LinkSettings
from protocol.topics import Topics

TIMEOUT_S = 20.0
TOPICS = Topics()
OFFLINE, ONLINE = b'{"online":false}', b'{"online":true}'
HASTE = {"backoff_min_s": 0.05, "backoff_max_s": 0.4, "version_timeout_s": 0.5}
PRESENCE = TOPICS.up("dev-1", "presence")


class Owner:
    """What the runner is to a link: every callback as an event in order."""

    def __init__(self, url: str, **settings: object) -> None:
        self.ups = 0
        self.events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.bulk_topics: set[str] = set()
        self.link = Link(
            LinkSettings(**{"url": url, "device_id": "dev-1", **HASTE, **settings}),  # type: ignore[arg-type]
            TOPICS,
            will=lambda: OFFLINE,
            on_up=self.on_up,
            on_down=lambda why: self.events.put(("down", why)),
            on_message=self.on_message,
            on_bulk=self.on_bulk,
            on_denied=lambda what, why: self.events.put(("denied", (what, why))),
        )

    def on_up(self, session_present: bool) -> None:
        self.ups += 1
        self.link.publish(PRESENCE, ONLINE, retain=True)
        self.link.publish("echo/1", b"%d" % self.ups)
        self.events.put(("up", session_present))

    def on_message(self, topic: str, payload: bytes) -> None:
        self.messages.put((topic, payload))
        if payload == b"raise":
            raise RuntimeError("a handler's mistake")

    def on_bulk(self, topic: str, payload: memoryview) -> bool:
        if topic not in self.bulk_topics:
            return False
        self.messages.put((f"bulk: {topic}", bytes(payload)))
        if bytes(payload) == b"raise":
            raise RuntimeError("a handler's mistake")
        return True

    def expect(self, kind: str) -> object:
        name, value = self.events.get(timeout=TIMEOUT_S)
        assert name == kind, (name, value)
        return value

    def receive(self) -> tuple[str, bytes]:
        return self.messages.get(timeout=TIMEOUT_S)


def start(owners: list[Owner], url: str, **settings: object) -> Owner:
    owner = Owner(url, **settings)
    owners.append(owner)
    owner.link.start()
    return owner


class _Accepting:
    """Listens on a port of loopback, and meets whoever comes, one at a time."""

    def __init__(self, scheme: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        raise NotImplementedError


class DeafBroker(_Accepting):
    """Answers CONNECT and SUBSCRIBE as MQTT 5 does, sends `then`, and acknowledges nothing more."""

    def __init__(
        self, connack: bytes = b"\x20\x03\x00\x00\x00", then: bytes = b"", suback: threading.Event | None = None
    ) -> None:
        super().__init__("mqtt")
        self._suback = suback
        self.subscribed = threading.Event()
        self._connack = connack
        self.then = then
        self.protocols: list[int] = []
        self.connected = threading.Semaphore(0)
        self._open: list[socket.socket] = []

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for connection in self._open:
            connection.close()

    def _meet(self, connection: socket.socket) -> None:
        self._open.append(connection)
        connection.settimeout(TIMEOUT_S)
        self.protocols.append(connection.recv(4096)[8])
        if self._connack:
            connection.sendall(self._connack + self.then)
        self.connected.release()
        if self._suback is not None:
            packet_id = connection.recv(4096)[2:4]
            self.subscribed.set()
            self._suback.wait(TIMEOUT_S)
            connection.sendall(b"\x90\x04" + packet_id + b"\x00\x01")


class Resetting(_Accepting):
    """Speaks TLS, and refuses a device's certificate: with an alert and by a reset that leaves no word, in turn."""

    def __init__(self, alerting: ssl.SSLContext, silent: ssl.SSLContext) -> None:
        super().__init__("mqtts")
        self._contexts = itertools.cycle((alerting, silent))
        self.ended = 0

    def _meet(self, connection: socket.socket) -> None:
        with next(self._contexts).wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
                tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except ssl.SSLError:
                while os.read(tls.fileno(), 4096):
                    pass  # what is unread at the end would reset the connection, too
        self.ended += 1
