"""When a device may take something, and when a step of an update may happen: two pure questions with typed answers.

1. A digest that failed here is not tried again (`selection` says so), and one that could not be had backs off.
2. Updates that the application disabled prevent every step: nothing is downloaded, installed or restarted.
3. A hold prevents the steps in its scope. A shell's lock, and the grace in which the holders of an agent that was
   started again find it, are holds of install and restart.
4. A forced update passes 2, 3, 6, 7 and 8, and nothing else: it respects what is known of the digest, and its turn.
5. A gradual release is taken when a session starts, at a check, when the agent starts or when updates are enabled; a
   notice in the middle of a session only makes it pending. An immediate one is taken at once.
6. With the policy `next_start` what is downloaded is installed when the application starts, says that it is ready, or
   is forced.
7. A release that requires attention is not installed before somebody at the device consented, nor while it is deferred.
   They are asked as soon as it is downloaded, also outside its windows: who agrees in the evening has it by night.
8. Outside the maintenance windows of its release, by the device's own time, nothing is installed or restarted; the
   download goes on. After the release's deadline 7 and 8 are over.
9. A member of a redundancy set installs nothing before the cloud said that it is this attempt's turn. It asks for its
   turn when nothing else is in the way, so that no other member waits for a window, a person or a hold.

None means: go on. Whoever asks leaves out what is over: holds that expired, a disabling whose time is up. Times are
milliseconds since 1970 by the device's clock, for people and for back-off alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from device_agent.events import Waiting
from protocol.phases import Wait
from protocol.schedule import Terms, openness
from protocol.values import Scope, Urgency

FIRST_RETRY_S: Final = 60
LONGEST_RETRY_S: Final = 6 * 3600
HELD_BY_LOCK: Final = frozenset({Scope.INSTALL, Scope.RESTART})
"""What a lock file and the grace of a start keep from happening."""


class Trigger(StrEnum):
    """What made the device look for something to take."""

    NOTICE = "notice"
    SESSION_START = "session_start"
    CHECK = "check"
    TIMER = "timer"
    ENABLED = "enabled"
    AGENT_START = "agent_start"


class InstallPolicy(StrEnum):
    """When what is downloaded is installed: as soon as nobody holds it, or when the application starts next."""

    AVAILABLE = "available"
    NEXT_START = "next_start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Somebody's hold."""

    owner: str
    scopes: frozenset[Scope]
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Willingness:
    """What the application and everyone else on the device say about updates, now: holds in force only."""

    enabled: bool = True
    disabled_until_ms: int | None = None
    why_disabled: str = ""
    holds: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How often a digest could not be had, and since when (milliseconds since 1970)."""

    failures: int
    failed_at_ms: int


class Said(StrEnum):
    """What somebody at the device answered."""

    CONSENTED = "consented"
    DEFERRED = "deferred"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What somebody at the device said of one firmware of one release, and when (milliseconds since 1970).

    A deferral lasts until `until_ms`; `since_ms` is when the first one of this release began.
    """

    source_id: str
    digest: str
    said: Said
    at_ms: int
    until_ms: int = 0
    since_ms: int = 0

    def defers(self, now_ms: int) -> bool:
        """Tell whether it is still deferred; one from the future was noted by a clock that was wrong, and is over."""
        return self.said is Said.DEFERRED and self.at_ms <= now_ms < self.until_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """When and where a step asks: the time, the device's time zone, what was answered, and whether it is its turn."""

    now_ms: int
    timezone: str = ""
    answer: Answer | None = None
    is_turn: bool = True


NO_TERMS: Final = Terms()


def gated(terms: Terms) -> Terms:
    """Return what the gates heed of a release's terms: the rest is selection's."""
    return Terms(
        windows=terms.windows, deadline_ms=terms.deadline_ms, attention=terms.attention, optional=terms.optional
    )


