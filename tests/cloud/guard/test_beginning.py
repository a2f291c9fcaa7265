"""What the guard does before a plan's time has come, and where phases begin and end."""

from dataclasses import replace

from cloud.guard import steering
from cloud.guard.evidence import Status
from cloud.guard.guarding import Complete, Pause, Start, begin, coverage
from cloud.guard.policy import Phase, Policy
from protocol.schedule import Terms
from tests.cloud.guard.looks import POLICY, SOAK_MS, look, of, seen

BEGINS_MS = 10 * SOAK_MS
LATER: Policy = replace(POLICY, terms=Terms(not_before_ms=BEGINS_MS))


def test_devices_that_are_early_and_fail_stop_a_plan_before_it_begins_and_it_is_not_opened_in_that_look() -> None:
    scheduled = begin(LATER, 0, 100)
    assert look(seen(of(failed=1)), LATER, at_ms=1, standing=scheduled).standing.status is Status.SCHEDULED
    for at_ms in (1, BEGINS_MS):
        verdict = look(seen(of(failed=4)), LATER, at_ms=at_ms, standing=scheduled)
        assert verdict.actions == (Pause(gate="failures", why=verdict.why),)
        assert verdict.standing.status is Status.STOPPED_BY_GATE
    early = look(seen(of(failed=4)), LATER, at_ms=1, standing=scheduled).standing
    resumed = steering.resume(LATER, early, seen(of(failed=4)), 2)
    assert (resumed.status, resumed.phase_began_at_ms) == (Status.SCHEDULED, BEGINS_MS)
    begun = look(seen(of(failed=4)), LATER, at_ms=BEGINS_MS, standing=resumed)
    assert isinstance(begun.actions[0], Start)


def test_once_its_time_has_come_devices_are_told_no_time_so_that_clocks_that_are_behind_keep_nobody_out() -> None:
    scheduled = begin(LATER, 0, 100)
    assert coverage(LATER, scheduled).terms.not_before_ms == BEGINS_MS
    begun = look(seen(), LATER, at_ms=BEGINS_MS, standing=scheduled).standing
    assert (begun.status, coverage(LATER, begun).terms.not_before_ms) == (Status.RUNNING, 0)
    early = steering.pause(scheduled, 1, "by ann")
    assert coverage(LATER, early).terms.not_before_ms == BEGINS_MS


def test_a_phase_that_covers_only_whom_the_plan_holds_back_soaks_before_they_follow() -> None:
    held = replace(POLICY, phases=(Phase(percentage=50, soak_s=600), Phase(percentage=100, soak_s=600)), hold_back=50)
    second = look(seen(of(succeeded=50)), held).standing
    nobody = seen(of(succeeded=50), fresh_succeeded=0, nobody_left=True)
    waits = look(nobody, held, at_ms=SOAK_MS + 1, standing=second)
    assert (waits.actions, waits.why) == ((), "phase 2 of 2 (100 %): soaks for 600 s more")
    assert isinstance(look(nobody, held, at_ms=2 * SOAK_MS, standing=second).actions[0], Complete)
    assert isinstance(look(nobody, at_ms=SOAK_MS + 1, standing=second).actions[0], Complete)
