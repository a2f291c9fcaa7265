"""Whose turn it is: never two of one set, nobody starves, whatever the sets and the order of events."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.turns import Asked, grants

DEVICES = tuple(f"d{number}" for number in range(8))
NAMED_SETS = st.dictionaries(
    st.sampled_from(["north", "south", "east", "west"]),
    st.sets(st.sampled_from(DEVICES), min_size=1).map(frozenset),
    min_size=1,
)


def asked(*device_ids: str) -> list[Asked]:
    """They asked in this order."""
    return [Asked(number, device_id) for number, device_id in enumerate(device_ids)]


@pytest.mark.parametrize(
    ("sets", "waiting", "holding", "granted"),
    [
        ({"a": {"x", "y"}}, ["x"], [], ["x"]),
        ({"a": {"x", "y"}}, ["y", "x"], [], ["y"]),
        ({"a": {"x", "y"}}, ["y"], ["x"], []),
        ({"a": {"x", "y"}, "b": {"z"}}, ["x", "z"], [], ["x", "z"]),
        ({"a": {"x", "y"}, "b": {"y", "z"}}, ["x", "z"], [], ["x", "z"]),
        ({"a": {"x", "y"}, "b": {"y", "z"}}, ["y", "x", "z"], [], ["y"]),
        ({"a": {"x", "y"}, "b": {"y", "z"}}, ["y", "x"], ["z"], []),  # x waits for y, which has waited longer
        ({"a": {"x", "y"}}, ["x"], ["x"], []),
        ({}, ["x"], [], ["x"]),
    ],
)
def test_who_waited_longest_in_all_its_sets_goes(
    sets: dict[str, set[str]], waiting: list[str], holding: list[str], granted: list[str]
) -> None:
    assert grants(sets, asked(*waiting), set(holding)) == tuple(granted)


@given(
    sets=NAMED_SETS,
    waiting=st.lists(st.sampled_from(DEVICES), unique=True),
    holding=st.sets(st.sampled_from(DEVICES)),
)
def test_a_grant_never_makes_two_holders_of_one_set(
    sets: dict[str, frozenset[str]], waiting: list[str], holding: set[str]
) -> None:
    granted = set(grants(sets, asked(*waiting), holding))
    for members in sets.values():
        if granted & members:
            assert len(members & (granted | holding)) == 1


@dataclass
class World:
    """Sets, who waits since when, who holds, who is away; after each event turns are granted as the store does."""

    sets: dict[str, frozenset[str]]
    queue: list[Asked] = field(default_factory=list)
    holding: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    number: int = 0

    def happen(self, event: str, device_id: str) -> None:
        if event == "ask" and device_id not in self.holding and all(it.device_id != device_id for it in self.queue):
            self.number += 1
            self.queue.append(Asked(self.number, device_id))
        elif event == "end":
            self.holding.discard(device_id)
        elif event == "give_up":
            self.queue = [it for it in self.queue if it.device_id != device_id]
        elif event == "leave":
            self.away.add(device_id)
        elif event == "return":
            self.away.discard(device_id)
        self.grant()

    def grant(self) -> None:
        there = [it for it in self.queue if it.device_id not in self.away]
        for device_id in grants(self.sets, there, self.holding):
            self.holding.add(device_id)
            self.queue = [it for it in self.queue if it.device_id != device_id]
        for members in self.sets.values():
            assert len(members & self.holding) <= 1


EVENTS = st.tuples(st.sampled_from(["ask", "ask", "end", "give_up", "leave", "return"]), st.sampled_from(DEVICES))


@given(sets=NAMED_SETS, events=st.lists(EVENTS, max_size=60))
def test_never_two_holders_and_nobody_starves_while_holders_end(
    sets: dict[str, frozenset[str]], events: list[tuple[str, str]]
) -> None:
    world = World(sets)
    for event, device_id in events:
        world.happen(event, device_id)
    first = next((it for it in world.queue if it.device_id not in world.away), None)
    if first is not None:  # others go on asking again and again: they cannot overtake who waits
        rounds = 0
        while any(it.device_id == first.device_id for it in world.queue):
            ending = sorted(world.holding)
            assert ending, "somebody waits, and nobody holds"
            for device_id in ending:
                world.happen("end", device_id)
                world.happen("ask", device_id)
            rounds += 1
            assert rounds <= len(DEVICES), f"{first} starves"
    for device_id in sorted(world.away):
        world.happen("return", device_id)
    for _ in range(3 * len(DEVICES)):
        for device_id in sorted(world.holding):
            world.happen("end", device_id)
    assert (world.queue, world.holding) == ([], set())
