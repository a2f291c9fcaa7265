"""Blobs on disk by digest: received in a stream, whole and verified or not there at all, read chunk by chunk.

Below the directory: `<digest>` for each blob and for each of its chunk lists (which are blobs themselves), and
`<digest>.lists`, which names a blob's chunk lists, bottom up, one digest a line. The blob's own file comes last, so
wherever it is, the rest is too. Names from outside never become paths, but for digests that are checked.
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from cloud.durable import PRIVATE_FILE, beside, make_private_directory, remove_leftovers, sync_directory, write_durably
from protocol.chunks import CHUNK_BYTES, MAX_BLOB_BYTES, BlobRef, chunk_count, chunk_span, describe
from protocol.errors import ChunkError, FleetliftError
from protocol.identity import check_digest

LISTS_SUFFIX: Final = ".lists"
MAX_OPEN_FILES: Final = 64
_BLOCK_BYTES: Final = 1024 * 1024


class ArtifactError(FleetliftError):
    """A blob was not taken, or not read; the text says why. What was stored before is untouched."""


class BlobTooLargeError(ArtifactError):
    """More bytes came than are allowed."""


class DigestMismatchError(ArtifactError):
    """The bytes that came are not those of the digest that was announced."""


class StorageError(ArtifactError):
    """The disk refused; a full one most likely."""


class Artifacts:
    """The blobs in one directory. Thread-safe; one process at a time."""

    def __init__(self, directory: Path, *, max_open_files: int = MAX_OPEN_FILES) -> None:
        """Open a store, made now if there is none; raises OSError."""
        self._directory = make_private_directory(directory)
        self._max_open_files = max_open_files
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[BinaryIO, int]] = OrderedDict()
        """Files being read and their sizes, the one read last at the end."""
        remove_leftovers(directory)

    def has(self, digest: str) -> bool:
        """Tell whether the blob, or chunk list, is here; raises IdentityError for what is no digest."""
        return self._path(digest).exists()

    def find(self, digest: str) -> BlobRef | None:
        """Return the reference of a blob that is here, else None (also for a chunk list); raises IdentityError."""
        try:
            lists = self._lists_path(digest).read_text(encoding="ascii").split()
            size_bytes = self._path(digest).stat().st_size
        except FileNotFoundError:
            return None
        return BlobRef(digest=digest, size_bytes=size_bytes, lists=tuple(lists))

    def receive(self, stream: Iterable[bytes], digest: str, max_bytes: int) -> BlobRef:
        """Store the blob that `stream` brings in blocks, and return its reference.

        A blob that is here already is not read again. Several may receive the same digest at once.

        Raises:
            BlobTooLargeError, DigestMismatchError, StorageError: nothing was stored.
            IdentityError: `digest` is none.
        """
        known = self.find(digest)
        if known is not None:
            return known
        with self.incoming(digest, max_bytes) as incoming:
            for block in stream:
                incoming.write(block)
            return incoming.finish()

    def incoming(self, digest: str, max_bytes: int) -> "Incoming":
        """Return what a blob is written to, block by block, where the blocks come of themselves; a context manager."""
        return Incoming(self, self._path(digest), digest, max_bytes)

    def size(self, digest: str) -> int | None:
        """Return the size of a blob or chunk list in bytes, or None; raises IdentityError."""
        with self._lock:
            opened = self._opened(digest)
            return None if opened is None else opened[1]

    def chunk_count(self, digest: str) -> int | None:
        """Return the number of chunks of a blob or chunk list, or None; raises IdentityError."""
        size_bytes = self.size(digest)
        return None if size_bytes is None else chunk_count(size_bytes)

    def read_chunk(self, digest: str, index: int) -> bytes | None:
        """Return one chunk of a blob or chunk list; None for a blob that is not here or an index beyond its end.

        Raises:
            StorageError: the disk failed, or the file is shorter than it was.
            IdentityError: `digest` is none.
        """
        with self._lock:
            opened = self._opened(digest)
            if opened is None:
                return None
            file, size_bytes = opened
            try:
                offset, length = chunk_span(index, size_bytes)
            except ChunkError:
                return None
            try:
                data = os.pread(file.fileno(), length, offset)
            except OSError as error:
                raise StorageError(f"blob {digest} cannot be read: {error.strerror}") from error
            if len(data) != length:
                self._forget(digest)
                raise StorageError(f"blob {digest} has become shorter than {size_bytes} bytes")
            return data

    def damaged(self) -> tuple[str, ...]:
        """Return the digests of blobs and lists whose bytes are no longer theirs: reads all of them."""
        return tuple(digest for digest in self.digests() if _digest_of(self._path(digest)) != digest)

    def digests(self) -> tuple[str, ...]:
        """Return every digest that is here, of blobs and of chunk lists."""
        return tuple(sorted(path.name for path in self._directory.iterdir() if len(path.name) == 64))

    def discard(self, digest: str) -> None:
        """Remove a blob (one that is damaged can then be received again); its lists stay. Idempotent."""
        with self._lock:
            self._forget(digest)
            self._path(digest).unlink(missing_ok=True)
            sync_directory(self._directory)

    def close(self) -> None:
        """Close the files that are open for reading; the next read opens them again."""
        with self._lock:
            for digest in tuple(self._open):
                self._forget(digest)

    def keep(self, temporary: Path, ref: BlobRef, lists: Mapping[str, bytes]) -> None:
        """Take a file that holds a blob's bytes, durable already, with its lists; for `Incoming`. Raises OSError."""
        for name, content in lists.items():
            write_durably(self._path(name), content)
        write_durably(self._lists_path(ref.digest), "\n".join(ref.lists).encode())
        temporary.replace(self._path(ref.digest))
        sync_directory(self._directory)

    def _path(self, digest: str) -> Path:
        return self._directory / check_digest(digest, "blob")

    def _lists_path(self, digest: str) -> Path:
        return self._directory / f"{check_digest(digest, 'blob')}{LISTS_SUFFIX}"

    def _opened(self, digest: str) -> tuple[BinaryIO, int] | None:
        opened = self._open.get(digest)
        if opened is None:
            try:
                file = self._path(digest).open("rb", buffering=0)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StorageError(f"blob {digest} cannot be read: {error.strerror}") from error
            opened = self._open[digest] = (file, os.fstat(file.fileno()).st_size)
            if len(self._open) > self._max_open_files:
                self._forget(next(iter(self._open)))
        self._open.move_to_end(digest)
        return opened

    def _forget(self, digest: str) -> None:
        opened = self._open.pop(digest, None)
        if opened is not None:
            opened[0].close()


