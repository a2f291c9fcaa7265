"""Newer roots: followed at once when there are any, and looked for rarely when a broker merely says so."""

from dataclasses import dataclass, field

import pytest

from device_agent.following import LOOK_AGAIN_S, RootFollower
from device_agent.loop import Call, Loop
from protocol.errors import FleetliftError


@dataclass
class Roots:
    """`there` is the newest root that there really is, `said` what a bundle says of it."""

    root_version: int = 1
    there: int = 1
    said: int = 1
    looks: int = 0

    @property
    def is_behind(self) -> bool:
        return self.said > self.root_version

    def refresh(self) -> None:
        self.looks += 1
        self.root_version = max(self.root_version, self.there)
        if self.root_version < self.said:
            raise FleetliftError("no such root")


@dataclass
class Later:
    """A worker that works when it is told to."""

    calls: list[Call] = field(default_factory=list)

    def submit(self, call: Call) -> None:
        self.calls.append(call)

    def stop(self, timeout_s: float) -> None:
        del timeout_s


@dataclass
class Bench:
    now: float = 0.0
    roots: Roots = field(default_factory=Roots)
    worker: Later = field(default_factory=Later)
    followed: int = 0

    def __post_init__(self) -> None:
        self.loop = Loop(lambda: self.now)
        self.follower = RootFollower(self.roots, self.loop, self.worker, self.count)

    def count(self) -> None:
        self.followed += 1

    def work(self) -> None:
        while self.worker.calls or self.loop.turn(wait=False):
            if self.worker.calls:
                self.worker.calls.pop(0)()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_without_news_nobody_looks(bench: Bench) -> None:
    bench.follower.look()
    bench.work()
    assert bench.roots.looks == 0


def test_roots_that_are_there_are_followed_one_after_the_other(bench: Bench) -> None:
    for version in (2, 3, 5):
        bench.roots.there = bench.roots.said = version
        bench.follower.look()
        bench.work()
        assert bench.roots.root_version == version
    assert bench.followed == 3


def test_a_flood_of_bundles_that_speak_of_no_root_is_one_look_in_a_while(bench: Bench) -> None:
    bench.roots.said = 99
    for _ in range(1000):
        bench.follower.look()
    assert len(bench.worker.calls) == 1
    bench.work()
    for _ in range(1000):
        bench.follower.look()
    assert bench.worker.calls == []
    assert (bench.roots.looks, bench.followed) == (1, 0)
    bench.now += LOOK_AGAIN_S
    bench.work()
    assert bench.roots.looks == 2


def test_a_false_word_delays_a_true_one_by_a_pause_and_no_more(bench: Bench) -> None:
    bench.roots.said = 99
    bench.follower.look()
    bench.work()
    bench.roots.there = bench.roots.said = 2
    bench.follower.look()
    bench.work()
    assert bench.followed == 0
    bench.now += LOOK_AGAIN_S
    bench.work()
    assert (bench.followed, bench.roots.root_version) == (1, 2)
