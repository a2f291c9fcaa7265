"""A decision in lines: what it is, every step in order, and when to ask again."""

from __future__ import annotations

import pytest

from protocol.down import NoticeRelease, Ota
from protocol.explaining import ASKED, explain
from protocol.facts import DeviceFacts
from protocol.schedule import Terms
from protocol.selection import Assignment, Rule, select
from protocol.values import ComponentState, FirmwareRef

NEW = FirmwareRef(
    component="app", version="2.0.0", build=2, seq=2, digest="2" * 64, size_bytes=9, hardware_models=("pi4",)
)
OLD = ComponentState(component="app", version="1.0.0", build=1, digest="1" * 64)
GROUPS = Assignment(groups=("pilot", "everyone"))


def facts(model: str = "pi4", digest: str = "1" * 64) -> DeviceFacts:
    there = ComponentState(
        component="app", version="2.0.0" if digest == NEW.digest else "1.0.0", build=1, digest=digest
    )
    return DeviceFacts(device_id="pi-1", hardware_model=model, agent_version="1.0.0", components={"app": there})


def lines(at: DeviceFacts, assignment: Assignment, *releases: NoticeRelease, now_ms: int = 0) -> tuple[str, ...]:
    return explain(select(at, assignment, {("everyone", "app"): releases}, "app", now_ms=now_ms))


def release(not_before_ms: int = 0) -> NoticeRelease:
    return NoticeRelease(release_id="rel-7", label=3, order=5, firmware=NEW, terms=Terms(not_before_ms=not_before_ms))


def test_what_is_to_be_taken_comes_with_the_rules_that_let_it_pass() -> None:
    assert lines(facts(), GROUPS, release()) == (
        "app: 2.0.0 is to be taken, by release rel-7 v3 of group everyone",
        "  yes  for this hardware: rel-7 v3: pi4",
        "  yes  covered: rel-7 v3: bucket 4 is below 100",
        "  yes  in the target range: rel-7 v3: 1.0.0 build 1 against *",
        "  yes  applies: rel-7 v3: group everyone",
    )


@pytest.mark.parametrize(
    ("told", "first", "last"),
    [
        (
            lines(facts("pi3"), GROUPS, release()),
            "app: nothing is to be done",
            "  no   something is decided: app: no release, pin or OTA applies",
        ),
        (
            lines(facts(digest=NEW.digest), GROUPS, release()),
            "app: 2.0.0 is what should run, and runs, by release rel-7 v3 of group everyone",
            "  yes  applies: rel-7 v3: group everyone",
        ),
        (
            lines(facts("pi3"), Assignment(groups=("everyone",), pins=(NEW,)), release()),
            "app: 2.0.0 should run, and is blocked (hardware), by a lock of this device",
            "  no   for this hardware: 2.0.0: pi3",
        ),
        (
            lines(facts(), Assignment(groups=("everyone",), otas=(Ota(ota_id="ota-1", order=9, firmware=NEW),))),
            "app: 2.0.0 is to be taken, by the single-device OTA ota-1",
            "  yes  single-device OTA decides: ota-1: 2.0.0, decided after the release that applies",
        ),
        (
            lines(facts(), GROUPS, release(not_before_ms=86_400_000)),
            "app: nothing is to be done",
            "  time alone may change this from 1970-01-02 00:00:00Z",
        ),
        (
            lines(facts(), GROUPS, release(not_before_ms=2**53 - 1)),
            "app: nothing is to be done",
            "  time alone may change this from 9007199254740991 ms",
        ),
    ],
)
def test_a_decision_begins_with_what_it_is_and_ends_with_why(told: tuple[str, ...], first: str, last: str) -> None:
    assert (told[0], told[-1]) == (first, last)


def test_every_rule_has_words() -> None:
    assert set(ASKED) == set(Rule)
