"""What the guard does once a plan has run its course: devices come late, and take their successes back."""

from dataclasses import replace

import pytest

from cloud.guard import steering
from cloud.guard.evidence import Standing, Status
from cloud.guard.guarding import Pause, RollBack, StopStratum, coverage
from cloud.guard.policy import FailureGate, Gates, Policy, Response, SilenceGate
from tests.cloud.guard.looks import PI3, POLICY, SOAK_MS, look, of, seen


def completed(policy: Policy = POLICY) -> Standing:
    """Return where a plan stands that ran its course, at the end of its second soak."""
    opened = look(seen(of(succeeded=3)), policy).standing
    done = look(seen(of(succeeded=100)), policy, at_ms=2 * SOAK_MS, standing=opened).standing
    assert done.status is Status.COMPLETED
    return done


@pytest.mark.parametrize("then", list(Response))
def test_a_gate_stops_what_is_completed_and_a_resume_completes_it_again_without_opening_a_phase(then: Response) -> None:
    policy = replace(POLICY, hold_back=20, gates=Gates(failures=FailureGate(max_failures=0, then=then)))
    done = completed(policy)
    evidence = seen(of(succeeded=99, failed=1))
    verdict = look(evidence, policy, at_ms=9 * SOAK_MS, standing=done)
    assert isinstance(verdict.actions[0], Pause if then is Response.PAUSE else RollBack)
    stopped = verdict.standing
    assert (stopped.status, stopped.ran_its_course) == (Status.STOPPED_BY_GATE, True)
    cover = coverage(policy, stopped)
    assert (cover.percentage, cover.terms.paused, cover.enabled) == (100, True, then is Response.PAUSE)
    assert look(evidence, policy, at_ms=10 * SOAK_MS, standing=stopped).actions == ()
    resumed = steering.resume(policy, stopped, evidence, 11 * SOAK_MS)
    assert (resumed.status, resumed.phase, coverage(policy, resumed).enabled) == (Status.COMPLETED, 1, True)
    assert look(evidence, policy, at_ms=12 * SOAK_MS, standing=resumed).actions == ()
    assert look(seen(of(succeeded=98, failed=2)), policy, at_ms=13 * SOAK_MS, standing=resumed).actions != ()


def test_a_pause_after_completion_is_taken_off_and_the_plan_is_completed_still() -> None:
    done = completed()
    paused = steering.pause(done, 3 * SOAK_MS, "by ann")
    assert coverage(POLICY, paused).terms.paused
    assert look(seen(of(succeeded=30)), at_ms=9 * SOAK_MS, standing=paused).standing.status is Status.PAUSED
    resumed = steering.resume(POLICY, paused, seen(), 9 * SOAK_MS)
    assert (resumed.status, resumed.memory.was_completed) == (Status.COMPLETED, False)


def test_only_the_kind_that_fails_is_stopped_after_completion_and_the_others_stay_completed() -> None:
    verdict = look(seen(of(succeeded=200), of(PI3, failed=20)), at_ms=9 * SOAK_MS, standing=completed())
    assert verdict.actions[0] == StopStratum(strata=(PI3,), gate="failures", why=verdict.why)
    assert verdict.standing.status is Status.COMPLETED
    assert coverage(POLICY, verdict.standing).terms.stopped


def test_who_begins_after_completion_is_judged_without_the_credit_of_those_before() -> None:
    one = replace(POLICY, phases=POLICY.phases[1:])
    done = look(seen(of(succeeded=100)), one, at_ms=2 * SOAK_MS).standing
    assert (done.status, done.memory.watched_from_ms) == (Status.COMPLETED, 2 * SOAK_MS)
    late = of(succeeded=1000, failed=12, fresh_started=14, fresh_failed=12)
    verdict = look(seen(late), one, at_ms=9 * SOAK_MS, standing=done)
    assert "12 of 14 devices that began it after its last phase failed" in verdict.why
    assert look(seen(of(succeeded=1000, failed=12)), one, at_ms=9 * SOAK_MS, standing=done).actions == ()


def test_what_is_overtaken_after_its_completion_stays_completed_and_is_guarded_no_more() -> None:
    verdict = look(seen(of(failed=50), overtaken_by=2), at_ms=9 * SOAK_MS, standing=completed())
    assert (verdict.actions, verdict.standing.status, verdict.again_at_ms) == ((), Status.COMPLETED, None)
    assert verdict.why == "v2 reaches every device that this could still reach"


@pytest.mark.parametrize(("quiet_after_s", "again_s"), [(None, None), (60, 300), (3600, 3600)])
def test_what_is_completed_is_looked_at_again_when_silence_would_count(
    quiet_after_s: int | None, again_s: int | None
) -> None:
    silence = None if quiet_after_s is None else SilenceGate(quiet_after_s=quiet_after_s)
    policy = replace(POLICY, gates=Gates(silence=silence))
    verdict = look(seen(of(succeeded=30)), policy, at_ms=9 * SOAK_MS, standing=completed(policy))
    assert verdict.again_at_ms == (None if again_s is None else 9 * SOAK_MS + 1000 * again_s)
