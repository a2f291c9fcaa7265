"""Which chunks of a blob to ask for now: the receiver's credit window, pure, with time as an argument (seconds).

1. At most a window of chunks is asked and not yet received; more are asked when a quarter of it is free.
2. Chunks come in the order in which they were asked. One that has not come though others that were asked well after it
   have, is lost, and is asked for again with the next refill.
3. Without any progress for a while everything that was asked is lost. The while adapts to the pace at which chunks
   come, 1 to 10 s, and doubles as long as nothing comes.
4. A device that loses much while others get through should leave the shared stream (`should_detach`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from protocol.chunks import CHUNK_BYTES, chunk_count, chunk_span, to_ranges
from protocol.errors import ChunkError
from protocol.values import MAX_WANTED_CHUNKS, MAX_WANTED_RANGES

MIN_TIMEOUT_S: Final = 1.0
MAX_TIMEOUT_S: Final = 10.0
DETACH_SAMPLE: Final = 256
"""Asks between two looks at the share of those that were for lost chunks."""
DETACH_SHARE: Final = 0.25

Ranges = tuple[tuple[int, int], ...]


class Window:
    """The chunks of one blob: received, asked, or still to be asked. Not thread-safe."""

    def __init__(self, size_bytes: int, *, window_bytes: int, now: float, have: bytes | None = None) -> None:
        """Start with the chunks of the bitmap `have` (bit 0 of byte 0 is chunk 0); one of another size is ignored."""
        self.size_bytes = size_bytes
        self.count = chunk_count(size_bytes)
        self.size = max(1, min(window_bytes // CHUNK_BYTES, MAX_WANTED_CHUNKS))
        """The window, in chunks."""
        self._quarter = max(1, self.size // 4)
        known = have is not None and len(have) == bitmap_bytes(size_bytes)
        self._have = bytearray(have if have is not None and known else bitmap_bytes(size_bytes))
        if self.count % 8:
            self._have[-1] &= (1 << self.count % 8) - 1
        self.missing = self.count - sum(byte.bit_count() for byte in self._have)
        self._asked: dict[int, int] = {}  # chunk to the number of its ask, oldest first
        self._asks = 0
        self._newest = 0  # the highest number of an ask that was answered
        self._again: list[int] = []  # lost, ascending
        self._cursor = 0  # every chunk before it is received, asked, or in _again
        self._active_at = now
        self._gap_s = 0.0
        self._stalls = 0
        self._sampled, self._lost_of_sample = 0, 0

    @property
    def bitmap(self) -> bytes:
        """The chunks that are received."""
        return bytes(self._have)

    @property
    def received_bytes(self) -> int:
        """The bytes of the chunks that are received."""
        return received_bytes(self._have, self.size_bytes)

    @property
    def timeout_s(self) -> float:
        """How long without progress means that what was asked is lost."""
        adapted = max(MIN_TIMEOUT_S, min(8 * self._gap_s, MAX_TIMEOUT_S), 3 * self._gap_s)
        return max(adapted, min(adapted * 2.0 ** min(self._stalls, 8), MAX_TIMEOUT_S))

    @property
    def due(self) -> float:
        """When to call `ask` again if nothing is received."""
        return self._active_at + self.timeout_s

    @property
    def should_detach(self) -> bool:
        """Whether a large share of the last asks was for chunks that were lost while others came."""
        return self._sampled >= DETACH_SAMPLE and self._lost_of_sample >= DETACH_SHARE * self._sampled

    def has(self, index: int) -> bool:
        """Tell whether a chunk is received; raises ChunkError for an index beyond the blob."""
        if not 0 <= index < self.count:
            raise ChunkError(f"chunk {index} of a blob that has {self.count}")
        return bool(self._have[index >> 3] >> (index & 7) & 1)

    def receive(self, index: int, now: float) -> bool:
        """Note that a missing chunk was received, asked for or not; True if `ask` has something to say now."""
        self.restore(index)
        self._newest = max(self._newest, self._asked.pop(index, 0))
        gap_s = min(now - self._active_at, MAX_TIMEOUT_S)
        self._gap_s += (gap_s - self._gap_s) / 8 if self._gap_s else gap_s
        self._active_at = now
        self._stalls = 0
        oldest = next(iter(self._asked.values()), self._newest)
        return self.size - len(self._asked) >= self._quarter or oldest < self._newest - 2 * self._quarter

    def restore(self, index: int) -> None:
        """Note that a missing chunk was there already."""
        self._have[index >> 3] |= 1 << (index & 7)
        self.missing -= 1

    def ask(self, now: float) -> Ranges:
        """Return the chunks to ask for now, and take them for asked; empty while the window is full enough."""
        if now >= self.due:
            self._lost_of_sample += sum(number < self._newest for number in self._asked.values())
            self._lose_all()
            self._stalls += 1
            self._active_at = now
        self._lose_overtaken()
        room = self.size - len(self._asked)
        if room < self._quarter:
            return ()
        ranges = to_ranges(sorted(islice(self._candidates(), room)))
        if len(ranges) > MAX_WANTED_RANGES:
            ranges, rest = ranges[:MAX_WANTED_RANGES], ranges[MAX_WANTED_RANGES:]
            self._again = sorted([*self._again, *_indexes(rest)])
        if ranges:
            self._active_at = max(self._active_at, now)
            self._fade_sample()
        for index in _indexes(ranges):
            self._asks += 1
            self._sampled += 1
            self._asked[index] = self._asks
        return ranges

    def lose(self, now: float) -> None:
        """Take everything asked for lost, and nobody to blame: the link was down, or the ask was not handed over."""
        self._lose_all()
        self._active_at = now

    def missing_indexes(self) -> Iterator[int]:
        """Every chunk that is not received, ascending."""
        return self._missing_from(0)

    def _fade_sample(self) -> None:
        if self._sampled >= DETACH_SAMPLE:
            self._sampled, self._lost_of_sample = self._sampled // 2, self._lost_of_sample // 2

    def _lose_all(self) -> None:
        self._again = sorted([*self._again, *self._asked])
        self._asked.clear()

    def _lose_overtaken(self) -> None:
        horizon, lost = self._newest - self._quarter, []
        for index, number in self._asked.items():
            if number >= horizon:
                break
            lost.append(index)
        if lost:
            self._lost_of_sample += len(lost)
            self._again = sorted([*self._again, *lost])
            for index in lost:
                del self._asked[index]

    def _candidates(self) -> Iterator[int]:
        while self._again:
            index = self._again.pop(0)
            if not self.has(index):
                yield index
        for index in self._missing_from(self._cursor):
            self._cursor = index + 1
            if index not in self._asked:
                yield index

    def _missing_from(self, start: int) -> Iterator[int]:
        index = start
        while index < self.count:
            byte = self._have[index >> 3]
            if byte == 0xFF and not index & 7:
                index += 8
                continue
            if not byte >> (index & 7) & 1:
                yield index
            index += 1


def bitmap_bytes(size_bytes: int) -> int:
    """Return the length of a blob's bitmap."""
    return -(-chunk_count(size_bytes) // 8)


def received_bytes(bitmap: bytes | bytearray | None, size_bytes: int) -> int:
    """Return how many bytes of a blob a bitmap tells of; none of one that has another blob's size."""
    if bitmap is None or len(bitmap) != bitmap_bytes(size_bytes):
        return 0
    last = chunk_count(size_bytes) - 1
    bits = int.from_bytes(bitmap, "little") & ((1 << (last + 1)) - 1)
    short = CHUNK_BYTES - chunk_span(last, size_bytes)[1]
    return bits.bit_count() * CHUNK_BYTES - (short if bits >> last & 1 else 0)


def leading_bytes(bitmap: bytes, size_bytes: int) -> int:
    """Return how many bytes of a blob its bitmap tells of without a gap, from the beginning."""
    bits = int.from_bytes(bitmap, "little")
    chunks = (~bits & (bits + 1)).bit_length() - 1
    return min(chunks * CHUNK_BYTES, size_bytes)


def _indexes(ranges: Ranges) -> Iterator[int]:
    for first, count in ranges:
        yield from range(first, first + count)
