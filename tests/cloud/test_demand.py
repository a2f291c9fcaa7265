"""The cloud sends each wanted chunk once for everyone, in fair turns, and forgets nothing: pure, with time as data."""

import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.demand import Demand, Limits, Refusal, Send
from protocol.chunks import to_ranges
from protocol.up import Want

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
CHUNKS = 10_000
LIMITS = Limits()


@dataclass
class Bench:
    """A demand with a clock that the test moves."""

    demand: Demand = field(default_factory=Demand)
    now: float = 100.0

    def want(self, device: str, *ranges: tuple[int, int], blob: str = A, detached: bool = False) -> Refusal | None:
        return self.demand.want(device, Want(blob=blob, ranges=ranges, detached=detached), CHUNKS, self.now)

    def sent(self, count: int = CHUNKS) -> list[Send]:
        """Up to `count` chunks, as they would be sent now."""
        found: list[Send] = []
        while len(found) < count and (send := self.demand.take(self.now)) is not None:
            found.append(send)
        return found

    def chunks(self, count: int = CHUNKS) -> list[int]:
        return [send.chunk for send in self.sent(count)]

    def gather(self) -> "Bench":
        self.now += LIMITS.gather_s
        return self


def test_what_many_ask_for_together_is_sent_once() -> None:
    bench = Bench()
    for number in range(50):
        bench.want(f"device-{number}", (0, 64))
        bench.now += 0.0001
    assert bench.gather().sent() == [Send(A, chunk, None) for chunk in range(64)]
    assert bench.sent() == []
    assert len(bench.demand) == 0


def test_a_stream_that_begins_gathers_first_and_one_that_goes_on_does_not() -> None:
    bench = Bench()
    bench.want("one", (0, 4))
    assert bench.sent() == []
    assert bench.demand.wait_s(bench.now) == pytest.approx(LIMITS.lull_s)
    bench.now += LIMITS.lull_s * 0.9
    assert bench.sent() == []
    bench.gather()
    assert bench.demand.wait_s(bench.now) == 0
    assert bench.chunks() == [0, 1, 2, 3]
    assert bench.demand.wait_s(bench.now) is None
    bench.now += 0.001
    bench.want("one", (4, 4))
    assert bench.chunks() == [4, 5, 6, 7]
    bench.now += LIMITS.pause_s + 0.1
    bench.want("one", (8, 1))
    assert bench.sent() == []
    assert bench.gather().chunks() == [8]


def test_a_stream_gathers_as_long_as_devices_keep_coming_and_never_for_long() -> None:
    bench = Bench()
    begun, number = bench.now, 0
    while not (sent := bench.chunks()):
        number += 1
        bench.want(f"device-{number}", (0, 4))
        bench.now += LIMITS.lull_s / 2
        assert number < 100
    assert sent == [0, 1, 2, 3]
    assert bench.now - begun == pytest.approx(LIMITS.gather_s, abs=LIMITS.lull_s)
    bench.now += LIMITS.pause_s + 0.1
    bench.want("one", (4, 1))
    bench.now += LIMITS.lull_s * 0.9
    bench.want("another", (5, 1))
    bench.now += LIMITS.lull_s * 0.9
    assert bench.sent() == [], "it waits for the next one anew"
    bench.now += LIMITS.lull_s * 0.2
    assert bench.chunks() == [4, 5]


def test_who_joins_late_rides_along_and_what_came_before_follows_on_the_next_round() -> None:
    bench = Bench()
    bench.want("first", (0, 100))
    assert bench.gather().chunks(50) == list(range(50))
    bench.now += 0.2
    bench.want("late", (0, 100))
    assert bench.chunks() == list(range(50, 100))
    bench.now += 0.05
    bench.want("first", (100, 10))
    bench.want("later", (0, 60))
    assert bench.chunks() == list(range(100, 110))
    assert bench.demand.wait_s(bench.now) == pytest.approx(LIMITS.settle_s)
    bench.now += LIMITS.settle_s
    assert bench.chunks() == list(range(50)) + list(range(50, 60))


