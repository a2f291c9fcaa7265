"""Hashes an image from the disk while it still comes: from its beginning, as far as it is durable, in a thread.

1. Only what is durable is read: it leaves the page cache first, so that the disk is read and not what was meant for it.
2. Nobody writes again what was said to be durable. Should it happen, nothing of what was hashed counts any more.
3. What goes wrong in the thread is not told there: `finish` reads all of it again, and raises what it meets.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from device_agent.slots import durable

Opened = Callable[[], AbstractContextManager[int]]
"""Lends the image's descriptor; what it raises ends the reading."""


class ReadBack:
    """One reading of an image of `size_bytes`, from its beginning to `finish`. Thread-safe."""

    def __init__(self, opened: Opened, size_bytes: int) -> None:
        self._opened = opened
        self._size_bytes = size_bytes
        self._changed = threading.Condition()  # guards what follows
        self._durable_bytes = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._whole = hashlib.sha256()  # the thread's until it has ended, as is the next
        self._hashed_bytes = 0

    @property
    def durable_bytes(self) -> int:
        """How much of the image, from its beginning, is durable and not written again."""
        return self._durable_bytes

    def advance(self, durable_bytes: int) -> None:
        """Say how much is durable; returns at once."""
        with self._changed:
            if self._stopping or durable_bytes <= self._durable_bytes:
                return
            self._durable_bytes = durable_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="readback", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """End the thread: nothing is read ahead any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def give_up(self) -> None:
        """Begin anew with `finish`: what was durable is written again."""
        self.stop()
        self._restart()

    def finish(self, progress: Callable[[int, int], None] | None) -> str:
        """Return the SHA-256 (hexadecimal) of the whole image, durable by now; once. Raises what the disk does."""
        self.stop()
        with self._opened() as descriptor:
            for done in self._hash(descriptor, self._size_bytes):
                if progress is not None:
                    progress(done, self._size_bytes)
        return self._whole.hexdigest()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or self._durable_bytes > self._hashed_bytes)
                    if self._stopping:
                        return
                    end = self._durable_bytes
                with self._opened() as descriptor:
                    for _ in self._hash(descriptor, end):
                        if self._stopping:
                            break
        except Exception:  # noqa: BLE001 - rule 3
            self._restart()

    def _hash(self, descriptor: int, end: int) -> Iterator[int]:
        """Hash on to `end`, and yield after each block how much is hashed."""
        for block in durable.read_back(descriptor, self._hashed_bytes, end):
            self._whole.update(block)
            self._hashed_bytes += len(block)
            yield self._hashed_bytes

    def _restart(self) -> None:
        self._whole, self._hashed_bytes = hashlib.sha256(), 0
