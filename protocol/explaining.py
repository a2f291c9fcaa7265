"""A decision in lines for people, the same at the device and in the cloud: what it is, then every rule in order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from protocol.selection import Decision, Rule, Step, Verdict, Wanted
from protocol.values import Via

ASKED: Final = {
    Rule.OTA_OFF: "updates are switched on",
    Rule.BASE_ONLY: "may be updated by itself",
    Rule.PIN: "locked to a version",
    Rule.HARDWARE: "for this hardware",
    Rule.NOT_BEFORE: "its time has come",
    Rule.PAUSED: "not paused",
    Rule.STRATUM: "not stopped for devices like this",
    Rule.CANARY: "goes first",
    Rule.PERCENTAGE: "covered",
    Rule.TARGET_RANGE: "in the target range",
    Rule.RELEASE: "applies",
    Rule.SINGLE_DEVICE: "single-device OTA decides",
    Rule.NOTHING: "something is decided",
    Rule.FLOOR: "not retired",
    Rule.REQUIREMENT: "has what it needs",
    Rule.BREAKS: "fits what is installed",
    Rule.DATA_SCHEMA: "reads the data that is there",
    Rule.FAILED_BEFORE: "has not failed here",
    Rule.DECLINED: "not declined",
    Rule.BASE_FIRST: "nothing comes first",
}
"""What each rule asks, so that `passed` is the answer: yes or no."""
_SAID: Final = {
    Verdict.TAKE: "is to be taken",
    Verdict.RUNS: "is what should run, and runs",
    Verdict.BLOCKED: "should run, and is blocked",
}


def explain(decision: Decision) -> tuple[str, ...]:
    """Return a decision as lines of text: what it is, a line for each step, and when time alone may change it."""
    again = _moment(decision.again_at_ms)
    return (
        _headline(decision),
        *(f"  {_line(step)}" for step in decision.trace),
        *((f"  time alone may change this from {again}",) if again else ()),
    )


def _headline(decision: Decision) -> str:
    wanted = decision.wanted
    if wanted is None:
        return f"{decision.component}: nothing is to be done"
    blocked = f" ({decision.blocked_by.value.replace('_', ' ')})" if decision.blocked_by else ""
    return f"{decision.component}: {wanted.firmware.version} {_SAID[decision.verdict]}{blocked}, by {_source(wanted)}"


def _source(wanted: Wanted) -> str:
    if wanted.via is Via.PIN:
        return "a lock of this device"
    if wanted.via is Via.OTA:
        return f"the single-device OTA {wanted.source_id}"
    return f"release {wanted.source_id} v{wanted.label} of group {wanted.group}"


def _line(step: Step) -> str:
    return f"{'yes' if step.passed else 'no':3}  {ASKED[step.rule]}: {step.subject}: {step.saw}"


def _moment(at_ms: int | None) -> str:
    if at_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return f"{at_ms} ms"
