"""Admission, pure: who may make what wait, as tables."""

import pytest

from device_agent.admission import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    BackOff,
    Held,
    InstallPolicy,
    Trigger,
    Willingness,
    admit_step,
    admit_take,
    retry_at_ms,
)
from device_agent.events import Waiting
from protocol.phases import Wait
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
) -> Waiting | None:
    return admit_step(scope=scope, forced=forced, policy=policy, starting=starting, willingness=willingness)


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
