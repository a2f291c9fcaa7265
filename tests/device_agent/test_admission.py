"""Admission, pure: who may make what wait, as tables."""

import pytest

from device_agent.admission import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    Answer,
    BackOff,
    Held,
    InstallPolicy,
    Occasion,
    Said,
    Trigger,
    Willingness,
    admit_step,
    admit_take,
    gated,
    retry_at_ms,
)
from device_agent.events import Waiting
from protocol.phases import Wait
from protocol.schedule import Ramp, Stratum, Terms, Window
from protocol.values import Scope, Urgency

NOW_MS = 1_800_000_000_000
FREE = Willingness()
DISABLED = Willingness(enabled=False, disabled_until_ms=NOW_MS + 5, why_disabled="dosing")
FAILED_ONCE = BackOff(failures=1, failed_at_ms=NOW_MS)


def held(*scopes: Scope, expires_at_ms: int | None = NOW_MS + 1000, owner: str = "pump") -> Willingness:
    return Willingness(holds=(Held(owner=owner, scopes=frozenset(scopes), expires_at_ms=expires_at_ms),))


def take(
    *,
    urgency: Urgency = Urgency.IMMEDIATE,
    forced: bool = False,
    trigger: Trigger = Trigger.NOTICE,
    willingness: Willingness = FREE,
    back_off: BackOff | None = None,
) -> Waiting | None:
    return admit_take(
        urgency=urgency, forced=forced, trigger=trigger, willingness=willingness, back_off=back_off, now_ms=NOW_MS
    )


def step(
    scope: Scope,
    *,
    forced: bool = False,
    policy: InstallPolicy = InstallPolicy.AVAILABLE,
    starting: bool = False,
    willingness: Willingness = FREE,
    terms: Terms | None = None,
    occasion: Occasion | None = None,
) -> Waiting | None:
    return admit_step(
        scope=scope,
        forced=forced,
        policy=policy,
        starting=starting,
        willingness=willingness,
        terms=terms or Terms(),
        occasion=occasion or Occasion(now_ms=NOW_MS),
    )


@pytest.mark.parametrize("trigger", list(Trigger))
@pytest.mark.parametrize("urgency", list(Urgency))
def test_gradual_waits_for_a_session_and_immediate_does_not(urgency: Urgency, trigger: Trigger) -> None:
    waits = urgency is Urgency.GRADUAL and trigger is Trigger.NOTICE
    assert take(urgency=urgency, trigger=trigger) == (Waiting(Wait.NEXT_SESSION) if waits else None)


@pytest.mark.parametrize("trigger", list(Trigger))
@pytest.mark.parametrize("urgency", list(Urgency))
def test_disabled_updates_never_start(urgency: Urgency, trigger: Trigger) -> None:
    assert take(urgency=urgency, trigger=trigger, willingness=DISABLED) is not None
    assert take(trigger=trigger, willingness=DISABLED) == Waiting(Wait.DISABLED, NOW_MS + 5, "dosing")


@pytest.mark.parametrize("scope", list(Scope))
def test_disabled_updates_stop_every_step(scope: Scope) -> None:
    assert step(scope, willingness=DISABLED, starting=True) == Waiting(Wait.DISABLED, NOW_MS + 5, "dosing")


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("of", list(Scope))
def test_a_hold_stops_what_is_in_its_scope(scope: Scope, of: Scope) -> None:
    expected = Waiting(Wait.HELD, NOW_MS + 1000, "pump") if scope is of else None
    assert step(scope, willingness=held(of)) == expected
    assert take(willingness=held(of)) == (expected if of is scope is Scope.DOWNLOAD else take(willingness=held(of)))


def test_only_a_hold_of_the_download_keeps_from_taking() -> None:
    assert take(willingness=held(Scope.INSTALL, Scope.RESTART)) is None
    assert take(willingness=held(Scope.DOWNLOAD)) is not None


def test_several_holds_end_with_the_last() -> None:
    both = Willingness(holds=held(Scope.INSTALL).holds + held(Scope.INSTALL, expires_at_ms=NOW_MS + 9, owner="b").holds)
    assert step(Scope.INSTALL, willingness=both) == Waiting(Wait.HELD, NOW_MS + 1000, "pump, b")
    endless = Willingness(holds=both.holds + held(Scope.INSTALL, expires_at_ms=None, owner="c").holds)
    assert step(Scope.INSTALL, willingness=endless) == Waiting(Wait.HELD, None, "pump, b, c")


