"""What a release would do: the hash that holds the world to it, the bytes, and when it is likely to be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.fleet import DeviceSituation, FleetView
from cloud.guard.policy import Phase, Policy
from cloud.planner import forecast
from cloud.preflight import Preflight, covered_at_ms, preflight, release_id_of, what_changed
from tests.cloud.test_planner import device, release

NOW_MS = 10_000_000
ASKED: dict[str, Any] = {"group": "everyone", "version": "1.1.0", "percentage": 100, "label": 1}


def away(number: int, for_ms: int | None) -> DeviceSituation:
    seen = None if for_ms is None else NOW_MS - for_ms
    return replace(device(1, f"pi-{number}"), online=False, last_seen_at_ms=seen)


def made(
    *devices: DeviceSituation,
    absences_ms: tuple[int, ...] = (),
    asked: dict[str, Any] = ASKED,
    policy: Policy | None = None,
) -> Preflight:
    view = FleetView(product="thermostat", channels={}, devices=devices, now_ms=NOW_MS)
    candidate = replace(release(1, 2, percentage=asked["percentage"]), release_id=release_id_of(asked))
    told = forecast(view, candidate)
    return preflight(asked, 10, told, policy=policy, absences_ms=absences_ms, now_ms=NOW_MS)


HUNDRED = tuple(device(1, f"pi-{number}") for number in range(100))


def test_the_same_world_has_the_same_hash_in_whatever_order_it_comes() -> None:
    assert made(*HUNDRED).plan_hash == made(*reversed(HUNDRED)).plan_hash


def test_who_is_online_changes_no_plan() -> None:
    gone = (replace(HUNDRED[0], online=False), *HUNDRED[1:])

    assert made(*gone).plan_hash == made(*HUNDRED).plan_hash


@pytest.mark.parametrize(
    ("world", "asked"),
    [
        ((*HUNDRED, device(1, "pi-new")), ASKED),
        (HUNDRED[1:], ASKED),
        ((device(2, "pi-0"), *HUNDRED[1:]), ASKED),
        ((device(1, "pi-0", "pi4", "pilot"), *HUNDRED[1:], device(2, "pi-x")), ASKED),
        (HUNDRED, ASKED | {"percentage": 99}),
        (HUNDRED, ASKED | {"label": 2}),
    ],
)
def test_another_world_or_another_wish_has_another_hash(
    world: tuple[DeviceSituation, ...], asked: dict[str, Any]
) -> None:
    assert made(*world, asked=asked).plan_hash != made(*HUNDRED).plan_hash


def test_two_devices_that_change_places_are_another_world_with_the_same_counts() -> None:
    one, other = (device(2, "a"), device(1, "b")), (device(1, "a"), device(2, "b"))

    assert made(*one).counts == made(*other).counts == {"takes": 1, "up_to_date": 1}
    assert made(*one).plan_hash != made(*other).plan_hash


def test_every_device_has_one_verdict() -> None:
    told = made(*HUNDRED, device(2, "pi-new"), asked=ASKED | {"percentage": 40})

    assert sum(told.counts.values()) == 101
    assert (told.counts["up_to_date"], set(told.counts)) == (1, {"takes", "up_to_date", "percentage"})


def test_the_cloud_sends_once_what_devices_receive_each() -> None:
    told = made(*HUNDRED).bytes

    assert (told.full, told.patch, told.reuse) == (100, 0, 0)
    assert (told.each_bytes, told.over_the_air_bytes, told.from_cloud_bytes) == (10, 1000, 10)
    assert made(device(2, "pi-0")).bytes.from_cloud_bytes == 0


def test_what_changed_is_told_by_what_is_asked_and_by_counts() -> None:
    said = what_changed(
        {"label": 1, "percentage": 5}, {"label": 2, "percentage": 5}, {"takes": 3}, {"takes": 2, "pinned": 1}
    )

    assert said == "label was 1 and is 2; pinned was 0 and is 1; takes was 3 and is 2"
    assert "they are others" in what_changed({}, {}, {"takes": 1}, {"takes": 1})


# When it is likely to be done


def test_who_is_online_takes_it_now() -> None:
    told = made(*HUNDRED).finish

    assert (told.online, told.away, told.unknown) == (100, 0, 0)
    assert told.at_ms == {"50": NOW_MS, "90": NOW_MS, "99": NOW_MS}


def test_who_is_away_comes_back_as_others_did_that_were_away_as_long() -> None:
    # Away for 10, with absences of 10 (over by now), 20, 30 and 40: a third is back after 10, 20 and 30 each.
    devices = tuple(away(number, 10) for number in range(90))

    told = made(*devices, absences_ms=(10, 20, 30, 40)).finish

    assert (told.away, told.unknown, told.past_absences) == (90, 0, 4)
    assert told.at_ms == {"50": NOW_MS + 20, "90": NOW_MS + 30, "99": NOW_MS + 30}


def test_nobody_can_say_when_comes_back_who_was_never_seen_or_is_away_for_longer_than_anybody_was() -> None:
    told = made(device(1, "pi-0"), away(1, 50), away(2, None), absences_ms=(10, 20)).finish

    assert (told.online, told.away, told.unknown) == (1, 2, 2)
    assert told.at_ms == {"50": None, "90": None, "99": None}


def test_a_device_that_is_away_keeps_nobody_else_waiting() -> None:
    told = made(*HUNDRED[:9], away(1000, None)).finish

    assert told.at_ms == {"50": NOW_MS, "90": NOW_MS, "99": None}


@settings(max_examples=100, deadline=None)
@given(
    absences=st.lists(st.integers(1, 1000), max_size=20).map(lambda them: tuple(sorted(them))),
    gone=st.lists(st.none() | st.integers(0, 1200), max_size=20),
    there=st.integers(0, 5),
)
def test_more_of_the_devices_are_never_done_earlier(
    absences: tuple[int, ...], gone: list[int | None], there: int
) -> None:
    devices = (*HUNDRED[:there], *(away(1000 + number, for_ms) for number, for_ms in enumerate(gone)))

    told = made(*devices, absences_ms=absences).finish

    times = [told.at_ms[percent] for percent in ("50", "90", "99")]
    known = [at_ms for at_ms in times if at_ms is not None]
    assert known == sorted(known)
    assert times == [*known, *([None] * (3 - len(known)))], "what nobody can say of few, somebody says of more"


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (None, 0),
        (Policy(phases=(Phase(percentage=100, soak_s=60),)), 0),
        (Policy(phases=(Phase(percentage=5, soak_s=60), Phase(percentage=100, soak_s=600))), 60),
        (Policy(phases=(Phase(group="pilot", soak_s=60), Phase(percentage=100, ramp_s=3600))), 3660),
        (Policy(phases=(Phase(percentage=100, soak_s=60),), hold_back=5), 60),
        (Policy(phases=(Phase(percentage=100),), pace_per_hour=50), 7200),
    ],
)
def test_a_plan_says_itself_when_it_covers_everybody(policy: Policy | None, seconds: int) -> None:
    assert covered_at_ms(policy, 100, NOW_MS) == NOW_MS + 1000 * seconds
    assert made(*HUNDRED, policy=policy).finish.at_ms["50"] == NOW_MS + 1000 * seconds


def test_what_begins_later_is_done_later() -> None:
    told = made(*HUNDRED, asked=ASKED | {"terms": {"not_before_ms": NOW_MS + 5}}).finish

    assert (told.begins_at_ms, told.at_ms["99"]) == (NOW_MS + 5, NOW_MS + 5)
