"""Why the device takes something or does not, as the control socket tells: every rule in order, and what waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from device_agent.events import Waiting
from protocol.codec import to_plain
from protocol.explaining import explain
from protocol.selection import Decision

MAX_STEPS: Final = 600
"""Of all decisions of one answer: a peer that leaves 256 KiB unread loses its connection."""


def reasoned(decisions: Sequence[tuple[Decision, Waiting | None]]) -> list[dict[str, Any]]:
    """Return decisions as JSON values (docs/control-socket.md); of very long ones the last steps, which decided."""
    limit = MAX_STEPS // max(1, len(decisions))
    return [_reasoned(decision, waiting, max(0, len(decision.trace) - limit)) for decision, waiting in decisions]


def _reasoned(decision: Decision, waiting: Waiting | None, left_out: int) -> dict[str, Any]:
    shown = replace(decision, trace=decision.trace[left_out:])
    wanted = decision.wanted
    return {
        "component": decision.component,
        "verdict": decision.verdict.value,
        "blocked_by": decision.blocked_by.value if decision.blocked_by else None,
        "version": wanted.firmware.version if wanted else None,
        "digest": wanted.firmware.digest if wanted else None,
        "source_id": wanted.source_id if wanted else None,
        "again_at_ms": decision.again_at_ms,
        "steps": [to_plain(step) for step in shown.trace],
        "left_out": left_out,
        "waits": {"why": waiting.why.value, "until_ms": waiting.until_ms, "detail": waiting.detail}
        if waiting
        else None,
        "lines": list(explain(shown)),
    }
