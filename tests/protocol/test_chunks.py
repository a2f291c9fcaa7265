"""Chunks, their lists, and the ranges by which they are asked."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunks import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    HEADER_BYTES,
    MAX_BLOB_BYTES,
    BlobRef,
    ChunkList,
    check_ranges,
    chunk_count,
    chunk_span,
    describe,
    list_sizes,
    pack_chunk,
    to_ranges,
    unpack_chunk,
)
from protocol.errors import ChunkError

CONTENT = hashlib.shake_256(b"any content").digest(3 * CHUNK_BYTES + 5)


def test_a_blob_is_described_whatever_the_blocks() -> None:
    whole = describe([CONTENT])
    assert whole == describe(CONTENT[start : start + 1000] for start in range(0, len(CONTENT), 1000))
    ref, (digests,) = whole
    assert ref.digest == hashlib.sha256(CONTENT).hexdigest()
    assert ref.size_bytes == len(CONTENT)
    assert ref.chunk_count == 4
    assert len(digests) == 4 * DIGEST_BYTES


def test_every_chunk_is_verified_against_a_trusted_list() -> None:
    ref, (digests,) = describe([CONTENT])
    trusted = ChunkList.trust(digests, ref.lists[0], ref.size_bytes)
    for index in range(ref.chunk_count):
        offset, length = chunk_span(index, ref.size_bytes)
        chunk = CONTENT[offset : offset + length]
        assert trusted.verify(index, chunk) == offset
        for forged in (chunk[:-1], chunk + b"x", bytes([chunk[0] ^ 1]) + chunk[1:], b""):
            with pytest.raises(ChunkError):
                trusted.verify(index, forged)
    for index in (-1, ref.chunk_count, 2**32):
        with pytest.raises(ChunkError):
            trusted.verify(index, CONTENT[:CHUNK_BYTES])


def test_a_list_that_was_not_signed_is_refused() -> None:
    ref, (digests,) = describe([CONTENT])
    for content in (digests[:-1], digests + b"x", bytes(len(digests)), b""):
        with pytest.raises(ChunkError):
            ChunkList.trust(content, ref.lists[0], ref.size_bytes)


def test_the_list_of_a_large_blob_is_a_blob_itself() -> None:
    size = 130 * 1024 * 1024
    ref, lists = describe(bytes(1024 * 1024) for _ in range(130))
    assert [len(content) for content in lists] == list(list_sizes(size)) == [2080 * 32, 2 * 32]
    top = ChunkList.trust(lists[1], ref.lists[1], len(lists[0]))
    assert top.verify(1, lists[0][CHUNK_BYTES:]) == CHUNK_BYTES


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 2**31 - 1, 2**31 + 1, 2**32 - 1, 2**32 + 1])
def test_spans_reach_the_end_of_images_of_any_size(size: int) -> None:
    last = chunk_count(size) - 1
    offset, length = chunk_span(last, size)
    assert offset + length == size
    assert 1 <= length <= CHUNK_BYTES


def test_the_largest_image_needs_two_lists() -> None:
    assert list_sizes(MAX_BLOB_BYTES) == (32 * 1024**2, 16 * 1024)
    with pytest.raises(ChunkError):
        BlobRef(digest="a" * 64, size_bytes=MAX_BLOB_BYTES + 1, lists=("b" * 64,) * 2)
    with pytest.raises(ChunkError):
        BlobRef(digest="a" * 64, size_bytes=5, lists=("b" * 64,) * 2)


def test_a_chunk_message_is_a_header_of_twelve_bytes_and_the_chunk() -> None:
    message = pack_chunk(258, b"abc")
    assert message == b"FLC1" + bytes([0, 0, 1, 2]) + bytes([0, 0, 0, 3]) + b"abc"
    index, data = unpack_chunk(message)
    assert (index, bytes(data)) == (258, b"abc")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"FLC1",
        pack_chunk(0, b""),
        pack_chunk(0, b"abc")[:-1],
        pack_chunk(0, b"abc") + b"x",
        b"FLC2" + pack_chunk(0, b"abc")[4:],
        pack_chunk(0, bytes(CHUNK_BYTES + 1)),
    ],
)
def test_what_is_no_chunk_message(payload: bytes) -> None:
    with pytest.raises(ChunkError):
        unpack_chunk(payload)


@given(st.binary(max_size=200))
def test_no_bytes_escape_as_another_error(payload: bytes) -> None:
    for candidate in (payload, b"FLC1" + payload):
        try:
            index, data = unpack_chunk(candidate)
        except ChunkError:
            continue
        assert len(data) == len(candidate) - HEADER_BYTES
        assert index >= 0


@given(st.sets(st.integers(0, 500)))
def test_ranges_cover_exactly_the_indexes(indexes: set[int]) -> None:
    ranges = to_ranges(sorted(indexes))
    assert {index for first, count in ranges for index in range(first, first + count)} == indexes
    check_ranges(ranges, max_chunks=len(indexes))
    assert all(first + count < later for (first, count), (later, _) in itertools.pairwise(ranges))
