"""What a device should run, by the rules at the head of selection.py, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts
from protocol.identity import bucket
from protocol.manifest import Requirements
from protocol.selection import Assignment, Decision, Rule, Verdict, select
from protocol.values import ComponentState, FirmwareRef, Via

EVERYONE = Assignment(groups=("everyone",))
PILOT = Assignment(groups=("pilot", "everyone"))


def firmware(number: int, **changes: object) -> FirmwareRef:
    ref = FirmwareRef(
        component="app",
        version=f"1.{number}.0",
        build=number,
        seq=number,
        digest=f"{number:064x}",
        size_bytes=10,
        hardware_models=("pi4",),
    )
    return replace(ref, **changes)  # type: ignore[arg-type]


def release(label: int, number: int, **changes: object) -> NoticeRelease:
    made = NoticeRelease(release_id=f"r-{label}", label=label, order=label, firmware=firmware(number))
    return replace(made, **changes)  # type: ignore[arg-type]


def device(number: int | None = 1, device_id: str = "pi-1", **changes: object) -> DeviceFacts:
    running = firmware(number) if number else None
    components = (
        {"app": ComponentState(component="app", version=running.version, build=running.build, digest=running.digest)}
        if running
        else {}
    )
    facts = DeviceFacts(device_id=device_id, hardware_model="pi4", agent_version="0.1.0", components=components)
    return replace(facts, **changes)  # type: ignore[arg-type]


def decide(facts: DeviceFacts, *releases: NoticeRelease, assignment: Assignment = EVERYONE) -> Decision:
    newest_first = sorted(releases, key=lambda item: -item.label)
    return select(facts, assignment, {("everyone", "app"): newest_first}, "app", now_ms=0)


def wanted(decision: Decision) -> str | None:
    return decision.wanted.source_id if decision.wanted else None


def test_without_a_release_nothing_is_wanted() -> None:
    decision = decide(device())
    assert (decision.verdict, decision.blocked_by, decision.wanted) == (Verdict.NOTHING, Rule.NOTHING, None)


def test_the_newest_label_is_taken() -> None:
    decision = decide(device(1), release(1, 1), release(2, 2))
    assert (decision.verdict, wanted(decision)) == (Verdict.TAKE, "r-2")


def test_a_device_that_runs_it_has_nothing_to_do() -> None:
    assert decide(device(2), release(1, 1), release(2, 2)).verdict is Verdict.RUNS


def test_a_disabled_release_is_not_there_and_the_one_before_is_live_again() -> None:
    decision = decide(device(2), release(1, 1))
    assert (decision.verdict, wanted(decision)) == (Verdict.TAKE, "r-1")


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_percentage_covers_the_buckets_below_it(offset: int) -> None:
    name = next(f"pi-{n}" for n in range(1000) if 5 < bucket(f"pi-{n}", "r-2") < 95)
    percentage = bucket(name, "r-2") + 1 + offset
    decision = decide(device(1, name), release(1, 1), release(2, 2, percentage=percentage))
    assert wanted(decision) == ("r-1" if offset < 0 else "r-2")


def test_outside_the_percentage_a_device_stays_on_the_release_before() -> None:
    outside = next(f"pi-{n}" for n in range(1000) if bucket(f"pi-{n}", "r-2") >= 10)
    assert decide(device(1, outside), release(1, 1), release(2, 2, percentage=10)).verdict is Verdict.RUNS


@given(st.integers(0, 400), st.integers(1, 99))
def test_raising_the_percentage_keeps_everyone_who_was_in(number: int, percentage: int) -> None:
    facts = device(1, f"pi-{number}")
    before = decide(facts, release(1, 1), release(2, 2, percentage=percentage))
    after = decide(facts, release(1, 1), release(2, 2, percentage=percentage + 1))
    assert wanted(before) != "r-2" or wanted(after) == "r-2"


def test_a_device_is_never_moved_back_by_a_percentage_or_a_range() -> None:
    outside = next(f"pi-{n}" for n in range(1000) if bucket(f"pi-{n}", "r-2") >= 10)
    newest = release(2, 2, percentage=10, target_range="1.1.0")
    assert decide(device(2, outside), release(1, 1), newest).verdict is Verdict.RUNS


@pytest.mark.parametrize(("runs", "takes"), [(1, "r-1"), (5, "r-2")])
def test_parallel_lines_are_kept_apart_by_target_ranges(runs: int, takes: str) -> None:
    old_line = release(1, 3, target_range="<1.4.0")
    new_line = release(2, 7, target_range=">=1.5.0")
    assert wanted(decide(device(runs), old_line, new_line)) == takes


def test_another_hardware_model_falls_through_to_what_admits_it() -> None:
    for_pi5 = release(2, 2, firmware=firmware(2, hardware_models=("pi5",)))
    assert wanted(decide(device(1), release(1, 1), for_pi5)) == "r-1"
    assert decide(device(1), for_pi5).verdict is Verdict.NOTHING


def test_a_range_moves_a_device_at_most_once_per_label() -> None:
    releases = [
        release(1, 2, target_range="1.3.0"),
        release(2, 1, target_range="1.2.0"),
        release(3, 3, target_range="1.1.0"),
    ]
    runs = 1
    for _ in range(5):
        decision = decide(device(runs), *releases)
        if decision.verdict is not Verdict.TAKE or decision.wanted is None:
            break
        runs = decision.wanted.firmware.build
    else:
        pytest.fail("ranges that point at each other move a device for ever")


def test_the_first_group_with_a_release_that_applies_decides() -> None:
    channels = {("pilot", "app"): [release(9, 2)], ("everyone", "app"): [release(3, 3)]}
    assert wanted(select(device(), PILOT, channels, "app", now_ms=0)) == "r-9"
    assert wanted(select(device(), EVERYONE, channels, "app", now_ms=0)) == "r-3"
    nothing_for_us = {**channels, ("pilot", "app"): [release(9, 2, target_range=">=9.0.0")]}
    assert wanted(select(device(), PILOT, nothing_for_us, "app", now_ms=0)) == "r-3"


def test_a_pin_goes_before_everything() -> None:
    pinned = replace(
        EVERYONE, pins=(firmware(1),), otas=(Ota(ota_id="o-1", order=99, firmware=firmware(4), forced=True),)
    )
    decision = decide(device(1), release(5, 5), assignment=pinned)
    assert decision.verdict is Verdict.RUNS
    moved = decide(device(3), release(5, 5), assignment=pinned)
    assert moved.verdict is Verdict.TAKE
    assert moved.wanted is not None
    assert moved.wanted.via is Via.PIN


@pytest.mark.parametrize(("order", "source"), [(6, "o-1"), (4, "r-5")])
def test_a_single_device_ota_holds_until_a_release_that_was_made_after_it(order: int, source: str) -> None:
    assignment = replace(EVERYONE, otas=(Ota(ota_id="o-1", order=order, firmware=firmware(2)),))
    assert wanted(decide(device(1), release(5, 5), assignment=assignment)) == source


def test_a_product_that_is_switched_off_moves_nobody() -> None:
    off = replace(EVERYONE, ota_enabled=False, pins=(firmware(2),))
    decision = decide(device(1), release(5, 5), assignment=off)
    assert (decision.verdict, decision.blocked_by) == (Verdict.NOTHING, Rule.OTA_OFF)


def test_firmware_below_the_floor_is_blocked() -> None:
    decision = decide(device(3, floors={"app": 2}), release(4, 1))
    assert (decision.verdict, decision.blocked_by) == (Verdict.BLOCKED, Rule.FLOOR)
    assert decide(device(3, floors={"app": 2}), release(4, 2)).verdict is Verdict.TAKE


@pytest.mark.parametrize(
    ("requires", "verdict"),
    [
        (Requirements(agent="0.1.0"), Verdict.TAKE),
        (Requirements(agent="0.2.0"), Verdict.BLOCKED),
        (Requirements(components={"app": ">=1.1.0"}), Verdict.TAKE),
        (Requirements(components={"app": ">=1.9.0"}), Verdict.BLOCKED),
        (Requirements(components={"os": "*"}), Verdict.TAKE),
        (Requirements(components={"os": ">=1.0.0"}), Verdict.BLOCKED),
    ],
)
def test_a_firmware_that_needs_what_the_device_lacks_is_held(requires: Requirements, verdict: Verdict) -> None:
    decision = decide(device(1), release(2, 2, firmware=firmware(2, requires=requires)))
    assert decision.verdict is verdict
    assert (decision.blocked_by is Rule.REQUIREMENT) is (verdict is Verdict.BLOCKED)


def test_a_pinned_firmware_for_other_hardware_is_blocked() -> None:
    pinned = replace(EVERYONE, pins=(firmware(2, hardware_models=("pi5",)),))
    assert decide(device(1), assignment=pinned).blocked_by is Rule.HARDWARE


def test_a_digest_that_failed_here_is_not_tried_again_unless_told() -> None:
    facts = device(1, failed={firmware(2).digest: 2})
    again = release(7, 2)
    assert decide(facts, release(2, 2)).blocked_by is Rule.FAILED_BEFORE
    assert decide(facts, again).blocked_by is Rule.FAILED_BEFORE, "nor under another label"
    told = replace(EVERYONE, otas=(Ota(ota_id="o-1", order=8, firmware=firmware(2)),))
    assert decide(facts, again, assignment=told).verdict is Verdict.TAKE
    failed_since = device(1, failed={firmware(2).digest: 8})
    assert decide(failed_since, again, assignment=told).blocked_by is Rule.FAILED_BEFORE


def test_every_step_is_traced_with_what_it_saw() -> None:
    outside = next(f"pi-{n}" for n in range(1000) if bucket(f"pi-{n}", "r-2") >= 10)
    decision = decide(device(1, outside), release(1, 3, target_range="1.x"), release(2, 2, percentage=10))
    assert [(step.rule, step.subject, step.passed) for step in decision.trace] == [
        (Rule.HARDWARE, "r-2 v2", True),
        (Rule.PERCENTAGE, "r-2 v2", False),
        (Rule.HARDWARE, "r-1 v1", True),
        (Rule.PERCENTAGE, "r-1 v1", True),
        (Rule.TARGET_RANGE, "r-1 v1", True),
        (Rule.RELEASE, "r-1 v1", True),
    ]
    assert decision.trace[1].saw == f"bucket {bucket(outside, 'r-2')} is not below 10"


def test_an_empty_device_takes_what_the_widest_range_offers() -> None:
    assert decide(device(None), release(1, 1)).verdict is Verdict.TAKE
    assert decide(device(None), release(1, 1, target_range=">=1.0.0")).verdict is Verdict.NOTHING
