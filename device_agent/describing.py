"""What the agent says of itself, as lines for people."""

from __future__ import annotations

import time
from typing import Any, Final

from device_agent.clock import describe as describe_time

_ATTENTION: Final = {
    "asked": "waits for your answer: fleetlift-agent consent, or defer",
    "deferred": "is deferred",
    "declined": "was declined; fleetlift-agent consent takes it after all",
}


def described(found: dict[str, Any]) -> list[str]:
    """Return the state as lines for people."""
    lines = [f"phase      {found.get('phase', 'starting')}" + ("" if found.get("online") else ", offline")]
    for name, state in sorted(found.get("components", {}).items()):
        lines.append(f"{name:10} {state['version']} build {state['build']}, {state['digest'][:12]}")
    update, pending, last = found.get("update"), found.get("pending"), found.get("last")
    if update:
        done = f", {update['done_bytes']} of {update['total_bytes']} bytes" if update["total_bytes"] else ""
        lines.append(f"update     {update['component']} {update['version']}{done}")
    if pending:
        lines.append(
            f"pending    {pending['component']} {pending['version']}: {pending['why']} {pending['detail']}".rstrip()
        )
    lines += _described_attention(found.get("attention"))
    if last:
        why = f" ({last['reason']}: {last['detail']})" if last["reason"] else ""
        lines.append(f"last       {last['component']} {last['version']} {last['outcome']}{why}")
    lines += _described_contact(found.get("broker") or {}, found.get("identity") or {})
    enabled = "enabled" if found.get("updates_enabled") else "disabled"
    until_ms = found.get("disabled_until_ms")
    until = f" until {_local(until_ms)}" if until_ms else ""
    lines.append(f"updates    {enabled}{until}" + (", forced" if found.get("updates_forced") else ""))
    lines += [f"hold       {hold['owner']}: {', '.join(hold['scope'])}" for hold in found.get("holds", [])]
    refused = found.get("refused", {})
    if refused:
        lines.append("refused    " + ", ".join(f"{code} {count}" for code, count in sorted(refused.items())))
    return lines


def _described_contact(broker: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    lines = [f"broker     {broker['problem']}"] if broker.get("problem") else []
    if identity:
        ends, due = (describe_time(identity[key] / 1000) for key in ("not_after_ms", "renewal_due_ms"))
        lines.append(f"identity   {identity['device_id']}, certificate until {ends}, renewed from {due}")
        if identity["problem"]:
            lines.append(f"           {identity['problem']}")
        if identity["clock_behind"]:
            lines.append("           the clock is behind: certificates are not judged by it")
    return lines


def _described_attention(attention: dict[str, Any] | None) -> list[str]:
    if not attention:
        return []
    line = f"attention  {attention['component']} {attention['version']} {_ATTENTION[attention['state']]}"
    if attention["state"] == "asked" and attention["optional"] and not attention["mandatory"]:
        line += ", or decline"
    if attention["until_ms"] is not None:
        line += f"; until {_local(attention['until_ms'])}"
    return [line]


def described_decision(decision: dict[str, Any]) -> list[str]:
    """Return a decision of `why` as lines: what it is, every rule, and why it waits now."""
    lines = list(decision["lines"])
    if decision["left_out"]:
        lines.insert(1, f"  ({decision['left_out']} steps before these)")
    waits = decision["waits"]
    if waits:
        detail = f": {waits['detail']}" if waits["detail"] else ""
        until = f", until {_local(waits['until_ms'])}" if waits["until_ms"] is not None else ""
        lines.append(f"  waits now: {waits['why'].replace('_', ' ')}{detail}{until}")
    return lines


def _local(at_ms: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return f"{at_ms} ms"