class Incoming:
    """A blob on its way in: hashed, cut and written as it comes; gone again unless `finish` returns."""

    def __init__(self, artifacts: Artifacts, path: Path, digest: str, max_bytes: int) -> None:
        self._artifacts = artifacts
        self._temporary = beside(path)
        self._digest = digest
        self._max_bytes = min(max_bytes, MAX_BLOB_BYTES)
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._digests = bytearray()
        self._size_bytes = 0
        try:
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        except OSError as error:
            raise self._refusal(error) from error
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    @property
    def size_bytes(self) -> int:
        """How many bytes have come."""
        return self._size_bytes

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, of any number; raises BlobTooLargeError, StorageError."""
        if self._size_bytes + len(block) > self._max_bytes:
            raise BlobTooLargeError(f"more than the {self._max_bytes} bytes that are allowed came; nothing was stored")
        self._whole.update(block)
        view = memoryview(block)
        begin = 0
        while begin < len(view):
            end = min(begin + CHUNK_BYTES - (self._size_bytes + begin) % CHUNK_BYTES, len(view))
            self._chunk.update(view[begin:end])
            if (self._size_bytes + end) % CHUNK_BYTES == 0:
                self._cut()
            begin = end
        self._size_bytes += len(view)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            raise self._refusal(error) from error

    def finish(self) -> BlobRef:
        """Return the blob's reference when all of it is on the disk; raises DigestMismatchError, StorageError."""
        if self._size_bytes % CHUNK_BYTES:
            self._cut()
        if not self._size_bytes:
            raise DigestMismatchError("no bytes came at all; nothing was stored. A blob has at least one")
        if self._whole.hexdigest() != self._digest:
            raise DigestMismatchError(
                f"{self._size_bytes} bytes came, with the SHA-256 {self._whole.hexdigest()} and not {self._digest} as "
                "announced; nothing was stored. Send it again"
            )
        first = bytes(self._digests)
        contents = [first, *(describe([first])[1] if len(first) > CHUNK_BYTES else ())]
        lists = {hashlib.sha256(content).hexdigest(): content for content in contents}
        ref = BlobRef(digest=self._digest, size_bytes=self._size_bytes, lists=tuple(lists))
        try:
            os.fsync(self._file.fileno())
            self._artifacts.keep(self._temporary, ref, lists)
        except OSError as error:
            raise self._refusal(error) from error
        return ref

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a disk that fails has said so already; the next start removes the rest
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _cut(self) -> None:
        self._digests += self._chunk.digest()
        self._chunk = hashlib.sha256()

    def _refusal(self, error: OSError) -> StorageError:
        return StorageError(
            f"blob {self._digest} was not stored: {error.strerror}. What was there is unchanged; free some space, then "
            "send it again"
        )


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
