"""Somebody on the network: passes bytes on between two ends, and keeps a copy of all of them."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TLS_1_2 = 0x0303
HANDSHAKE, APPLICATION_DATA = 22, 23
CONTENT_TYPES = frozenset({20, 21, HANDSHAKE, APPLICATION_DATA})
MAX_RECORD_BYTES = 2**14 + 2048
CLIENT_HELLO, SERVER_HELLO = 1, 2
SUPPORTED_VERSIONS = 43
_BLOCK_BYTES = 64 * 1024


@dataclass
class Conversation:
    """One connection: what the client sent, and what the server did."""

    client: bytearray = field(default_factory=bytearray)
    server: bytearray = field(default_factory=bytearray)


class Wire:
    """Listens on loopback in the place of `target`, another port of this machine."""

    def __init__(self, target: int) -> None:
        self.conversations: list[Conversation] = []
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    @property
    def heard_bytes(self) -> int:
        """How much went by so far."""
        return sum(len(it.client) + len(it.server) for it in list(self.conversations))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Pass nothing on for a while; what is sent meanwhile comes later."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    def heard(self, *needles: bytes) -> list[bytes]:
        """Which of these went by as they are, in one connection and direction."""
        streams = [bytes(stream) for it in list(self.conversations) for stream in (it.client, it.server)]
        return [needle for needle in needles if any(needle in stream for stream in streams)]

    def close(self) -> None:
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for opened in list(self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for opened in self._sockets:
            opened.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="wire", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), 10)
                except OSError:  # nobody is there: so is nobody here
                    client.close()
                    continue
                server.settimeout(None)
                self._sockets += [client, server]
                conversation = Conversation()
                self.conversations.append(conversation)
                self._start(self._pass_on, client, server, conversation.client)
                self._start(self._pass_on, server, client, conversation.server)

    def _pass_on(self, source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while block := source.recv(_BLOCK_BYTES):
                copy += block
                self._flowing.wait()
                sink.sendall(block)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def records(stream: bytes) -> list[tuple[int, bytes]]:
    """Take a stream apart into TLS records (RFC 8446, 5.1), the last of which may be cut off: (content type, content).

    Raises ValueError where it is anything else.
    """
    found, position = [], 0
    while position + 5 <= len(stream):
        kind, version, length = struct.unpack_from("!BHH", stream, position)
        if kind not in CONTENT_TYPES or version >> 8 != 3 or length > MAX_RECORD_BYTES:
            raise ValueError(f"no TLS record at {position}: {stream[position : position + 40]!r}")
        found.append((kind, stream[position + 5 : position + 5 + length]))
        position += 5 + length
    return found


def check_encrypted(conversation: Conversation) -> None:
    """Fail unless all of a conversation is TLS of version 1.3, and all but its hellos encrypted."""
    asked, answered = records(bytes(conversation.client)), records(bytes(conversation.server))
    assert asked[0][0] == HANDSHAKE
    assert asked[0][1][0] == CLIENT_HELLO
    assert answered[0][0] == HANDSHAKE
    assert answered[0][1][0] == SERVER_HELLO
    assert min(_offered(asked[0][1])) >= TLS_1_2, "an older TLS than 1.2 was offered"
    assert _chosen(answered[0][1]) > TLS_1_2
    for kind, _ in (*asked[1:], *answered[1:]):
        assert kind in (20, APPLICATION_DATA), "something was sent before the keys were there"


def _offered(hello: bytes) -> list[int]:
    """The versions in a ClientHello (RFC 8446, 4.1.2 and 4.2.1)."""
    position = 4 + 2 + 32
    position += 1 + hello[position]
    position += 2 + int.from_bytes(hello[position : position + 2])
    position += 1 + hello[position]
    versions = _extensions(hello[position + 2 :]).get(SUPPORTED_VERSIONS, b"")
    # The first byte is a length; GREASE (RFC 8701) is no version.
    pairs = (int.from_bytes(versions[at : at + 2]) for at in range(1, len(versions), 2))
    return [version for version in pairs if version >> 8 == 3] or [TLS_1_2]


def _chosen(hello: bytes) -> int:
    """The version in a ServerHello (RFC 8446, 4.1.3)."""
    position = 4 + 2 + 32
    position += 1 + hello[position] + 3
    return int.from_bytes(_extensions(hello[position + 2 :]).get(SUPPORTED_VERSIONS, hello[4:6]))


def _extensions(data: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 4 <= len(data):
        kind, length = struct.unpack_from("!HH", data, position)
        found[kind] = data[position + 4 : position + 4 + length]
        position += 4 + length
    return found


def samples(content: bytes, *, length: int = 24, count: int = 40) -> Iterable[bytes]:
    """Pieces from all over a content, by which it would be known again."""
    step = max(1, (len(content) - length) // count)
    return [content[at : at + length] for at in range(0, len(content) - length, step)]
