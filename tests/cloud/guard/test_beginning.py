"""What the guard does before a plan's time has come, and what devices are told of that time."""

from dataclasses import replace

from cloud.guard import steering
from cloud.guard.evidence import Status
from cloud.guard.guarding import Pause, Start, begin
from cloud.guard.policy import Policy
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
