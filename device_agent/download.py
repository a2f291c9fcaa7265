"""Fetches one blob over the link into a target: asks, verifies, writes in place, and remembers what is durable.

1. A chunk is verified against the signed digest before anything else is done with its bytes, and written once.
2. A chunk is recorded as received only after the target made it durable: what is recorded is never fetched again, and
   never doubted. What a killed process wrote and had not recorded is looked for on the disk, and verified again.
3. Every level of chunk lists is fetched as the blob itself is, the top one first (`chunk_lists`).
4. Whatever happens ends in one call of `on_done` or `on_failed`, unless `close` comes first.

Threads: `on_chunk` is called in the link's thread, and verifies and writes there, so that a slow disk slows the sender.
A thread of the download's own ("download") makes durable, records, asks again, and makes all other callbacks. The rest
may be called from any thread, but `close` not from a callback. Memory does not grow with the blob.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from device_agent.chunk_lists import ChunkLists
from device_agent.download_ports import ChunkLink, ChunkStore, DownloadSettings, Target
from device_agent.window import Window, leading_bytes
from protocol.chunks import BlobRef, chunk_span, unpack_chunk
from protocol.codec import encode
from protocol.errors import ChunkError
from protocol.phases import Reason
from protocol.topics import Topics
from protocol.up import Want

__all__ = ["ChunkLink", "ChunkStore", "Download", "DownloadSettings", "Target"]

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOG = logging.getLogger(__name__)


class _Stage:
    """The level that is being fetched, and what of it waits for the download's thread."""

    def __init__(self, level: int, name: str, window: Window) -> None:
        self.level = level
        self.name = name
        self.window = window
        self.dirty_bytes = 0
        self.dirty_since: float | None = None
        self.list_chunks: list[tuple[int, bytes]] = []


