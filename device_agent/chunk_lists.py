"""What each chunk of a blob must be: its chunk lists, from the signed digest down, kept in pieces of one chunk each.

A chunk of a list says what 2048 chunks of the level below are. So every level is fetched and checked chunk by chunk,
stored as it comes, and only the pieces in use are in memory, however large the image is. Level 0 is the blob, level 1
its chunk list, and so on; the last level is a single chunk, whose digest is in the signed metadata.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from device_agent.download_ports import ListStore
from protocol.chunks import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    DIGESTS_PER_CHUNK,
    BlobRef,
    ChunkList,
    chunk_count,
    list_sizes,
)
from protocol.errors import ChunkError, FleetliftError

PIECE_SPAN_BYTES: Final = DIGESTS_PER_CHUNK * CHUNK_BYTES
"""What one chunk of a list tells of: 128 MiB of the level below."""
PIECES_IN_MEMORY: Final = 8


class ListLostError(FleetliftError):
    """A chunk list that was stored is not there any more."""


class ChunkLists:
    """A blob's levels. Not thread-safe but for `verify`, which one other thread may call."""

    def __init__(self, blob: BlobRef, image: str, store: ListStore) -> None:
        self.top = len(blob.lists)
        self._image = image
        self._store = store
        self._names = (blob.digest, *blob.lists)
        self._sizes = (blob.size_bytes, *list_sizes(blob.size_bytes))
        self._pieces: OrderedDict[tuple[int, int], ChunkList] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """The levels' digests, the blob's own first."""
        return self._names

    def size_bytes(self, level: int) -> int:
        """Return the size of a level."""
        return self._sizes[level]

    def verify(self, level: int, index: int, data: bytes | memoryview) -> int:
        """Return a chunk's offset in its level (bytes) if it is what was signed; raises ChunkError, ListLostError."""
        if level == self.top:
            ChunkList.trust(bytes(data), self._names[level], self._sizes[level - 1])
            return index * CHUNK_BYTES
        piece, inside = divmod(index, DIGESTS_PER_CHUNK)
        return piece * PIECE_SPAN_BYTES + self._piece(level, piece).verify(inside, data)

    def keep(self, level: int, index: int, content: bytes) -> None:
        """Store a verified chunk of a list (`level` 1 or more); raises what the store raises."""
        self._store.save_chunk_list(self._image, hashlib.sha256(content).hexdigest(), content)
        self._remember(level - 1, index, content, self._digest(level, index))

    def kept(self, level: int) -> bytes:
        """Return the bitmap of the chunks of a list that are stored, the level above being stored whole."""
        bitmap = bytearray(-(-chunk_count(self._sizes[level]) // 8))
        for index in range(chunk_count(self._sizes[level])):
            digest = self._digest(level, index)
            content = self._store.chunk_list(digest)
            if content is not None and hashlib.sha256(content).hexdigest() == digest:
                bitmap[index >> 3] |= 1 << (index & 7)
        return bytes(bitmap)

    def _piece(self, level: int, piece: int) -> ChunkList:
        known = self._pieces.get((level, piece))
        if known is not None:
            return known
        digest = self._digest(level + 1, piece)
        content = self._store.chunk_list(digest)
        if content is None:
            raise ListLostError(f"the chunk list {digest} is not there any more")
        return self._remember(level, piece, content, digest)

    def _remember(self, level: int, piece: int, content: bytes, digest: str) -> ChunkList:
        portion = min(PIECE_SPAN_BYTES, self._sizes[level] - piece * PIECE_SPAN_BYTES)
        try:
            trusted = ChunkList.trust(content, digest, portion)
        except ChunkError as error:
            raise ListLostError(f"the chunk list {digest} was altered where it is stored") from error
        self._pieces[level, piece] = trusted
        if len(self._pieces) > PIECES_IN_MEMORY:
            self._pieces.popitem(last=False)
        return trusted

    def _digest(self, level: int, index: int) -> str:
        if level == self.top:
            return self._names[level]
        piece, inside = divmod(index, DIGESTS_PER_CHUNK)
        digests = self._piece(level, piece).digests
        return digests[inside * DIGEST_BYTES : (inside + 1) * DIGEST_BYTES].hex()