def test_what_lies_behind_a_stream_that_never_ends_waits_no_longer_than_patience() -> None:
    bench = Bench()
    bench.want("first", (1000, 16))
    bench.gather().sent()
    bench.want("late", (0, 4))
    begun, sent = bench.now, []
    for turn in range(1, 100):
        bench.now += 0.01
        bench.want("first", (1000 + 16 * turn, 16))
        sent = bench.chunks()
        if 0 in sent:
            break
    assert sent[:5] == [0, 1, 2, 3, 1000 + 16 * turn]
    assert bench.now - begun == pytest.approx(LIMITS.patience_s, abs=0.02)


def test_an_ask_that_crossed_its_answer_is_not_answered_twice() -> None:
    bench = Bench()
    bench.want("fast", (0, 64))
    bench.want("slow", (0, 1))
    bench.gather().sent()
    bench.now += 0.01
    bench.want("fast", (64, 16))
    assert bench.chunks() == list(range(64, 80))
    bench.now += 0.01
    bench.want("slow", (1, 79))  # sent before it had seen them; it was listening all along
    assert bench.sent() == []
    assert len(bench.demand) == 0


def test_a_chunk_that_was_lost_is_sent_again_when_it_is_asked_for_again() -> None:
    bench = Bench()
    bench.want("one", (0, 8))
    bench.gather().sent()
    bench.now += LIMITS.crossing_s + 0.01
    bench.want("one", (3, 1))
    assert bench.chunks() == [3]
    bench.now += 0.4  # the second answer crosses again
    bench.want("one", (3, 1))
    assert bench.sent() == []
    bench.now += 0.2
    bench.want("one", (3, 1))
    assert bench.chunks() == [3]


def test_a_detached_device_is_served_on_its_own_and_does_not_count_as_a_listener_any_more() -> None:
    bench = Bench()
    bench.want("lagging", (0, 4))
    bench.want("other", (0, 4))
    bench.gather().sent()
    bench.want("lagging", (0, 2), detached=True)
    assert bench.sent() == [Send(A, 0, "lagging"), Send(A, 1, "lagging")]
    bench.want("lagging", (0, 1))  # attached again, and not certain to have heard what was sent before
    bench.now += LIMITS.settle_s
    assert bench.sent() == [Send(A, 0, None)]


def test_detached_devices_share_nothing_and_do_not_wait() -> None:
    bench = Bench()
    for device in ("one", "two"):
        bench.want(device, (0, 2), detached=True)
    assert bench.demand.wait_s(bench.now) == 0
    assert bench.sent() == [Send(A, 0, "one"), Send(A, 0, "two"), Send(A, 1, "one"), Send(A, 1, "two")]


def test_a_detached_device_that_asks_twice_has_one_turn_at_a_time() -> None:
    bench = Bench()
    for first in (0, 1, 2):
        bench.want("busy", (first, 1), detached=True)
    bench.want("calm", (0, 3), detached=True)
    assert [send.device_id for send in bench.sent()] == ["busy", "calm"] * 3


def test_blobs_take_turns_and_half_of_each_goes_to_everybody() -> None:
    bench = Bench()
    bench.want("one", (0, 1000), blob=A)
    for number in range(10):
        bench.want(f"detached-{number}", (0, 1000), blob=A, detached=True)
    bench.gather()
    bench.want("two", (0, 1000), blob=B)
    bench.gather()
    shares = Counter((send.blob, send.device_id is None) for send in bench.sent(400))
    assert shares == {(A, True): 100, (A, False): 100, (B, True): 200}
    served = Counter(send.device_id for send in bench.sent(400) if send.device_id)
    assert served == {f"detached-{number}": 10 for number in range(10)}


def test_a_small_blob_does_not_wait_behind_a_large_one() -> None:
    bench = Bench()
    bench.want("one", (0, 1000), blob=A)
    bench.gather().sent(10)
    bench.want("two", (0, 1), blob=B)
    bench.gather()
    assert Send(B, 0, None) in bench.sent(2)


def test_a_blob_that_gathers_holds_nobody_up() -> None:
    bench = Bench()
    bench.want("one", (0, 4), blob=A)
    bench.gather()
    bench.want("two", (0, 4), blob=B)
    assert bench.sent() == [Send(A, chunk, None) for chunk in range(4)]
    assert bench.demand.wait_s(bench.now) == pytest.approx(LIMITS.lull_s)


