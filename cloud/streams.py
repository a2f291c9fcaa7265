"""Sends the chunks that devices want, each once for everyone: a thread between the demand and the broker.

`cloud/demand.py` decides what is next; this asks it, reads the chunk and publishes it (QoS 0), as fast as the broker
takes it and no faster. Nothing is kept for a chunk once it is sent. While the broker is away demand waits, within its
limits; a chunk that was sent into the void is asked for again by whoever misses it.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cloud.artifacts import Artifacts, StorageError
from cloud.connection import BrokerAccess
from cloud.demand import Demand, Limits, Refusal, Send
from cloud.publisher import Publisher
from protocol.chunks import pack_chunk
from protocol.topics import Topics
from protocol.up import Want

IDLE_S: Final = 1.0
STOP_TIMEOUT_S: Final = 10.0
REMEMBERED_BLOBS: Final = 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounts:
    """What was asked and sent since the start; `refused` by reason."""

    wants: int
    wanted_chunks: int
    chunks_sent: int
    bytes_sent: int
    waiting_chunks: int
    refused: Mapping[Refusal, int]


class Streams:
    """`start`, then `want` from any thread or coroutine (it never blocks), then `stop`."""

    def __init__(
        self,
        broker: BrokerAccess,
        artifacts: Artifacts,
        topics: Topics,
        *,
        client_id: str = "fleetlift.streams",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._artifacts = artifacts
        self._topics = topics
        self._clock = clock
        self._publisher = Publisher(broker, client_id)
        self._demand = Demand(limits)
        self._lock = threading.Lock()  # of the demand and the counts
        self._wants = self._wanted_chunks = self._chunks_sent = self._bytes_sent = 0
        self._refused: Counter[Refusal] = Counter()
        self._chunk_counts: dict[str, int] = {}  # of blobs that were here; a want must not wait for the disk
        self._stopping = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is reached now."""
        return self._publisher.is_up

    def start(self) -> None:
        """Connect and begin to send, in a thread; once."""
        self._thread.start()

    def stop(self) -> None:
        """Disconnect and end the thread; what is still wanted is asked for again. Idempotent."""
        self._stopping.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        self._wake_sender.close()
        self._wake_receiver.close()

    def want(self, device_id: str, want: Want) -> Refusal | None:
        """Have chunks sent; returns at once, with the reason if not all of it is taken (which is counted as well)."""
        chunk_count = self._chunk_counts.get(want.blob) or self._count_chunks(want.blob)
        with self._lock:
            self._wants += 1
            self._wanted_chunks += sum(count for _, count in want.ranges)
            if chunk_count is None:
                refusal: Refusal | None = Refusal.UNKNOWN_BLOB
            else:
                refusal = self._demand.want(device_id, want, chunk_count, self._clock())
            if refusal is not None:
                self._refused[refusal] += 1
        self._wake()
        return refusal

    def _count_chunks(self, blob: str) -> int | None:
        try:
            chunk_count = self._artifacts.chunk_count(blob)
        except StorageError as error:
            _log.warning("%s", error)
            return None
        if chunk_count is not None:
            if len(self._chunk_counts) >= REMEMBERED_BLOBS:
                self._chunk_counts.clear()
            self._chunk_counts[blob] = chunk_count
        return chunk_count

    def counts(self) -> StreamCounts:
        """Return what was asked and sent so far."""
        with self._lock:
            return StreamCounts(
                wants=self._wants,
                wanted_chunks=self._wanted_chunks,
                chunks_sent=self._chunks_sent,
                bytes_sent=self._bytes_sent,
                waiting_chunks=len(self._demand),
                refused=dict(self._refused),
            )

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"!")
        except OSError:  # full of wakes already, or stopped
            return

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Exception:  # noqa: BLE001 - whatever one step met, the next chunk is sent
                _log.exception("chunk stream: a step failed")
                self._stopping.wait(IDLE_S)
        self._publisher.close()

    def _step(self) -> None:
        send, timeout_s = self._next() if self._publisher.is_ready else (None, IDLE_S)
        if send is not None:
            self._send(send)
            return
        self._publisher.wait(timeout_s, self._wake_receiver)
        try:
            while self._wake_receiver.recv(4096):
                pass
        except BlockingIOError:
            return

    def _next(self) -> tuple[Send | None, float]:
        """Return what to send now, or how long there will be nothing."""
        now = self._clock()
        with self._lock:
            send = self._demand.take(now)
            wait_s = None if send is not None else self._demand.wait_s(now)
        return send, IDLE_S if wait_s is None else wait_s

    def _send(self, send: Send) -> None:
        try:
            data = self._artifacts.read_chunk(send.blob, send.chunk)
        except StorageError as error:
            _log.error("%s; nobody is sent it", error)
            data = None
        if data is None:
            self._chunk_counts.pop(send.blob, None)
            with self._lock:
                self._demand.drop(send.blob)
            return
        self._publisher.publish(self._topics.chunks(send.blob, send.device_id), pack_chunk(send.chunk, data))
        with self._lock:
            self._chunks_sent += 1
            self._bytes_sent += len(data)