@pytest.mark.parametrize("scope", list(Scope))
def test_forced_goes_over_disabled_holds_and_policy(scope: Scope) -> None:
    unwilling = Willingness(enabled=False, holds=held(*Scope).holds)
    assert step(scope, forced=True, willingness=unwilling, policy=InstallPolicy.NEXT_START) is None
    assert take(forced=True, urgency=Urgency.GRADUAL, willingness=unwilling) is None


@pytest.mark.parametrize("starting", [False, True])
@pytest.mark.parametrize("policy", list(InstallPolicy))
@pytest.mark.parametrize("scope", list(Scope))
def test_next_start_makes_the_installation_wait_alone(scope: Scope, policy: InstallPolicy, *, starting: bool) -> None:
    waits = scope is Scope.INSTALL and policy is InstallPolicy.NEXT_START and not starting
    assert step(scope, policy=policy, starting=starting) == (Waiting(Wait.NEXT_START) if waits else None)


def test_what_could_not_be_had_is_tried_later_unless_asked_for() -> None:
    assert take(back_off=FAILED_ONCE) == Waiting(Wait.BACKING_OFF, NOW_MS + FIRST_RETRY_S * 1000)
    assert take(back_off=FAILED_ONCE, forced=True) is not None
    assert take(back_off=FAILED_ONCE, trigger=Trigger.CHECK) is None
    assert take(back_off=BackOff(failures=1, failed_at_ms=NOW_MS - FIRST_RETRY_S * 1000)) is None


