"""Chunks on the wire, and the chunk lists that prove each of them against the signed metadata.

A blob is cut into chunks of 64 KiB (the last may be shorter). Its chunk list is the chunks' SHA-256 digests, 32 bytes
each, one after the other. A chunk list longer than one chunk is a blob itself, with a chunk list of its own, and so on
until a list fits in one chunk. The signed metadata names the digest of the blob and of every list, bottom up, so the
device fetches the top list first and can check whatever arrives, chunk by chunk, on arrival.

A message on a chunk topic is one header of 12 bytes, big-endian, and the chunk's bytes:

    0  4  the ASCII letters FLC1
    4  4  the chunk's index in the blob, from 0
    8  4  the number of bytes that follow
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import ChunkError
from protocol.identity import MAX_INTEGER, check_digest

CHUNK_BYTES: Final = 64 * 1024
DIGEST_BYTES: Final = 32
DIGESTS_PER_CHUNK: Final = CHUNK_BYTES // DIGEST_BYTES
MAX_BLOB_BYTES: Final = 64 * 1024**3
"""The largest image: 64 GiB."""

MAGIC: Final = b"FLC1"
_HEADER: Final = struct.Struct(">4sII")
HEADER_BYTES: Final = _HEADER.size
assert HEADER_BYTES == 12  # noqa: S101 - the protocol says so


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """A blob as signed metadata names it.

    `digest` is the SHA-256 of its bytes, `size_bytes` their number, `lists` the SHA-256 of its chunk list, then
    of that list's chunk list, and so on; the last fits in one chunk.
    """

    digest: str
    size_bytes: int
    lists: tuple[str, ...]

    def __post_init__(self) -> None:
        check_digest(self.digest, "blob")
        for item in self.lists:
            check_digest(item, "chunk list")
        if not 1 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise ChunkError(f"a blob of {self.size_bytes} bytes: 1 to {MAX_BLOB_BYTES} are possible")
        if len(self.lists) != len(list_sizes(self.size_bytes)):
            raise ChunkError(f"a blob of {self.size_bytes} bytes has {len(list_sizes(self.size_bytes))} chunk lists")

    @property
    def chunk_count(self) -> int:
        """The number of chunks."""
        return chunk_count(self.size_bytes)


def chunk_count(size_bytes: int) -> int:
    """Return the number of chunks of a blob."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_span(index: int, size_bytes: int) -> tuple[int, int]:
    """Return a chunk's (offset, length) in a blob of `size_bytes`; raises ChunkError for an index beyond it."""
    if not 0 <= index < chunk_count(size_bytes):
        raise ChunkError(f"chunk {index} of a blob that has {chunk_count(size_bytes)}")
    offset = index * CHUNK_BYTES
    return offset, min(CHUNK_BYTES, size_bytes - offset)


def list_sizes(size_bytes: int) -> tuple[int, ...]:
    """Return the sizes in bytes of a blob's chunk lists, bottom up."""
    sizes = [chunk_count(size_bytes) * DIGEST_BYTES]
    while sizes[-1] > CHUNK_BYTES:
        sizes.append(chunk_count(sizes[-1]) * DIGEST_BYTES)
    return tuple(sizes)


def pack_chunk(index: int, data: bytes | bytearray | memoryview) -> bytes:
    """Return a chunk's message."""
    return _HEADER.pack(MAGIC, index, len(data)) + data


def unpack_chunk(payload: bytes | bytearray | memoryview) -> tuple[int, memoryview]:
    """Return a message's chunk index and bytes (a view, no copy); raises ChunkError."""
    if not HEADER_BYTES < len(payload) <= HEADER_BYTES + CHUNK_BYTES:
        raise ChunkError(f"a chunk message of {len(payload)} bytes")
    magic, index, length = _HEADER.unpack_from(payload)
    if magic != MAGIC or length != len(payload) - HEADER_BYTES:
        raise ChunkError("a chunk message whose header does not fit it")
    return index, memoryview(payload)[HEADER_BYTES:]


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The digests of a blob's chunks, checked against the signed metadata before it is made."""

    size_bytes: int
    digests: bytes

    @classmethod
    def trust(cls, content: bytes, digest: str, size_bytes: int) -> ChunkList:
        """Return `content` as the chunk list of a blob of `size_bytes` if it has `digest`; raises ChunkError."""
        if len(content) != chunk_count(size_bytes) * DIGEST_BYTES or hashlib.sha256(content).hexdigest() != digest:
            raise ChunkError("a chunk list that is not the one that was signed")
        return cls(size_bytes, bytes(content))

    def verify(self, index: int, data: bytes | bytearray | memoryview) -> int:
        """Return the chunk's offset in the blob if `data` is that chunk; raises ChunkError."""
        offset, length = chunk_span(index, self.size_bytes)
        wanted = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        if len(data) != length or hashlib.sha256(data).digest() != wanted:
            raise ChunkError(f"chunk {index} does not have the digest that was signed")
        return offset


def describe(blocks: Iterable[bytes]) -> tuple[BlobRef, tuple[bytes, ...]]:
    """Return the reference of the blob whose bytes are `blocks` (of any lengths), and its chunk lists, bottom up."""
    whole, size_bytes, digests = hashlib.sha256(), 0, bytearray()
    for chunk in _rechunk(blocks):
        whole.update(chunk)
        size_bytes += len(chunk)
        digests += hashlib.sha256(chunk).digest()
    lists = [bytes(digests)]
    while len(lists[-1]) > CHUNK_BYTES:
        lists.append(b"".join(hashlib.sha256(chunk).digest() for chunk in _rechunk([lists[-1]])))
    names = tuple(hashlib.sha256(content).hexdigest() for content in lists)
    return BlobRef(digest=whole.hexdigest(), size_bytes=size_bytes, lists=names), tuple(lists)


def _rechunk(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pending = bytearray()
    for block in blocks:
        pending += block
        while len(pending) >= CHUNK_BYTES:
            yield bytes(pending[:CHUNK_BYTES])
            del pending[:CHUNK_BYTES]
    if pending:
        yield bytes(pending)


def to_ranges(indexes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending indexes as (first, count) pairs."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and index == sum(ranges[-1]):
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((index, 1))
    return tuple(ranges)


def check_ranges(ranges: Sequence[tuple[int, int]], *, max_chunks: int) -> None:
    """Raise ChunkError unless the ranges are ascending, apart, non-empty and cover at most `max_chunks` chunks."""
    end, total = 0, 0
    for first, count in ranges:
        if first < end or count < 1 or first + count > MAX_INTEGER:
            raise ChunkError(f"chunk ranges must ascend without overlap; ({first}, {count}) does not")
        end, total = first + count, total + count
    if total > max_chunks:
        raise ChunkError(f"{total} chunks asked at once; at most {max_chunks} are possible")
