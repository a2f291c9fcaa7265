"""What is newer and waits: as the cloud is told of it, and as somebody at the device is asked about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from device_agent.admission import Answer
from device_agent.consent import Asking, Question
from device_agent.events import Attempt, Waiting
from protocol.phases import Wait
from protocol.selection import Channels, Decision, Rule, Wanted
from protocol.up import Pending
from protocol.values import MAX_TEXT

Waits = Mapping[str, tuple[Wanted, Waiting]]
"""Components, what is wanted of each, and why it waits."""
_BLOCKED: Final[Mapping[Rule, Wait]] = {
    Rule.FAILED_BEFORE: Wait.FAILED_BEFORE,
    Rule.REQUIREMENT: Wait.REQUIREMENT,
    Rule.BREAKS: Wait.BREAKS,
    Rule.DATA_SCHEMA: Wait.DATA_SCHEMA,
    Rule.DECLINED: Wait.DECLINED,
    Rule.BASE_FIRST: Wait.BASE_FIRST,
}


def blocked(decision: Decision) -> Waiting | None:
    """Return what keeps the device from what it should run; None if that does not wait: retired, or not for it."""
    why = _BLOCKED.get(decision.blocked_by) if decision.blocked_by else None
    return Waiting(why, detail=decision.trace[-1].saw) if why else None


def key_of(wanted: Wanted) -> tuple[str, str]:
    """Return what tells one wish from another: who wants it, and which image."""
    return wanted.source_id, wanted.firmware.digest


def wanted_by(attempt: Attempt) -> Wanted:
    """Return what an attempt follows, as far as it knows it."""
    return Wanted(
        firmware=attempt.firmware,
        via=attempt.via,
        source_id=attempt.source_id,
        order=attempt.order,
        urgency=attempt.urgency,
        mandatory=attempt.mandatory,
        forced=attempt.forced,
        terms=attempt.terms,
    )


def pending(wanted: Wanted, waiting: Waiting) -> Pending:
    """Return it as the cloud is told."""
    return Pending(
        component=wanted.firmware.component,
        version=wanted.firmware.version,
        digest=wanted.firmware.digest,
        source_id=wanted.source_id,
        why=waiting.why,
        detail=waiting.detail[:MAX_TEXT],
    )


def question(wanted: Wanted, waiting: Waiting, answer: Answer | None, now_ms: int) -> Question | None:
    """Return it as somebody at the device is asked, or None."""
    if waiting.why not in (Wait.CONSENT, Wait.DECLINED):
        return None
    state = Asking.DECLINED if waiting.why is Wait.DECLINED else Asking.ASKED
    if state is Asking.ASKED and answer is not None and answer.defers(now_ms):
        state = Asking.DEFERRED
    return Question(
        source_id=wanted.source_id,
        digest=wanted.firmware.digest,
        component=wanted.firmware.component,
        version=wanted.firmware.version,
        mandatory=wanted.mandatory,
        optional=wanted.terms.optional,
        state=state,
        until_ms=waiting.until_ms,
    )


def obliging(channels: Channels) -> tuple[str, ...]:
    """Return the releases that nobody may decline."""
    return tuple(
        release.release_id
        for releases in channels.values()
        for release in releases
        if release.mandatory or release.forced or not release.terms.optional
    )