@pytest.mark.parametrize("ranges", [[(CHUNKS, 1)], [(CHUNKS - 1, 2)], [(0, 1), (CHUNKS + 5, 1)], [(2**40, 1)]])
@pytest.mark.parametrize("detached", [False, True])
def test_what_lies_beyond_the_blob_is_refused_whole(ranges: list[tuple[int, int]], detached: bool) -> None:
    bench = Bench()
    assert bench.want("one", *ranges, detached=detached) is Refusal.BEYOND_BLOB
    assert bench.want("one", (CHUNKS - 1, 1)) is None
    assert bench.gather().chunks() == [CHUNKS - 1]


def test_one_device_cannot_ask_for_everything_and_the_others_do_not_suffer() -> None:
    bench = Bench(Demand(Limits(max_chunks_per_device=100)))
    assert bench.want("greedy", (0, 80)) is None
    assert bench.want("greedy", (80, 80)) is Refusal.TOO_MANY_CHUNKS
    assert bench.want("greedy", (0, 100)) is None  # wanted already: costs nothing more
    assert bench.want("greedy", (0, 1), blob=B) is Refusal.TOO_MANY_CHUNKS
    assert bench.want("modest", (500, 10)) is None
    assert bench.gather().chunks() == [*range(100), *range(500, 510)]
    assert bench.want("greedy", (200, 100)) is None


def test_riding_along_is_free() -> None:
    bench = Bench(Demand(Limits(max_chunks_per_device=100)))
    bench.want("first", (0, 100))
    assert bench.want("second", (0, 200)) is None
    assert len(bench.demand) == 200


def test_only_so_many_blobs_are_wanted_at_once_and_finished_ones_make_room() -> None:
    bench = Bench(Demand(Limits(max_blobs=2)))
    assert bench.want("one", (0, 1), blob=A) is None
    assert bench.want("one", (0, 1), blob=B) is None
    assert bench.want("one", (0, 1), blob=C) is Refusal.TOO_MANY_BLOBS
    assert len(bench.gather().sent()) == 2
    assert bench.want("one", (0, 1), blob=C) is None
    assert bench.gather().sent() == [Send(C, 0, None)]


def test_only_so_many_devices_are_detached_at_once() -> None:
    bench = Bench(Demand(Limits(max_detached=2)))
    for device in ("one", "two"):
        assert bench.want(device, (0, 1), detached=True) is None
    assert bench.want("three", (0, 1), detached=True) is Refusal.TOO_MANY_DETACHED
    assert bench.want("three", (0, 1)) is None
    bench.gather().sent()
    assert bench.want("three", (0, 1), detached=True) is None


def test_a_blob_that_is_gone_leaves_no_debts() -> None:
    bench = Bench(Demand(Limits(max_chunks_per_device=10, max_detached=1)))
    bench.want("one", (0, 10), blob=A)
    bench.want("two", (0, 5), blob=A, detached=True)
    bench.want("two", (0, 5), blob=B)
    bench.demand.drop(A)
    bench.demand.drop(A)
    bench.demand.drop(C)
    assert len(bench.demand) == 5
    assert bench.want("one", (0, 10), blob=B) is None
    assert bench.want("three", (9, 1), blob=B, detached=True) is None
    assert sorted(bench.gather().chunks()) == [*range(10), 9]
    assert bench.demand.wait_s(bench.now) is None


def test_nothing_is_remembered_for_ever() -> None:
    bench = Bench()
    for number in range(1000):
        blob = f"{number:064x}"
        bench.want(f"device-{number}", (0, 1), blob=blob)
        bench.want(f"device-{number}", (0, 1), blob=blob, detached=True)
        assert len(bench.gather().sent()) == 2
        bench.now += 1
    assert len(bench.demand._blobs) <= LIMITS.linger_s + 2
    assert bench.demand._detached <= LIMITS.linger_s + 2
    assert bench.demand._owed == {}