class Download:
    """One download: constructed, started, and closed by its owner, who also closes the target.

    `image` is the digest under which the store remembers. `on_progress(durable bytes, all bytes)` is called at most
    once in `progress_interval_s`; `on_durable(bytes)` tells how much of the blob's beginning is there without a gap and
    durable; `on_bad_chunk(why)` is called for each chunk that was not what was signed, in the link's thread. (A chunk
    that is there already is dropped unread.) `now` is a clock that only goes forward, in seconds.
    """

    def __init__(
        self,
        blob: BlobRef,
        *,
        image: str,
        target: Target,
        store: ChunkStore,
        link: ChunkLink,
        topics: Topics,
        device_id: str,
        on_done: Callable[[], None],
        on_failed: Callable[[Reason, str], None],
        on_progress: Callable[[int, int], None],
        on_bad_chunk: Callable[[str], None],
        on_durable: Callable[[int], None] = lambda _durable_bytes: None,
        settings: DownloadSettings | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blob = blob
        self._image = image
        self._target = target
        self._store = store
        self._link = link
        self._topics = topics
        self._device_id = device_id
        self._on_done, self._on_failed = on_done, on_failed
        self._on_progress, self._on_bad_chunk, self._on_durable = on_progress, on_bad_chunk, on_durable
        self._settings = settings or DownloadSettings()
        self._now = now
        self._lists = ChunkLists(blob, image, store)
        self._changed = threading.Condition()  # guards what follows, and the stage's window
        self._stage: _Stage | None = None
        self._failure: tuple[Reason, str] | None = None
        self._closing = False
        self._paused = False
        self._woken = False
        self._detached = self._settings.detached
        self._progress_at = 0.0
        self._told_at = 0.0
        self._received_bytes = 0
        self._fetched_bytes = 0
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)

    @property
    def received_bytes(self) -> int:
        """The bytes of the blob that are verified and durable."""
        return self._received_bytes

    @property
    def fetched_bytes(self) -> int:
        """The bytes of chunks that came over the link and were used, lists included, since the start."""
        return self._fetched_bytes

    @property
    def is_detached(self) -> bool:
        """Whether chunks are asked for on the device's own topic."""
        return self._detached

    def start(self, *, paused: bool = False) -> None:
        """Begin; `paused` until `resume` is called."""
        self._paused = paused
        self._progress_at = self._now()
        self._thread.start()

    def close(self, timeout_s: float = 30.0) -> None:
        """End it, with all that was verified recorded; no callback is made afterwards. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def pause(self) -> None:
        """Ask for nothing until `resume`: the link is down, or somebody holds updates. Idempotent."""
        with self._changed:
            if self._paused:
                return
            self._paused = True
            stage = self._stage
        if stage is not None:
            self._leave(stage)

    def resume(self) -> None:
        """Go on after a pause; what was asked before it is asked for again. Does nothing if there was none."""
        with self._changed:
            if not self._paused:
                return
            self._paused = False
            self._progress_at = self._now()
            stage = self._stage
            if stage is not None:
                stage.window.lose(self._progress_at)
        if stage is not None:
            self._join(stage)
            self._ask(stage)
        self._wake()

    def on_chunk(self, blob: str, payload: bytes | memoryview) -> bool:
        """Take a message from a chunk topic, the shared or the device's own; False if `blob` is none of this one's."""
        stage = self._stage
        if stage is None or stage.name != blob or self._closing:
            return blob in self._lists.names
        try:
            index, data = unpack_chunk(payload)
            if stage.window.has(index):
                return True
            offset = self._lists.verify(stage.level, index, data)
            if stage.level == 0:
                self._target.write(offset, data)
        except ChunkError as error:
            self._on_bad_chunk(str(error))
            return True
        except Exception as error:  # noqa: BLE001 - whatever the disk or the store raise ends this download, not the link
            self._fail(_reason_of(error), str(error))
            return True
        self._received(stage, index, data)
        return True

    def _received(self, stage: _Stage, index: int, data: memoryview) -> None:
        now, length = self._now(), len(data)
        with self._changed:
            refill = stage.window.receive(index, now)
            self._fetched_bytes += length
            self._progress_at = now
            stage.dirty_bytes += length
            if stage.dirty_since is None:
                stage.dirty_since = now
                self._woken = True
                self._changed.notify()  # the thread has a time now at which to sync
            if stage.level:
                stage.list_chunks.append((index, bytes(data)))
            if stage.dirty_bytes >= self._settings.sync_bytes or not stage.window.missing:
                self._changed.notify()
        if refill:
            self._ask(stage)

    def _ask(self, stage: _Stage) -> None:
        with self._changed:
            if self._paused or self._closing or not stage.window.missing:
                return
            detach = not self._detached and stage.window.should_detach
            if detach:
                self._detached = True
                stage.window.lose(self._now())
            ranges = stage.window.ask(self._now())
            detached = self._detached
        if detach:
            _LOG.info("many chunks were lost on the shared topic: asking for them on the device's own")
            self._link.unsubscribe([self._topics.chunks(stage.name)])
        if not ranges:
            return
        want = Want(blob=stage.name, ranges=ranges, detached=detached)
        if not self._link.publish(self._topics.up(self._device_id, "want"), encode(want), qos=1):
            with self._changed:
                stage.window.lose(self._now())

    def _join(self, stage: _Stage) -> None:
        # The device's own topic is among those that it hears all the time.
        if not self._detached and stage.window.missing:
            self._link.subscribe({self._topics.chunks(stage.name): 0})

    def _leave(self, stage: _Stage) -> None:
        self._link.unsubscribe([self._topics.chunks(stage.name)])

    def _run(self) -> None:
        done = False
        try:
            done = all(self._fetch(self._begin(level)) for level in range(self._lists.top, -1, -1))
        except Exception as error:  # noqa: BLE001 - the same, in this thread
            self._fail(_reason_of(error), str(error))
        with self._changed:
            self._stage = None
            failure, closing = self._failure, self._closing
        if failure is not None:
            _LOG.info("the download failed: %s", failure[1])
        if closing:
            return
        if failure is not None:
            self._on_failed(*failure)
        elif done:
            self._on_done()

    def _begin(self, level: int) -> _Stage:
        name, size_bytes = self._lists.names[level], self._lists.size_bytes(level)
        have = self._lists.kept(level) if level else self._recorded()
        window = Window(size_bytes, window_bytes=self._settings.window_bytes, now=self._now(), have=have)
        stage = _Stage(level, name, window)
        if level == 0:
            self._received_bytes = window.received_bytes
            if self._target.kept:
                self._on_durable(leading_bytes(window.bitmap, size_bytes))
                self._recover(stage)
        with self._changed:
            self._stage = stage
            paused = self._paused
        if not paused:
            self._join(stage)
            self._ask(stage)
        return stage

    def _recorded(self) -> bytes | None:
        return self._store.bitmap(self._image, self._blob.digest) if self._target.kept else None

    def _recover(self, stage: _Stage) -> None:
        """Find what was written and not recorded: chunks are asked in order, so it lies before the first long gap."""
        window, misses, recovered = stage.window, 0, 0
        for index in window.missing_indexes():
            offset, length = chunk_span(index, window.size_bytes)
            try:
                self._lists.verify(0, index, self._target.read(offset, length))
            except ChunkError:
                misses += 1
                if misses > 2 * window.size or self._closing:
                    break
                continue
            window.restore(index)
            stage.dirty_bytes += length
            misses, recovered = 0, recovered + 1
        if recovered:
            stage.dirty_since = self._now()
            _LOG.info("%d chunks that were not recorded are on the disk, and good", recovered)

    def _fetch(self, stage: _Stage) -> bool:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_pressing(stage), self._pause_s(stage))
                    self._woken = False
                    complete = not stage.window.missing
                    stop = self._closing or self._failure is not None
                self._settle(stage, at_once=complete or stop)
                if complete or stop:
                    return not stop
                self._look_at_the_clock(stage)
        finally:
            self._leave(stage)

    def _is_pressing(self, stage: _Stage) -> bool:
        return (
            self._closing
            or self._woken
            or self._failure is not None
            or not stage.window.missing
            or stage.dirty_bytes >= self._settings.sync_bytes
        )

    def _pause_s(self, stage: _Stage) -> float | None:
        times = []
        if not self._paused:
            times += [stage.window.due, self._progress_at + self._settings.timeout_s]
        if stage.dirty_since is not None:
            times.append(stage.dirty_since + self._settings.sync_interval_s)
        return max(0.0, min(times) - self._now()) if times else None

    def _settle(self, stage: _Stage, *, at_once: bool) -> None:
        """Make durable, then record: in this order (rule 2)."""
        with self._changed:
            since = stage.dirty_since
            if since is None or not (
                at_once
                or stage.dirty_bytes >= self._settings.sync_bytes
                or self._now() >= since + self._settings.sync_interval_s
            ):
                return
            stage.dirty_bytes, stage.dirty_since = 0, None
            list_chunks, stage.list_chunks = stage.list_chunks, []
            bitmap, received_bytes = stage.window.bitmap, stage.window.received_bytes
        for index, content in list_chunks:
            self._lists.keep(stage.level, index, content)
        if stage.level == 0:
            self._target.sync()
            self._on_durable(leading_bytes(bitmap, self._blob.size_bytes))
            self._store.save_bitmap(self._image, stage.name, bitmap)
            self._received_bytes = received_bytes
            self._tell_progress(complete=received_bytes == self._blob.size_bytes)

    def _tell_progress(self, *, complete: bool) -> None:
        now = self._now()
        if not self._closing and (complete or now >= self._told_at + self._settings.progress_interval_s):
            self._told_at = now
            self._on_progress(self._received_bytes, self._blob.size_bytes)

    def _look_at_the_clock(self, stage: _Stage) -> None:
        with self._changed:
            if self._paused:
                return
            now = self._now()
            late, due = now >= self._progress_at + self._settings.timeout_s, now >= stage.window.due
        if late:
            self._fail(Reason.DOWNLOAD_FAILED, f"no chunk of {stage.name} came for {self._settings.timeout_s:g} s")
        elif due:
            self._ask(stage)

    def _fail(self, reason: Reason, detail: str) -> None:
        with self._changed:
            self._failure = self._failure or (reason, detail)
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()


def _reason_of(error: Exception) -> Reason:
    """Return what an attempt fails of: what the error says itself (SlotError does), else by the disk's answer."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, Reason):
        return reason
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Reason.TOO_LARGE
    return Reason.STORAGE_FAILED
