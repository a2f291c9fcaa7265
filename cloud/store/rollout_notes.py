"""What the guard did, as events: for timelines and webhooks."""

from __future__ import annotations

from typing import Any

from cloud.guard.guarding import (
    Action,
    Complete,
    OpenPhase,
    Overtake,
    Pause,
    RollBack,
    Start,
    StopStratum,
)
from cloud.guard.policy import Policy, Response
from cloud.models import ReleaseRow
from cloud.store.engine import Change
from cloud.store.events import note


def note_actions(change: Change, release: ReleaseRow, policy: Policy, actions: tuple[Action, ...]) -> None:
    """Note each action within the transaction that carries it out."""
    for action in actions:
        for kind, data in _told(action, policy):
            note(change, kind, f"release/{release.id}", release.product, label=release.label, why=action.why, **data)


def _told(action: Action, policy: Policy) -> tuple[tuple[str, dict[str, Any]], ...]:
    found: tuple[tuple[str, dict[str, Any]], ...]
    match action:
        case Start():
            found = (("rollout.phase", _phase(policy, 0)),)
        case OpenPhase():
            found = (("rollout.phase", _phase(policy, action.phase)),)
        case Pause():
            found = (("rollout.gate", {"gate": action.gate, "then": Response.PAUSE.value}),)
        case RollBack():
            found = (("rollout.gate", {"gate": action.gate, "then": Response.ROLL_BACK.value}),)
        case StopStratum():
            stopped = ({"stratum": str(it), "gate": action.gate} for it in action.strata)
            found = tuple(("rollout.stratum_stopped", data) for data in stopped)
        case Complete():
            found = (("rollout.completed", {}),)
        case Overtake():
            found = (("rollout.overtaken", {"by_label": action.label}),)
    return found


def _phase(policy: Policy, index: int) -> dict[str, Any]:
    phase = policy.phases[index]
    covers = {"percentage": phase.percentage} if phase.group is None else {"group": phase.group}
    return {"phase": index + 1, "of": len(policy.phases), **covers}