@dataclass
class Device:
    """A device that asks for what it lacks: a little at a time, and again after a second."""

    name: str
    have: set[int] = field(default_factory=set)
    asked: dict[int, float] = field(default_factory=dict)

    def wants(self, size: int, now: float) -> list[int]:
        waiting = {chunk for chunk, at in self.asked.items() if now - at < 1.0 and chunk not in self.have}
        missing = [chunk for chunk in range(size) if chunk not in self.have and chunk not in waiting]
        wanted = missing[: max(0, 8 - len(waiting))]
        self.asked.update(dict.fromkeys(wanted, now))
        return wanted


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_every_device_gets_every_chunk_whatever_is_lost(
    size: int, starts: list[tuple[float, bool]], chance: random.Random, loss: float
) -> None:
    """Devices begin at different times, lose chunks, and ask again: all of them finish, and nothing is left to send."""
    demand, now = Demand(), 0.0
    devices = {f"device-{number}": Device(f"device-{number}") for number in range(len(starts))}
    sends: list[Send] = []
    while any(len(device.have) < size for device in devices.values()):
        assert now < 120, "somebody starves"
        for (start, detached), device in zip(starts, devices.values(), strict=True):
            if now >= start and (chunks := device.wants(size, now)):
                want = Want(blob=A, ranges=to_ranges(chunks), detached=detached)
                assert demand.want(device.name, want, size, now) is None
        while (send := demand.take(now)) is not None:
            sends.append(send)
            assert 0 <= send.chunk < size
            for (start, detached), device in zip(starts, devices.values(), strict=True):
                listens = send.device_id == device.name if detached else send.device_id is None
                if listens and now >= start and chance.random() >= loss:
                    device.have.add(send.chunk)
        now += 0.01
    while demand.take(now + 1) is not None:
        pass
    assert len(demand) == 0
    if loss == 0:
        shared = [send.chunk for send in sends if send.device_id is None]
        joiners = sum(1 for _, detached in starts if not detached)
        assert len(shared) <= size * max(1, joiners)


def fleet(limits: Limits, begins_s: float, round_trip_s: float) -> tuple[int, int]:
    """Return the chunks that twenty devices cost, and how many were sent before the last one began.

    Each has a window of 64 chunks, hears and asks half a round trip late, and asks for what is lost again
    after a second. The cloud sends as fast as it is asked.
    """
    demand, size, window = Demand(limits), 1000, 64
    starts = [number / 20 * begins_s for number in range(20)]
    have: list[set[int]] = [set() for _ in starts]
    asked: list[dict[int, float]] = [{} for _ in starts]
    on_the_way: deque[tuple[float, int]] = deque()
    total = before_the_last = 0
    for now in (step / 1000 for step in range(60_000)):
        while on_the_way and on_the_way[0][0] + round_trip_s <= now:
            sent_at, chunk = on_the_way.popleft()
            for start, chunks in zip(starts, have, strict=True):
                if start <= sent_at:
                    chunks.add(chunk)
        for number, (start, chunks, waits) in enumerate(zip(starts, have, asked, strict=True)):
            if start > now or (int(now * 1000) + number) % 5:
                continue  # it looks every 5 ms
            waiting = sum(1 for chunk, at in waits.items() if chunk not in chunks and now - at < 1)
            lacking = (chunk for chunk in range(size) if chunk not in chunks and now - waits.get(chunk, -9) >= 1)
            if waiting <= window * 3 // 4 and (wanted := list(itertools.islice(lacking, window - waiting))):
                waits.update(dict.fromkeys(wanted, now))
                assert demand.want(f"device-{number}", Want(blob=A, ranges=to_ranges(wanted)), size, now) is None
        while (send := demand.take(now)) is not None:
            total += 1
            before_the_last += now < starts[-1]
            on_the_way.append((now, send.chunk))
        if all(len(chunks) == size for chunks in have):
            return total, before_the_last
    raise AssertionError("somebody starves")


@pytest.mark.parametrize("round_trip_s", [0.002, 0.02, 0.1])
def test_a_fleet_that_begins_together_costs_one_image(round_trip_s: float) -> None:
    assert fleet(Limits(), 0.005, round_trip_s) == (1000, 0)
    no_crossing, _ = fleet(Limits(crossing_s=0), 0.005, 0.1)
    assert no_crossing > 1500, "rule 3 would make no difference, so this test would prove nothing"


def test_a_fleet_that_begins_one_after_the_other_costs_one_image_and_what_the_last_one_missed() -> None:
    total, before_the_last = fleet(Limits(), 0.1, 0.02)
    assert before_the_last < 400
    assert total <= 1000 + before_the_last
    impatient, _ = fleet(Limits(settle_s=0, patience_s=0), 0.1, 0.02)
    assert impatient > 1.5 * total, "rule 2 would make no difference, so this test would prove nothing"
