"""What the guard decides: phases, gates and words, with time as data."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.guard import steering
from cloud.guard.evidence import Arm, Evidence, HealthEvidence, Silence, Standing, Status
from cloud.guard.guarding import (
    Complete,
    OpenPhase,
    Overtake,
    Pause,
    RollBack,
    Start,
    StopStratum,
    begin,
    coverage,
    guard,
)
from cloud.guard.policy import FailureGate, Gates, HealthGate, Phase, Policy, Response, SilenceGate, plain
from cloud.guard.steering import RolloutError
from protocol.codec import structure, to_plain
from protocol.errors import MessageError
from protocol.schedule import Stratum, Terms
from tests.cloud.guard.looks import PI3, PI4, POLICY, SOAK_MS, look, of, seen


def test_a_phase_ends_with_its_soak_and_the_last_one_completes() -> None:
    assert look(seen(of(succeeded=3)), at_ms=SOAK_MS - 1).actions == ()
    verdict = look(seen(of(succeeded=3)))
    assert isinstance(verdict.actions[0], OpenPhase)
    assert coverage(POLICY, verdict.standing).percentage == 100
    assert look(seen(of(succeeded=3)), at_ms=SOAK_MS, standing=verdict.standing).actions == ()
    last = look(seen(of(succeeded=30)), at_ms=2 * SOAK_MS, standing=verdict.standing)
    assert isinstance(last.actions[0], Complete)
    assert last.standing.status is Status.COMPLETED
    assert guard(POLICY, last.standing, seen(of(succeeded=30)), 9 * SOAK_MS).actions == ()


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (seen(), "no device has taken it yet"),
        (seen(of(proven=4)), "0 of 1 that it takes stood the soak; 4 are in it"),
        (seen(of(succeeded=1, under_way=9)), "9 devices are in the middle of the update, and only 1 have settled"),
    ],
)
def test_a_phase_without_evidence_stays_open_and_says_so(evidence: Evidence, why: str) -> None:
    verdict = look(evidence, at_ms=1000 * SOAK_MS)
    assert verdict.actions == ()
    assert why in verdict.why
    assert verdict.again_at_ms is not None


def test_no_phase_is_over_while_somebody_on_trial_is_still_to_say_how_it_went() -> None:
    """A device that fails says so late: those that succeed at once must not open the next phase before it did."""
    verdict = look(seen(of(succeeded=17, under_way=3, on_trial=3)))
    assert verdict.actions == ()
    assert "3 devices have restarted into it, and have yet to say how that went" in verdict.why
    assert verdict.again_at_ms is not None
    assert isinstance(look(seen(of(succeeded=17, under_way=3))).actions[0], OpenPhase)


def test_devices_that_never_come_back_do_not_keep_the_others_waiting() -> None:
    verdict = look(seen(of(succeeded=1, under_way=9, away=9)))
    assert isinstance(verdict.actions[0], OpenPhase)


def test_a_phase_that_covers_nobody_is_over_at_once_and_nothing_is_completed_that_nobody_runs() -> None:
    first = look(seen(nobody_left=True), at_ms=1)
    assert isinstance(first.actions[0], OpenPhase)
    last = look(seen(nobody_left=True), at_ms=2, standing=first.standing)
    assert last.actions == ()
    assert "no device runs it yet" in last.why
    assert isinstance(look(seen(nobody_left=True, already=5), at_ms=2, standing=first.standing).actions[0], Complete)


def test_a_phase_that_nobody_survived_is_stopped() -> None:
    verdict = look(seen(of(failed=1)))
    assert verdict.actions == (
        Pause(gate="failures", why="all 1 devices that took it in this phase failed, and none stood the soak"),
    )
    assert look(seen(of(failed=1)), at_ms=SOAK_MS - 1).actions == ()


def test_what_nobody_survived_is_resumed_and_only_who_fails_from_then_on_stops_it_again() -> None:
    stopped = look(seen(of(failed=2))).standing
    resumed = steering.resume(POLICY, stopped, seen(of(failed=2)), 2 * SOAK_MS)
    waits = look(seen(of(failed=2)), at_ms=3 * SOAK_MS, standing=resumed)
    assert (waits.actions, waits.standing.status) == ((), Status.RUNNING)
    assert (
        "2 devices failed before it was resumed, and do not take it again by themselves: `release retry`" in waits.why
    )
    third = look(seen(of(failed=3)), at_ms=3 * SOAK_MS, standing=resumed)
    assert third.why == "all 1 devices that took it in this phase failed, and none stood the soak"
    # A retry forgets failures, so what was seen of them excuses nothing.
    retried = steering.retry(resumed, 7)
    again = look(seen(of(failed=2)), at_ms=3 * SOAK_MS, standing=retried)
    assert again.why == "all 2 devices that took it in this phase failed, and none stood the soak"


LOST = seen(of(under_way=5, away=5, lost=5), nobody_beside=True)


def test_a_phase_of_which_all_are_silent_is_stopped_where_nobody_is_left_to_compare_them_with() -> None:
    assert look(LOST, at_ms=SOAK_MS - 1).actions == ()
    verdict = look(LOST)
    assert verdict.actions == (Pause(gate="silence", why=verdict.why),)
    assert verdict.why.startswith("all 5 devices that restarted into it in this phase were not heard of since")
    resumed = steering.resume(
        POLICY, verdict.standing, replace(LOST, strata=(replace(LOST.strata[0], quiet=5),)), SOAK_MS
    )
    assert look(LOST, at_ms=9 * SOAK_MS, standing=resumed).standing.status is Status.RUNNING


@pytest.mark.parametrize(
    "evidence",
    [
        replace(LOST, nobody_beside=False),
        seen(of(under_way=1, away=1, lost=1), nobody_beside=True),
        seen(of(under_way=5, away=5), nobody_beside=True),
        seen(of(under_way=6, away=5, lost=5), nobody_beside=True),
        seen(of(under_way=5, away=5, lost=5, succeeded=1), nobody_beside=True, fresh_succeeded=0),
    ],
)
def test_silence_with_others_there_or_of_one_device_or_beside_a_success_is_told_and_stops_nothing(
    evidence: Evidence,
) -> None:
    assert look(evidence).actions == ()
    quiet = replace(POLICY, gates=Gates(silence=None))
    assert look(LOST, quiet).actions == ()


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (seen(of(under_way=3, away=3, lost=2)), "2 devices restarted into it and were not heard of since. Look at one"),
        (seen(of(under_way=3, away=3)), "3 devices began it and were not heard of since"),
        (seen(of(moved_on=3)), "no device runs it any more: 3 had it and run another firmware since"),
        (seen(of(moved_on=3), nobody_left=True), "no device runs it any more: 3 had it and run another firmware since"),
        (seen(nobody_left=True), "no device runs it yet, and it covers nobody that has yet to take it"),
    ],
)
def test_a_phase_that_nobody_ended_says_what_became_of_those_that_began_it(evidence: Evidence, why: str) -> None:
    last = replace(begin(POLICY, 0, 100), phase=1)
    assert why in look(evidence, standing=last).why


@pytest.mark.parametrize(("failed", "stops"), [(1, False), (2, False), (3, True)])
def test_failures_stop_when_they_speak_loudly_enough(failed: int, stops: bool) -> None:
    verdict = look(seen(of(failed=failed, under_way=2)), at_ms=1)
    assert (verdict.standing.status is Status.STOPPED_BY_GATE) is stops
    if stops:
        assert "3 of 5 devices that began it failed (health failed in proving: 3)" in verdict.why
        assert coverage(POLICY, verdict.standing).terms.paused


def test_a_gate_may_roll_back() -> None:
    policy = replace(POLICY, gates=Gates(failures=FailureGate(max_failures=0, then=Response.ROLL_BACK)))
    verdict = look(seen(of(failed=1, under_way=8)), policy, at_ms=1)
    assert isinstance(verdict.actions[0], RollBack)
    assert not coverage(policy, verdict.standing).enabled


def test_a_gate_is_asked_while_somebody_has_paused_it() -> None:
    paused = steering.pause(begin(POLICY, 0, 100), 10, "lunch")
    assert look(seen(of(succeeded=3)), standing=paused).actions == ()
    assert isinstance(look(seen(of(failed=9)), standing=paused).actions[0], Pause)


def test_only_the_stratum_that_fails_is_stopped_once_and_only_where_others_succeed() -> None:
    mixed = seen(of(PI3, failed=5, under_way=2), of(PI4, succeeded=30))
    verdict = look(mixed, at_ms=1)
    (action,) = verdict.actions
    assert isinstance(action, StopStratum)
    assert action.strata == (PI3,)
    assert "pi3 on 1.0.0: 5 of 7" in action.why
    assert "of the others 0 of 30 failed, so they go on" in action.why
    assert coverage(POLICY, verdict.standing).terms.stopped == (PI3,)
    again = look(mixed, standing=verdict.standing)
    assert isinstance(again.actions[0], OpenPhase)  # what was stopped does not count any more
    alone = look(seen(of(PI3, failed=5, under_way=2), of(PI4, under_way=4)), at_ms=1)
    assert isinstance(alone.actions[0], Pause)  # nobody else has shown that it is not the release


def test_all_of_a_model_is_stopped_when_it_fails_on_every_version() -> None:
    older = Stratum(hardware_model="pi3", from_version="0.9.0")
    verdict = look(seen(of(PI3, failed=4), of(older, failed=4), of(PI4, succeeded=30)), at_ms=1)
    assert verdict.standing.memory.stopped == (Stratum(hardware_model="pi3"),)


def test_what_went_well_before_is_no_credit_for_a_later_phase() -> None:
    second = look(seen(of(succeeded=3000))).standing
    bad = replace(of(succeeded=3000, failed=40), fresh_started=60, fresh_failed=40)
    verdict = look(seen(bad), standing=second)
    assert "40 of 60 devices that began it in phase 2 failed" in verdict.why
    assert verdict.standing.status is Status.STOPPED_BY_GATE


def silence(took: int, others: int, through_ms: int) -> Evidence:
    arms = {"took": Arm(at_risk=10, went_quiet=took), "control": Arm(at_risk=90, went_quiet=others)}
    return seen(of(succeeded=10), silence=Silence(through_ms=through_ms, **arms))


def test_silence_counts_against_the_others_silence() -> None:
    standing = begin(POLICY, 0, 100)
    assert look(silence(10, 90, 5), at_ms=1, standing=standing).standing.status is Status.RUNNING
    verdict = look(silence(7, 0, 5), at_ms=1, standing=standing)
    assert "7 devices that took it went quiet for more than 3600 s, and 0 of those that did not" in verdict.why
    assert isinstance(verdict.actions[0], Pause)
    once = look(silence(3, 0, 5), at_ms=1, standing=standing).standing
    twice = look(silence(3, 0, 5), at_ms=1, standing=once).standing
    assert once.memory == twice.memory  # the same interval is heard once
    off = replace(POLICY, gates=Gates(silence=None))
    assert look(silence(10, 0, 5), off, at_ms=1).actions == ()


def test_a_hard_cap_on_silence() -> None:
    policy = replace(POLICY, gates=Gates(silence=SilenceGate(max_quiet=1)))
    assert look(seen(of(succeeded=9, quiet=1)), policy, at_ms=1).actions == ()
    assert isinstance(look(seen(of(succeeded=9, quiet=2)), policy, at_ms=1).actions[0], Pause)


def test_health_is_held_against_the_others() -> None:
    policy = replace(POLICY, gates=Gates(health=(HealthGate(at_most=2),)))
    bad = HealthEvidence(reporting=10, beyond=6, control_reporting=90, control_beyond=1)
    verdict = look(seen(of(succeeded=10), health=(bad,)), policy, at_ms=1)
    assert "6 of 10 devices that run it report crashes above 2, and 1 of 90 others" in verdict.why
    as_bad = replace(bad, control_beyond=60)
    assert look(seen(of(succeeded=10), health=(as_bad,)), policy, at_ms=1).actions == ()


def test_a_schedule_starts_by_the_plans_time_and_not_by_when_that_was_noticed() -> None:
    policy = replace(POLICY, terms=Terms(not_before_ms=5000))
    waiting = begin(policy, 0, 100)
    assert look(seen(), policy, at_ms=4999, standing=waiting).again_at_ms == 5000
    verdict = look(seen(), policy, at_ms=90_000, standing=waiting)
    assert isinstance(verdict.actions[0], Start)
    assert verdict.standing.phase_began_at_ms == 5000
    told, begun = coverage(policy, waiting), coverage(policy, verdict.standing)
    assert told.terms.not_before_ms == 5000, "devices need nobody to tell them"
    assert replace(told, terms=replace(told.terms, not_before_ms=0)) == begun, "from then on no clock keeps one out"


def test_a_newer_release_overtakes() -> None:
    verdict = look(seen(overtaken_by=7), at_ms=1)
    assert verdict.actions == (Overtake(label=7, why="v7 reaches every device that this could still reach"),)


def test_a_pause_stops_the_clock_of_ramp_and_soak() -> None:
    policy = Policy(phases=(Phase(percentage=100, ramp_s=1000, soak_s=100),))
    standing = steering.pause(begin(policy, 0, 100), 400_000, "lunch")
    ramp = coverage(policy, standing).terms.ramp
    assert ramp is not None
    assert ramp.covered(100, 400_000) == 400_000
    resumed = steering.resume(policy, standing, seen(), 900_000)
    shifted = coverage(policy, resumed).terms.ramp
    assert shifted is not None
    assert shifted.covered(100, 900_000) == 400_000  # nobody is covered for the time in between, and nobody dropped
    assert look(seen(of(succeeded=3)), policy, 1_599_999, resumed).actions == ()
    assert isinstance(look(seen(of(succeeded=3)), policy, 1_600_000, resumed).actions[0], Complete)


def test_a_pace_makes_ramps() -> None:
    policy = Policy(phases=(Phase(group="pilot"), Phase(percentage=50), Phase(percentage=100)), pace_per_hour=100)
    standing = begin(policy, 0, 1000)
    assert coverage(policy, standing).terms.canaries == ("pilot",)
    assert (coverage(policy, standing).percentage, coverage(policy, standing).terms.ramp) == (0, None)
    half = steering.advance(policy, standing, 0, 1000)
    ramp = coverage(policy, half).terms.ramp
    assert ramp is not None
    assert (ramp.from_percentage, ramp.ends_at_ms) == (0, 5 * 3_600_000)


def test_who_is_held_back_waits_for_the_last_soak() -> None:
    policy = Policy(phases=(Phase(percentage=50), Phase(percentage=100)), hold_back=10)
    second = steering.advance(policy, begin(policy, 0, 100), 1, 100)
    assert coverage(policy, second).percentage == 90
    done = look(seen(of(succeeded=9)), policy, 2, second).standing
    assert (done.status, coverage(policy, done).percentage) == (Status.COMPLETED, 100)


def test_resuming_after_a_gate_begins_its_tests_anew() -> None:
    stopped = look(seen(of(failed=3, under_way=2)), at_ms=1).standing
    resumed = steering.resume(POLICY, stopped, seen(of(failed=3, under_way=2)), 5)
    assert look(seen(of(failed=3, under_way=2)), at_ms=6, standing=resumed).actions == ()
    assert look(seen(of(failed=4, under_way=1)), at_ms=6, standing=resumed).actions == ()
    assert isinstance(look(seen(of(failed=7)), at_ms=6, standing=resumed).actions[0], Pause)


def test_two_persons() -> None:
    policy = replace(POLICY, approvals=2)
    standing = begin(policy, 0, 100)
    assert not coverage(policy, standing).enabled
    assert look(seen(), policy, at_ms=10**9, standing=standing).actions == ()

    def agree(by: str, to: Standing) -> Standing:
        return steering.approve(policy, to, by=by, made_by="ann", now_ms=7, devices=100)

    with pytest.raises(RolloutError, match="ann made this release"):
        agree("ann", standing)
    once = agree("bob", standing)
    with pytest.raises(RolloutError, match="approved it already"):
        agree("bob", once)
    twice = agree("eve", once)
    assert (once.status, twice.status, twice.phase_began_at_ms) == (Status.AWAITING_APPROVAL, Status.RUNNING, 7)


@pytest.mark.parametrize("status", list(Status))
def test_words_that_make_no_sense_are_refused_and_change_nothing(status: Status) -> None:
    standing = replace(begin(POLICY, 0, 100), status=status)
    words: dict[str, Callable[[], Standing]] = {
        "pause": lambda: steering.pause(standing, 1, ""),
        "resume": lambda: steering.resume(POLICY, standing, seen(), 1),
        "abort": lambda: steering.abort(standing, ""),
        "advance": lambda: steering.advance(POLICY, standing, 1, 100),
        "retry": lambda: steering.retry(standing, 9),
    }
    sensible: set[str] = {
        Status.AWAITING_APPROVAL: {"abort"},
        Status.SCHEDULED: {"pause", "abort", "retry"},
        Status.RUNNING: {"pause", "abort", "advance", "retry"},
        Status.PAUSED: {"resume", "abort", "retry"},
        Status.STOPPED_BY_GATE: {"resume", "abort", "retry"},
        Status.COMPLETED: {"pause", "abort", "retry"},
        Status.ABORTED: set(),
        Status.OVERTAKEN: {"resume", "abort"},
    }[status]
    for word, say in words.items():
        if word in sensible:
            say()
        else:
            with pytest.raises(RolloutError, match="nothing was changed"):
                say()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Phase, "a percentage or a group"),
        (lambda: Phase(percentage=5, group="pilot"), "a percentage or a group"),
        (lambda: Phase(group="pilot", ramp_s=5), "no ramp"),
        (lambda: Policy(phases=()), "a phase at least"),
        (lambda: Policy(phases=(Phase(percentage=50), Phase(percentage=5))), "rise from phase to phase"),
        (lambda: Policy(phases=(Phase(percentage=50, ramp_s=5),), pace_per_hour=5), "give ramps, or a pace"),
        (lambda: Policy(terms=Terms(paused=True)), "said by its phases"),
        (lambda: FailureGate(tolerable_permille=200, intolerable_permille=100), "intolerable_permille"),
        (HealthGate, "has a bound"),
    ],
)
def test_a_policy_that_is_none_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(MessageError, match=why):
        make()


def test_what_is_kept_is_read_back() -> None:
    policy = Policy(
        phases=(Phase(group="pilot", soak_s=1), Phase(percentage=100, ramp_s=9)),
        gates=Gates(silence=None, health=(HealthGate(gauge="temperature", at_least=-5),)),
        terms=Terms(deadline_ms=9),
    )
    assert structure(plain(policy), Policy) == policy
    standing = look(seen(of(PI3, failed=5, under_way=2), of(PI4, succeeded=30)), at_ms=1).standing
    assert structure(to_plain(standing), Standing) == standing


counts = st.integers(min_value=0, max_value=40)


@given(
    one=st.lists(counts, min_size=5, max_size=5),
    other=st.lists(counts, min_size=5, max_size=5),
    at_ms=st.integers(min_value=0, max_value=10 * SOAK_MS),
    nobody_left=st.booleans(),
    health=counts,
)
def test_a_look_again_does_nothing_more_and_coverage_never_shrinks(
    one: list[int], other: list[int], at_ms: int, nobody_left: bool, health: int
) -> None:
    """Whatever is seen: what the guard did it does not do again, and who was covered stays so while it is enabled."""
    names = ("failed", "under_way", "proven", "succeeded", "transient")
    strata = [of(kind, **dict(zip(names, numbers, strict=True))) for kind, numbers in ((PI3, one), (PI4, other))]
    policy = replace(POLICY, gates=Gates(health=(HealthGate(at_most=1),)))
    evidence = seen(*strata, nobody_left=nobody_left, health=(HealthEvidence(reporting=40, beyond=health),))
    standing, done = begin(policy, 0, 100), 0
    while True:
        verdict = guard(policy, standing, evidence, at_ms)
        before, after = coverage(policy, standing), coverage(policy, verdict.standing)
        assert after.percentage >= before.percentage
        assert set(before.terms.stopped) <= set(after.terms.stopped)
        if not verdict.actions:
            break
        standing, done = verdict.standing, done + 1
        assert done <= 4  # at most: two strata, a phase and the end
    assert guard(policy, verdict.standing, evidence, at_ms).actions == ()