def test_retries_double_up_to_a_limit() -> None:
    pauses = [(retry_at_ms(BackOff(failures=count, failed_at_ms=0), NOW_MS)) // 1000 for count in range(1, 40)]
    assert pauses[:4] == [60, 120, 240, 480]
    assert pauses[-1] == LONGEST_RETRY_S
    assert pauses == sorted(pauses)


def test_a_failure_in_the_future_was_noted_by_a_wrong_clock() -> None:
    assert take(back_off=BackOff(failures=9, failed_at_ms=NOW_MS + 10**12)) is None


# Terms: it is a Friday, 08:00 UTC.

CLOSED = Window(start_minute=9 * 60, duration_minutes=60)
OPEN = Window(start_minute=7 * 60, duration_minutes=120)
OPENS_MS, CLOSES_MS = NOW_MS + 3_600_000, NOW_MS + 3_600_000
SOON_MS, LONG_AGO_MS = NOW_MS + 1, NOW_MS
ASKED = Waiting(Wait.CONSENT, None, "somebody at the device is asked")


def answered(said: Said, *, at_ms: int = NOW_MS, until_ms: int = 0) -> Occasion:
    return Occasion(
        now_ms=NOW_MS, answer=Answer(source_id="r1", digest="a" * 64, said=said, at_ms=at_ms, until_ms=until_ms)
    )


@pytest.mark.parametrize("scope", list(Scope))
def test_a_window_stops_the_installation_and_the_restart_and_no_download(scope: Scope) -> None:
    expected = None if scope is Scope.DOWNLOAD else Waiting(Wait.WINDOW, OPENS_MS)
    assert step(scope, terms=Terms(windows=(CLOSED,))) == expected
    assert step(scope, terms=Terms(windows=(CLOSED, OPEN))) is None
    assert step(scope, terms=Terms(windows=(CLOSED,)), forced=True) is None


def test_a_window_is_by_the_zone_of_the_device() -> None:
    in_tokyo = Occasion(now_ms=NOW_MS, timezone="Asia/Tokyo")  # 17:00
    assert step(Scope.INSTALL, terms=Terms(windows=(OPEN,)), occasion=in_tokyo) == Waiting(
        Wait.WINDOW, NOW_MS + 14 * 3_600_000
    )


@pytest.mark.parametrize("scope", list(Scope))
def test_attention_is_asked_for_before_the_installation_alone(scope: Scope) -> None:
    assert step(scope, terms=Terms(attention=True)) == (ASKED if scope is Scope.INSTALL else None)
    assert step(scope, terms=Terms(attention=True), occasion=answered(Said.CONSENTED)) is None
    assert step(scope, terms=Terms(attention=True), forced=True) is None


@pytest.mark.parametrize(
    ("occasion", "expected"),
    [
        (answered(Said.DEFERRED, until_ms=SOON_MS), Waiting(Wait.CONSENT, SOON_MS, "deferred")),
        (answered(Said.DEFERRED, until_ms=NOW_MS), ASKED),
        (answered(Said.DEFERRED, at_ms=SOON_MS, until_ms=NOW_MS + 9), ASKED),
        (answered(Said.DECLINED), ASKED),
    ],
)
def test_anything_but_consent_is_none(occasion: Occasion, expected: Waiting) -> None:
    assert step(Scope.INSTALL, terms=Terms(attention=True), occasion=occasion) == expected


def test_people_are_asked_outside_the_window_too_and_then_it_is_waited_for() -> None:
    terms = Terms(attention=True, windows=(CLOSED,))
    assert step(Scope.INSTALL, terms=terms) == ASKED
    assert step(Scope.INSTALL, terms=terms, occasion=answered(Said.CONSENTED)) == Waiting(Wait.WINDOW, OPENS_MS)


def test_a_deadline_is_when_windows_and_questions_end() -> None:
    terms = Terms(attention=True, windows=(CLOSED,), deadline_ms=SOON_MS)
    assert step(Scope.RESTART, terms=terms) == Waiting(Wait.WINDOW, SOON_MS)
    assert step(Scope.INSTALL, terms=terms) == Waiting(Wait.CONSENT, SOON_MS, ASKED.detail)
    deferred = answered(Said.DEFERRED, until_ms=NOW_MS + 99)
    assert step(Scope.INSTALL, terms=terms, occasion=deferred) == Waiting(Wait.CONSENT, SOON_MS, "deferred")
    over = Terms(attention=True, windows=(CLOSED,), deadline_ms=LONG_AGO_MS)
    for scope in Scope:
        assert step(scope, terms=over, occasion=deferred) is None
        assert step(scope, terms=over, willingness=DISABLED) == Waiting(Wait.DISABLED, NOW_MS + 5, "dosing")
        assert step(scope, terms=over, willingness=held(scope)) == Waiting(Wait.HELD, NOW_MS + 1000, "pump")


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("scope", list(Scope))
def test_a_turn_is_waited_for_before_the_installation_forced_or_not(scope: Scope, *, forced: bool) -> None:
    not_its_turn = Occasion(now_ms=NOW_MS, is_turn=False)
    expected = Waiting(Wait.TURN) if scope is Scope.INSTALL else None
    assert step(scope, forced=forced, occasion=not_its_turn) == expected


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"willingness": DISABLED}, Wait.DISABLED),
        ({"willingness": held(Scope.INSTALL)}, Wait.HELD),
        ({"terms": Terms(attention=True)}, Wait.CONSENT),
        ({"terms": Terms(windows=(CLOSED,))}, Wait.WINDOW),
        ({"policy": InstallPolicy.NEXT_START}, Wait.NEXT_START),
    ],
)
def test_nobody_asks_for_a_turn_that_could_not_be_used(more: dict[str, object], why: Wait) -> None:
    waiting = step(Scope.INSTALL, occasion=Occasion(now_ms=NOW_MS, is_turn=False), **more)  # type: ignore[arg-type]
    assert waiting is not None
    assert waiting.why is why


def test_the_gates_heed_what_is_theirs_of_the_terms() -> None:
    theirs = Terms(windows=(CLOSED,), deadline_ms=5, attention=True, optional=True)
    whole = Terms(
        windows=(CLOSED,),
        deadline_ms=5,
        attention=True,
        optional=True,
        canaries=("pilot",),
        ramp=Ramp(from_percentage=0, starts_at_ms=0, ends_at_ms=1),
        paused=True,
        stopped=(Stratum(),),
        not_before_ms=7,
        base_first=True,
        retried_at=9,
    )
    assert gated(whole) == theirs
