"""Carries lines over a local stream socket: connections, bounded buffers, one loop in one thread.

1. Nothing that a peer sends or fails to read stops the loop or makes it wait: at worst it loses its connection.
2. The loop knows lines and peers; what they mean is its owner's, called in the loop's thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from device_agent.control_requests import MAX_LINE_BYTES, ControlError

MAX_CONNECTIONS: Final = 64
MAX_UNREAD_BYTES: Final = 256 * 1024
"""What a peer may leave unread, beyond the kernel's own buffer, before it loses its connection."""

_LOG = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Peer:
    """One connection: the process and user that the kernel vouches for (SO_PEERCRED), and its buffers."""

    sock: socket.socket
    pid: int
    uid: int
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    skipping: bool = False
    open: bool = True


class LineServer:
    """Serves one socket in a thread of its own.

    The owner's functions are called in that thread, and may not raise: `answer` a line (None: one that was too long)
    with a line, hear that a peer is `closed`, and `tick`: do what is due and return the seconds until the next time
    (None: nothing waits); it is called after every turn of the loop. `crowded` is the line for a peer that finds every
    connection taken. `send` is for the loop's thread; `wake`, `start` and `stop` are for the others.
    """

    def __init__(
        self,
        path: Path,
        *,
        answer: Callable[[Peer, bytes | None], bytes],
        closed: Callable[[Peer], None],
        tick: Callable[[], float | None],
        crowded: bytes,
    ) -> None:
        self._path = path
        self._answer = answer
        self._closed = closed
        self._tick = tick
        self._crowded = crowded
        self._peers: set[Peer] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener: socket.socket
        self._selector: selectors.BaseSelector
        self._waker: socket.socket
        self._woken: socket.socket

    @property
    def running(self) -> bool:
        """Tell whether it was started and not yet stopped."""
        return self._thread is not None

    def start(self) -> None:
        """Bind the path (mode 0660) and serve it; raises ControlError if it cannot be, or another agent serves it."""
        if self._thread is not None or self._stopping.is_set():
            raise ControlError(f"{self._path} is or was served by this server already; make another one")
        self._listener = listen(self._path)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._drain)
        self._thread = threading.Thread(target=self._serve, name="fleetlift-control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do what is due a last time, close every connection and remove the socket; idempotent."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            self.wake()
            thread.join()
            self._waker.close()
            self._woken.close()

    def wake(self) -> None:
        """Have the loop call `tick` soon."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has stopped
            self._waker.send(b"\0")

    def send(self, peer: Peer, line: bytes) -> None:
        """Queue a line for a peer; one that does not read is dropped."""
        if not peer.open:
            return
        peer.outbox += line
        self._flush(peer)
        if len(peer.outbox) > MAX_UNREAD_BYTES:
            _LOG.warning("process %d does not read its control socket: connection dropped", peer.pid)
            self._drop(peer)

    def _serve(self) -> None:
        patience_s = self._tick()
        while not self._stopping.is_set():
            for key, mask in self._selector.select(patience_s):
                key.data(mask)
            patience_s = self._tick()
        for peer in list(self._peers):
            self._drop(peer)
        self._selector.close()
        with contextlib.suppress(OSError):  # gone already, with its directory or without
            self._path.unlink()
        self._listener.close()

    def _drain(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            # Out of descriptors or memory: the peer stays in the queue, so do not spin on it.
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                _LOG.warning("a control connection could not be accepted: %s", error)
                self._stopping.wait(0.1)
            return
        sock.setblocking(False)
        if len(self._peers) >= MAX_CONNECTIONS:
            with sock, contextlib.suppress(OSError):
                sock.send(self._crowded)
            return
        pid, uid, _gid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer = Peer(sock, pid, uid)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, lambda mask: self._turn(peer, mask))

    def _turn(self, peer: Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(peer)
        if not mask & selectors.EVENT_READ or not peer.open:
            return
        try:
            data = peer.sock.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
        for line in _lines(peer, data):
            if peer.open:
                self.send(peer, self._answer(peer, line))

    def _flush(self, peer: Peer) -> None:
        if not peer.open:
            return
        try:
            sent = peer.sock.send(peer.outbox)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        del peer.outbox[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outbox else 0)
        key = self._selector.get_key(peer.sock)
        if key.events != wanted:
            self._selector.modify(peer.sock, wanted, key.data)

    def _drop(self, peer: Peer) -> None:
        if peer.open:
            peer.open = False
            self._peers.discard(peer)
            self._selector.unregister(peer.sock)
            peer.sock.close()
            self._closed(peer)


def listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, in place of one that a dead agent left."""
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ControlError(f"the directory of {path} cannot be opened: {error.strerror}") from error
    # Through the descriptor, for an address has at most 107 bytes; and under a name of its own first, so that the
    # socket appears with its mode set and its queue open, or not at all.
    beside = Path(f"/proc/self/fd/{directory}/.{os.getpid()}.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        _refuse_unless_stale(path, f"/proc/self/fd/{directory}/{path.name}")
        beside.unlink(missing_ok=True)
        listener.bind(str(beside))
        beside.chmod(0o660)
        listener.listen(MAX_CONNECTIONS)
        beside.rename(path)
    except (OSError, ControlError) as error:
        listener.close()
        if isinstance(error, ControlError):
            raise
        raise ControlError(f"the control socket {path} cannot be made: {error.strerror or error}") from error
    finally:
        os.close(directory)
    return listener


def _refuse_unless_stale(path: Path, address: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} is not a socket; it was left alone: move it away, or choose another directory")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # alive, and its queue is full
    raise ControlError(f"another agent serves {path}; nothing was changed: stop it, or choose another directory")


def _lines(peer: Peer, data: bytes) -> Iterator[bytes | None]:
    """Yield each line that has ended; None once for one that is too long, whose rest is passed over."""
    *ended, rest = data.split(b"\n")
    for part in ended:
        line, skipped = bytes(peer.inbox) + part, peer.skipping
        peer.inbox.clear()
        peer.skipping = False
        if not skipped:
            yield line if len(line) <= MAX_LINE_BYTES else None
    if not peer.skipping:
        peer.inbox += rest
        if len(peer.inbox) > MAX_LINE_BYTES:
            peer.inbox.clear()
            peer.skipping = True
            yield None
