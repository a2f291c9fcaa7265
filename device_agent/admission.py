"""When a device may take something, and when a step of an update may happen: two pure questions with typed answers.

1. A digest that failed here is not tried again (`selection` says so), and one that could not be had backs off.
2. Updates that the application disabled prevent every step: nothing is downloaded, installed or restarted.
3. A hold prevents the steps in its scope. A shell's lock, and the grace in which the holders of an agent that was
   started again find it, are holds of install and restart.
4. A forced update passes 2 and 3, and nothing else: it respects what is known of the digest.
5. A gradual release is taken when a session starts, at a check, when the agent starts or when updates are enabled; a
   notice in the middle of a session only makes it pending. An immediate one is taken at once.
6. With the policy `next_start` what is downloaded is installed when the application starts, says that it is ready, or
   is forced.

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
) -> Waiting | None:
    """Return why a step waits at its gate, or None. `starting`: no application runs yet, or it says it is ready."""
    if forced:
        return None
    if not willingness.enabled:
        return Waiting(Wait.DISABLED, willingness.disabled_until_ms, willingness.why_disabled)
    holds = [hold for hold in willingness.holds if scope in hold.scopes]
    if holds:
        return Waiting(Wait.HELD, _last(hold.expires_at_ms for hold in holds), ", ".join(hold.owner for hold in holds))
    if scope is Scope.INSTALL and policy is InstallPolicy.NEXT_START and not starting:
        return Waiting(Wait.NEXT_START)
    return None


def retry_at_ms(back_off: BackOff, now_ms: int) -> int:
    """Return when to try again: a minute after the first failure, doubling up to six hours.

    A failure in what the clock says is the future was noted by a clock that was wrong: it is tried again now.
    """
    if back_off.failed_at_ms > now_ms:
        return now_ms
    pause_s = min(FIRST_RETRY_S << min(back_off.failures - 1, 16), LONGEST_RETRY_S)
    return back_off.failed_at_ms + pause_s * 1000


def _last(times_ms: Iterable[int | None]) -> int | None:
    """Return when the last of the holds ends, None if that is unknown."""
    known = list(times_ms)
    return None if None in known else max(time_ms for time_ms in known if time_ms is not None)