def admit_take(
    *,
    urgency: Urgency,
    forced: bool,
    trigger: Trigger,
    willingness: Willingness,
    back_off: BackOff | None,
    now_ms: int,
) -> Waiting | None:
    """Return why a wanted firmware is not taken now, or None."""
    if back_off is not None and trigger is not Trigger.CHECK:
        until_ms = retry_at_ms(back_off, now_ms)
        if now_ms < until_ms:
            return Waiting(Wait.BACKING_OFF, until_ms)
    if urgency is Urgency.GRADUAL and trigger is Trigger.NOTICE and not forced:
        return Waiting(Wait.NEXT_SESSION)
    return admit_step(
        scope=Scope.DOWNLOAD,
        forced=forced,
        policy=InstallPolicy.AVAILABLE,
        starting=False,
        willingness=willingness,
    )


def admit_step(
    *,
    scope: Scope,
    forced: bool,
    policy: InstallPolicy,
    starting: bool,
    willingness: Willingness,
    terms: Terms = NO_TERMS,
    occasion: Occasion | None = None,
) -> Waiting | None:
    """Return why a step waits at its gate, or None. `starting`: no application runs yet, or it says it is ready.

    Without an `occasion` the time, people and turns are no question.
    """
    waiting = None
    if not forced:
        waiting = _unwilling(scope, willingness)
        if waiting is None and occasion is not None:
            waiting = admit_terms(scope, terms, occasion)
        if waiting is None and scope is Scope.INSTALL and policy is InstallPolicy.NEXT_START and not starting:
            waiting = Waiting(Wait.NEXT_START)
    if waiting is None and scope is Scope.INSTALL and occasion is not None and not occasion.is_turn:
        waiting = Waiting(Wait.TURN)
    return waiting


def admit_terms(scope: Scope, terms: Terms, occasion: Occasion) -> Waiting | None:
    """Return why a release's own terms let a step wait, or None (rules 7 and 8)."""
    now_ms, answer = occasion.now_ms, occasion.answer
    if scope is Scope.DOWNLOAD or (terms.deadline_ms is not None and now_ms >= terms.deadline_ms):
        return None
    if scope is Scope.INSTALL and terms.attention and (answer is None or answer.said is not Said.CONSENTED):
        if answer is not None and answer.defers(now_ms):
            return Waiting(Wait.CONSENT, _first(answer.until_ms, terms.deadline_ms), "deferred")
        return Waiting(Wait.CONSENT, terms.deadline_ms, "somebody at the device is asked")
    opening = openness(terms.windows, occasion.timezone, now_ms)
    return None if opening.is_open else Waiting(Wait.WINDOW, _first(opening.changes_at_ms, terms.deadline_ms))


def _unwilling(scope: Scope, willingness: Willingness) -> Waiting | None:
    if not willingness.enabled:
        return Waiting(Wait.DISABLED, willingness.disabled_until_ms, willingness.why_disabled)
    holds = [hold for hold in willingness.holds if scope in hold.scopes]
    if holds:
        return Waiting(Wait.HELD, _last(hold.expires_at_ms for hold in holds), ", ".join(hold.owner for hold in holds))
    return None


def retry_at_ms(back_off: BackOff, now_ms: int) -> int:
    """Return when to try again: a minute after the first failure, doubling up to six hours.

    A failure in what the clock says is the future was noted by a clock that was wrong: it is tried again now.
    """
    if back_off.failed_at_ms > now_ms:
        return now_ms
    pause_s = min(FIRST_RETRY_S << min(back_off.failures - 1, 16), LONGEST_RETRY_S)
    return back_off.failed_at_ms + pause_s * 1000


def _first(*times_ms: int | None) -> int | None:
    return min((time_ms for time_ms in times_ms if time_ms is not None), default=None)


def _last(times_ms: Iterable[int | None]) -> int | None:
    """Return when the last of the holds ends, None if that is unknown."""
    known = list(times_ms)
    return None if None in known else max(time_ms for time_ms in known if time_ms is not None)
