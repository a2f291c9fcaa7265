"""The credit window, pure: what is asked, when it is asked again, and when the shared stream is left."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.window import MAX_TIMEOUT_S, Ranges, Window, bitmap_bytes, leading_bytes, received_bytes
from protocol.chunks import CHUNK_BYTES
from protocol.errors import ChunkError
from protocol.up import Want
from protocol.values import MAX_WANTED_CHUNKS, MAX_WANTED_RANGES

DIGEST = "0" * 64


def window(count: int, size: int = 16, have: bytes | None = None) -> Window:
    return Window(count * CHUNK_BYTES, window_bytes=size * CHUNK_BYTES, now=0.0, have=have)


def indexes(ranges: Ranges) -> list[int]:
    return [index for first, count in ranges for index in range(first, first + count)]


def bitmap(count: int, *received: int) -> bytes:
    bits = bytearray(bitmap_bytes(count * CHUNK_BYTES))
    for index in received:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def test_a_whole_window_is_asked_first_and_a_quarter_at_a_time_then() -> None:
    w = window(100)
    assert w.ask(0.0) == ((0, 16),)
    assert w.ask(0.1) == ()
    assert [w.receive(index, 0.2) for index in range(4)] == [False, False, False, True]
    assert w.ask(0.2) == ((16, 4),)


def test_a_window_is_at_least_one_chunk_and_at_most_what_a_want_may_hold() -> None:
    assert Window(10 * CHUNK_BYTES, window_bytes=1, now=0.0).ask(0.0) == ((0, 1),)
    assert Window(2**36, window_bytes=2**36, now=0.0).ask(0.0) == ((0, MAX_WANTED_CHUNKS),)


def test_what_is_there_is_not_asked_for() -> None:
    w = window(20, have=bitmap(20, *range(9), 11, 19))
    assert w.ask(0.0) == ((9, 2), (12, 7))
    assert w.missing == 9
    assert w.received_bytes == 11 * CHUNK_BYTES


def test_a_bitmap_of_another_size_or_with_bits_beyond_the_end_is_not_believed() -> None:
    assert window(20, have=bytes(2)).missing == 20
    assert window(20, have=bytes([255] * 4)).missing == 20
    assert window(20, have=bytes([0, 0, 0xF0])).missing == 20
    assert received_bytes(bytes(2), 20 * CHUNK_BYTES) == 0
    assert received_bytes(None, 20 * CHUNK_BYTES) == 0
    assert received_bytes(bytes([0, 0, 0xF8]), 20 * CHUNK_BYTES - 5) == CHUNK_BYTES - 5


@given(st.sets(st.integers(0, 19)), st.integers(1, CHUNK_BYTES))
def test_what_leads_is_what_has_no_gap(received: set[int], last: int) -> None:
    chunks = next(index for index in range(21) if index not in received)
    size_bytes = 19 * CHUNK_BYTES + last
    assert leading_bytes(bitmap(20, *received), size_bytes) == min(chunks * CHUNK_BYTES, size_bytes)


def test_a_short_last_chunk_counts_as_what_it_is() -> None:
    w = Window(CHUNK_BYTES + 10, window_bytes=CHUNK_BYTES, now=0.0)
    w.receive(1, 0.0)
    assert w.received_bytes == 10


def test_an_index_beyond_the_blob_is_an_error() -> None:
    for index in (-1, 20, 2**32 - 1):
        with pytest.raises(ChunkError):
            window(20).has(index)


def test_a_chunk_that_was_overtaken_is_asked_again_without_waiting() -> None:
    w = window(100)
    w.ask(0.0)
    for index in (*range(3), *range(4, 16)):  # all but chunk 3
        w.receive(index, 0.01)
    assert w.ask(0.01) == ((3, 1), (16, 15))


def test_losses_that_fill_the_window_are_asked_again_without_waiting() -> None:
    w = window(100)
    w.ask(0.0)
    asked = [w.receive(index, 0.01) for index in (13, 14, 15)]  # less than a quarter, and they overtook eleven
    assert asked == [True, True, True]
    assert w.ask(0.01) == ((0, 11), (16, 3))


def test_a_chunk_that_is_merely_late_is_not_asked_again() -> None:
    w = window(100)
    w.ask(0.0)
    for index in (0, 1, 2, 4, 5):
        w.receive(index, 0.01)
    assert w.ask(0.01) == ((16, 5),)


def test_without_progress_everything_is_asked_again_ever_more_rarely() -> None:
    w = window(100)
    now, asked_at = 0.0, []
    w.ask(now)
    while now < 60:
        now = w.due
        assert w.ask(now - 0.001) == ()
        assert w.ask(now) == ((0, 16),)
        asked_at.append(now)
    pauses = [round(later - earlier, 3) for earlier, later in zip([0.0, *asked_at], asked_at, strict=False)]
    assert pauses[:6] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    w.receive(0, now + 1)
    assert w.due - now < 1 + MAX_TIMEOUT_S


def test_a_slow_link_is_not_taken_for_a_loss() -> None:
    w = window(100)
    now = 0.0
    w.ask(now)
    for index in range(20):  # 65 kB every 3 s: slower than any fixed time-out of a second
        now += 3.0
        assert now < w.due or index == 0
        w.receive(index, now)
        again = [asked for asked in indexes(w.ask(now)) if asked < 16]
        assert index == 0 or again == []


def test_unasked_chunks_are_used() -> None:
    w = window(40)
    w.ask(0.0)
    w.receive(30, 0.0)
    w.receive(17, 0.0)
    for index in range(16):
        w.receive(index, 0.0)
    assert w.ask(0.0) == ((16, 1), (18, 12), (31, 3))


def test_what_was_asked_over_a_link_that_went_down_is_asked_again_at_once() -> None:
    w = window(100)
    w.ask(0.0)
    for index in range(4):
        w.receive(index, 0.0)
    w.lose(50.0)
    assert w.ask(50.0) == ((4, 16),)


def test_scattered_gaps_are_asked_in_as_many_wants_as_a_message_has_room_for() -> None:
    count = 4 * MAX_WANTED_RANGES
    w = window(count, size=1024, have=bitmap(count, *range(0, count, 2)))
    first = w.ask(0.0)
    assert len(first) == MAX_WANTED_RANGES
    for index in indexes(first):
        w.receive(index, 0.1)
    assert indexes(first) + indexes(w.ask(0.1)) == list(range(1, count, 2))


def test_losing_much_while_others_come_means_to_leave_the_shared_stream() -> None:
    def leaves(loss: float) -> bool:
        dice, now, w = random.Random(7), 0.0, window(4000, size=64)
        while w.missing and not w.should_detach:
            ranges = w.ask(now)
            for index in indexes(ranges):
                if dice.random() >= loss:
                    w.receive(index, now)
            now = now if ranges else w.due
        return w.should_detach

    assert leaves(0.9)
    assert leaves(0.5)
    assert not leaves(0.05)


def test_a_cloud_that_goes_away_is_no_reason_to_leave_the_shared_stream() -> None:
    w = window(4000, size=64)
    now = 0.0
    for _ in range(10):
        for index in indexes(w.ask(now)):
            w.receive(index, now)
    for _ in range(50):
        now = w.due
        w.ask(now)
    assert not w.should_detach


def test_a_sample_of_losses_fades() -> None:
    w = window(100_000, size=64)
    for turn in range(400):
        for index in indexes(w.ask(0.0)):
            if turn > 10 or index % 2:
                w.receive(index, 0.0)
    assert not w.should_detach


@given(
    count=st.integers(1, 300),
    size=st.integers(1, 64),
    network=st.tuples(st.floats(0, 0.9), st.sampled_from(["sent", "shuffled", "reversed"]), st.integers(0, 2**32)),
    have=st.binary(max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_every_chunk_arrives_whatever_the_network_does(
    count: int, size: int, network: tuple[float, str, int], have: bytes
) -> None:
    loss, order, seed = network
    dice = random.Random(seed)
    known = have if len(have) == bitmap_bytes(count * CHUNK_BYTES) else None
    w = window(count, size, known)
    recorded = {index for index in range(count) if w.has(index)}
    now, arrived, flight = 0.0, set(recorded), list[int]()
    for _ in range(200_000):
        if not w.missing:
            break
        if flight:
            now += 0.001
            index = flight.pop(0)
            if dice.random() >= loss and index not in arrived:
                arrived.add(index)
                if not w.receive(index, now):
                    continue
        elif now < w.due:
            now = w.due
        ranges = w.ask(now)
        if ranges:
            Want(blob=DIGEST, ranges=ranges)  # never more than a message may ask for
        asked = indexes(ranges)
        assert recorded.isdisjoint(asked)
        assert arrived.isdisjoint(asked)
        flight += in_order(asked, order, dice)
        assert len(w._asked) <= w.size
    assert w.missing == 0
    assert w.received_bytes == count * CHUNK_BYTES
    assert w.ask(now + 100) == ()


def in_order(asked: list[int], order: str, dice: random.Random) -> Iterable[int]:
    if order == "shuffled":
        dice.shuffle(asked)
    return reversed(asked) if order == "reversed" else asked
