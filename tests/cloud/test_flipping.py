"""A release that its devices would have to go back from, as a group goes by versions, is told before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloud.fleet import FleetView
from cloud.flipping import Flip, Goers, flipping
from cloud.groups_query import Candidate, Query
from protocol.down import NoticeRelease
from protocol.identity import EVERYONE
from tests.cloud.test_planner import device, release

NOW_MS = 1_000
OLD = 'app < "1.1.0"'


def told(
    candidate: NoticeRelease,
    queries: Mapping[str, str],
    group: str = "old",
    own: Mapping[str, Candidate] | None = None,
    **others: NoticeRelease,
) -> Mapping[Flip, int]:
    """What becomes of a candidate where three devices run 1.0.0 and are in `old`; `others` are released already."""
    devices = tuple(device(1, f"pi-{n}", "pi4", "old") for n in range(3))
    channels = {(name, "app"): (of,) for name, of in others.items()}
    view = FleetView(product="thermostat", channels=channels, devices=devices, now_ms=NOW_MS)
    read = {name: Query.parse(text) for name, text in queries.items()}
    goers = Goers(queries=read, ranked=("new", "old", EVERYONE), own=lambda: own or {})
    return flipping(view, candidate, group, goers)


def test_who_leaves_with_it_and_is_told_an_older_one_goes_to_and_fro() -> None:
    assert told(release(2, 2), {"old": OLD}, everyone=release(1, 1)) == {
        Flip("old", leaves=True, came_by=("1.1.0", "1.0.0")): 3
    }


def test_who_leaves_for_nothing_else_keeps_it() -> None:
    assert told(release(2, 2), {"old": OLD}) == {}


def test_who_stays_in_the_group_keeps_it() -> None:
    assert told(release(2, 2), {"old": 'app < "9.0.0"'}, everyone=release(1, 1)) == {}


def test_a_stepping_stone_to_a_newer_one_is_none_of_it() -> None:
    assert told(release(2, 2), {"old": OLD}, everyone=release(1, 3)) == {}
    assert told(release(2, 2), {"old": 'app != "1.1.0"'}, everyone=release(1, 3)) == {
        Flip("old", leaves=True, came_by=("1.1.0", "1.2.0", "1.1.0")): 3
    }


def test_who_joins_another_group_with_it_that_has_an_older_one_goes_to_and_fro() -> None:
    assert told(release(2, 2), {"new": 'app >= "1.1.0"'}, EVERYONE, new=release(1, 1)) == {
        Flip("new", leaves=False, came_by=("1.1.0", "1.0.0")): 3
    }


def test_all_whom_a_share_or_a_later_beginning_comes_to_are_counted() -> None:
    candidate = release(2, 2, "*", 1)
    late = replace(candidate, terms=replace(candidate.terms, not_before_ms=9_000, paused=True))
    assert sum(told(late, {"old": OLD}, everyone=release(1, 1)).values()) == 3


def test_a_query_that_looks_at_more_is_asked_of_each_by_what_it_has() -> None:
    own = {
        f"pi-{n}": Candidate(device_id=f"pi-{n}", hardware_model="pi4", attributes={"site": "hall" if n else "attic"})
        for n in range(3)
    }
    query = f'attributes.site == "attic" or {OLD}'
    found = told(release(2, 2), {"old": query}, own=own, everyone=release(1, 1))
    assert found == {Flip("old", leaves=True, came_by=("1.1.0", "1.0.0")): 2}
