"""The file that an image is written into, chunk by chunk and from several threads, before any slot has it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from typing import Final

from device_agent.slots import durable
from device_agent.slots.ports import Progress, SlotError
from device_agent.slots.readback import ReadBack
from protocol.phases import Reason

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def storage(what: str, reason: Reason = Reason.STORAGE_FAILED) -> Iterator[None]:
    """Turn what the disk refuses into a SlotError: TOO_LARGE for want of space, else `reason`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            reason = Reason.TOO_LARGE if reason is Reason.STORAGE_FAILED else reason
        raise SlotError(reason, f"{what}: {error.strerror or error}; what runs was not changed") from error


class FileTarget:
    """A file of the image's full size; chunks go to their places in it. Takes over the descriptor."""

    def __init__(self, descriptor: int, size_bytes: int, *, kept: bool) -> None:
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._kept = kept
        self._users = 0
        self._closed = False
        self._lost: SlotError | None = None
        self._changed = threading.Condition()
        self._reading = ReadBack(self._open, size_bytes)
        self.hashed: tuple[tuple[int, ...], str] | None = None
        """The file as it was when it was last hashed (see `identity`), and the digest that it had."""

    @property
    def kept(self) -> bool:
        """Whether what was written before is still there."""
        return self._kept

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset` (bytes)."""
        if offset < 0 or offset + len(data) > self._size_bytes:
            raise SlotError(
                Reason.STORAGE_FAILED, f"{len(data)} bytes at {offset} of an image of {self._size_bytes}: not written"
            )
        if offset < self._reading.durable_bytes:
            self._reading.give_up()
        with self._open() as descriptor, storage("the image could not be written"):
            durable.write_all(descriptor, data, offset)

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there; fewer bytes, or none, beyond the image's end."""
        with self._open() as descriptor, storage("the image could not be read back"):
            return os.pread(descriptor, length, offset)

    def sync(self) -> None:
        """Make durable all that was written before the call."""
        with self._open() as descriptor:
            try:
                with storage("the image could not be made durable"):
                    os.fdatasync(descriptor)
            except SlotError as error:
                # The kernel tells a failed write-back once and then takes the pages for clean: never believe it again.
                self._lost = error
                raise

    def read_back(self, durable_bytes: int) -> None:
        """Begin, in the background, to read back what is durable and complete: so much from the image's beginning."""
        self._reading.advance(min(durable_bytes, self._size_bytes))

    def digest(self, progress: Progress | None = None) -> str:
        """Return the SHA-256 (hexadecimal) of the image as the disk has it; what was read back is not read again."""
        self.sync()
        with self._open() as descriptor, storage("the image could not be read back"):
            before = identity(os.fstat(descriptor))
            reading, self._reading = self._reading, ReadBack(self._open, self._size_bytes)
            digest = reading.finish(progress)
            if identity(os.fstat(descriptor)) == before:
                self.hashed = (before, digest)
            return digest

    def close(self) -> None:
        """Let go of the file when the calls in progress have ended."""
        self._reading.stop()
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: not self._users)
        os.close(self._descriptor)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        # A descriptor that is closed while another thread writes may by then be another file's.
        with self._changed:
            if self._closed:
                raise SlotError(Reason.STORAGE_FAILED, "the image is closed: nothing was written")
            if self._lost is not None:
                raise SlotError(self._lost.reason, str(self._lost))
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()


def identity(there: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written: device, inode, size, time of the last write."""
    return there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns
