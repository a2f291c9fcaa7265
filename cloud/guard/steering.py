"""What an operator may say to a rollout, and where it stands then; a word that makes no sense is refused with why."""

from __future__ import annotations

from dataclasses import replace

from cloud.guard.evidence import Evidence, Seen, Standing, Status
from cloud.guard.planning import opened, started
from cloud.guard.policy import Policy
from protocol.errors import FleetliftError

_NOTHING = "nothing was changed"


class RolloutError(FleetliftError):
    """A rollout does not stand as what was asked of it needs; nothing was changed."""


def pause(standing: Standing, now_ms: int, why: str) -> Standing:
    """Return the standing in which nobody further takes it; what is completed is still taken by who comes late."""
    if standing.status is Status.PAUSED:
        raise RolloutError(f"it is paused already; {_NOTHING}")
    if standing.status not in (Status.RUNNING, Status.SCHEDULED, Status.COMPLETED):
        raise RolloutError(f"it is {_said(standing)}, and only what runs can be paused; {_NOTHING}")
    memory = replace(standing.memory, was_completed=standing.ran_its_course)
    return replace(standing, status=Status.PAUSED, paused_at_ms=now_ms, why=why, memory=memory)


def resume(policy: Policy, standing: Standing, evidence: Evidence, now_ms: int) -> Standing:
    """Return the standing in which it goes on where it was: the time in between does not count, nor what stopped it.

    What was completed is completed again: no phase is opened anew. What was overtaken goes on when what overtook it is
    gone.
    """
    if standing.status not in (Status.PAUSED, Status.STOPPED_BY_GATE, Status.OVERTAKEN):
        raise RolloutError(f"it is {_said(standing)}, and only what is paused or stopped can be resumed; {_NOTHING}")
    if standing.status is Status.OVERTAKEN and evidence.overtaken_by is not None:
        raise RolloutError(
            f"v{evidence.overtaken_by} reaches every device that it could still reach; {_NOTHING}. Disable "
            "that one first"
        )
    paused_at_ms = standing.paused_at_ms or now_ms
    began_at_ms = standing.phase_began_at_ms + max(0, now_ms - max(paused_at_ms, standing.phase_began_at_ms))
    memory = replace(standing.memory, rolled_back=False, was_completed=False)
    if standing.status is Status.STOPPED_BY_GATE:
        memory = replace(
            memory,
            watched_from_ms=now_ms,
            seen=tuple(
                Seen(stratum=it.stratum, started=it.started - it.transient, failed=it.failed) for it in evidence.strata
            ),
            quiet_seen=evidence.quiet,
            health_seen=evidence.health,
            silence_log_e=0,
            silence_looks=0,
            took_quiet=0,
            control_quiet=0,
        )
    if standing.ran_its_course:
        return replace(standing, status=Status.COMPLETED, paused_at_ms=None, memory=memory, why="resumed")
    is_early = policy.terms.not_before_ms > now_ms
    return replace(
        standing,
        status=Status.SCHEDULED if is_early else Status.RUNNING,
        phase_began_at_ms=max(began_at_ms, policy.terms.not_before_ms),
        paused_at_ms=None,
        memory=memory,
        why="resumed",
    )


def abort(standing: Standing, why: str) -> Standing:
    """Return the standing in which the release is disabled for good: its devices return to the one before."""
    if not standing.can_end:
        raise RolloutError(
            f"it is {_said(standing)}, and only what may still go on can be aborted; disable the release if its "
            f"devices are to return to the one before; {_NOTHING}"
        )
    memory = replace(standing.memory, was_completed=standing.ran_its_course)
    return replace(standing, status=Status.ABORTED, why=why, memory=memory)


def retry(standing: Standing, decision: int) -> Standing:
    """Return the standing in which devices that failed before the decision of this number try once more.

    Their failures are forgotten, so they excuse no others either.
    """
    if standing.status in (Status.ABORTED, Status.OVERTAKEN, Status.AWAITING_APPROVAL) or standing.memory.rolled_back:
        raise RolloutError(f"it is {_said(standing)}, so no device would take it again; {_NOTHING}")
    seen = tuple(replace(it, started=it.started - it.failed, failed=0) for it in standing.memory.seen)
    return replace(standing, memory=replace(standing.memory, retried_at=decision, seen=seen))


def approve(policy: Policy, standing: Standing, *, by: str, made_by: str, now_ms: int, devices: int) -> Standing:
    """Return the standing with one more who agrees; when they are enough the first phase opens."""
    if standing.status is not Status.AWAITING_APPROVAL:
        raise RolloutError(f"it is {_said(standing)}, and does not wait for approval; {_NOTHING}")
    if by == made_by:
        raise RolloutError(
            f"{by} made this release, and whoever makes one cannot approve it; {_NOTHING}. Have somebody else approve "
            "it with a token of their own"
        )
    if by in standing.approved_by:
        raise RolloutError(f"{by} approved it already, and it takes {policy.approvals}; {_NOTHING}")
    agreed = replace(standing, approved_by=(*standing.approved_by, by))
    if len(agreed.approved_by) < policy.approvals:
        return agreed
    return started(policy, agreed, now_ms, devices)


def advance(policy: Policy, standing: Standing, now_ms: int, devices: int) -> Standing:
    """Return the standing with the next phase open, whatever the one before still waited for."""
    if standing.status is not Status.RUNNING:
        raise RolloutError(f"it is {_said(standing)}, and only what runs can go on to its next phase; {_NOTHING}")
    if standing.phase + 1 == len(policy.phases):
        raise RolloutError(f"its last phase is open already; {_NOTHING}")
    return replace(opened(policy, standing, standing.phase + 1, now_ms, devices), why="opened by an operator")


def _said(standing: Standing) -> str:
    return standing.status.value.replace("_", " ")
