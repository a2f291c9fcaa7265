"""Crashes and gauges: what is counted for which digest, what is told when, and what is not taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_agent.control_requests import ControlError
from device_agent.journal import Journal
from device_agent.journal_database import JournalError
from device_agent.supervision import Exit
from device_agent.vitals import KEPT_DIGESTS, CrashCounts, Vitals
from protocol.up import Health
from protocol.values import MAX_GAUGES, ComponentState

ONE, TWO = "1" * 64, "2" * 64
CRASH = Exit(code=1, ran_s=1.0)


@dataclass
class Memory:
    """Remembers what a journal would."""

    counts: CrashCounts = field(default_factory=CrashCounts)
    full: bool = False

    def crashes(self) -> CrashCounts:
        return self.counts

    def keep_crashes(self, crashes: CrashCounts) -> None:
        if self.full:
            raise JournalError("disk full")
        self.counts = crashes


def running(digest: str = ONE) -> Mapping[str, ComponentState]:
    return {"app": ComponentState(component="app", version="1.0.0", build=1, digest=digest)}


def health(crashes: int = 0, digest: str = ONE, **gauges: int) -> tuple[Health, ...]:
    return (Health(component="app", digest=digest, crashes=crashes, gauges=gauges),)


def test_crashes_are_counted_for_the_digest_and_over_restarts_of_the_agent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", lambda: 0.0)
    vitals = Vitals(journal, ["app"], every_s=30)
    assert vitals.report(running(), 0) == ()
    for ended in (CRASH, Exit(code=-9, ran_s=1.0), Exit(code=None, ran_s=0.0)):
        vitals.ended("app", ONE, ended)
    vitals.ended("app", ONE, Exit(code=0, ran_s=1.0))  # as it does for an update at its next start
    vitals.ended("app", TWO, CRASH)
    assert vitals.report(running(), 0) == health(3)
    journal.close()
    journal = Journal(tmp_path / "journal.db", lambda: 0.0)
    vitals = Vitals(journal, ["app"], every_s=30)
    vitals.ended("app", ONE, CRASH)
    assert vitals.report(running(), 0) == health(4)
    assert vitals.report(running(TWO), 0) == health(1, TWO)
    journal.close()


def test_only_the_last_digests_are_remembered() -> None:
    counts = CrashCounts()
    for number in range(KEPT_DIGESTS + 3):
        counts = counts.one_more("app", f"{number:064d}")
    assert len(counts.counts) == KEPT_DIGESTS
    assert (counts.of("app", f"{0:064d}"), counts.of("app", f"{KEPT_DIGESTS:064d}")) == (0, 1)


def test_a_crash_that_cannot_be_stored_is_told() -> None:
    vitals = Vitals(Memory(full=True), ["app"], every_s=30)
    vitals.ended("app", ONE, CRASH)
    assert vitals.report(running(), 0) == health(1)


def test_gauges_are_told_at_most_so_often_and_a_crash_at_once() -> None:
    vitals = Vitals(Memory(), ["app"], every_s=30)
    heard: list[str] = []
    vitals.changed = lambda: heard.append("changed")
    vitals.runs("app", ONE)
    vitals.gauge("depth", 1, None)
    assert vitals.report(running(), 100) == health(depth=1)
    assert vitals.next_due() is None
    vitals.gauge("depth", 2, "app")
    vitals.gauge("depth", 2, "app")
    assert heard == ["changed", "changed"]
    assert vitals.next_due() == 130
    assert vitals.report(running(), 129) == health(depth=1)
    vitals.ended("app", ONE, CRASH)
    assert vitals.report(running(), 129) == health(1, depth=1)
    assert vitals.report(running(), 130) == health(1, depth=2)
    vitals.gauge("depth", 3, "app")
    vitals.gauge("depth", 2, "app")
    assert vitals.next_due() is None


def test_gauges_of_one_version_are_not_those_of_the_next() -> None:
    vitals = Vitals(Memory(), ["app"], every_s=30)
    vitals.runs("app", ONE)
    vitals.gauge("depth", 1, None)
    assert vitals.report(running(), 0) == health(depth=1)
    vitals.runs("app", ONE)
    assert vitals.report(running(), 1) == health(depth=1)
    vitals.runs("app", TWO)
    assert vitals.report(running(TWO), 2) == ()


def test_what_is_too_much_or_of_nobody_is_refused() -> None:
    vitals = Vitals(Memory(), ["app", "os"], every_s=30)
    with pytest.raises(ControlError, match="say which component: app, os"):
        vitals.gauge("depth", 1, None)
    with pytest.raises(ControlError, match="there is no component 'none'"):
        vitals.gauge("depth", 1, "none")
    for number in range(MAX_GAUGES):
        vitals.gauge(f"g-{number}", 1, "app")
    with pytest.raises(ControlError, match="at most 16 gauges") as refused:
        vitals.gauge("one-more", 1, "app")
    assert refused.value.code == "too_many_gauges"
    vitals.gauge("g-0", 2, "app")
    vitals.gauge("one-more", 1, "os")
