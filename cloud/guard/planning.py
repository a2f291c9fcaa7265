"""A plan in time: where a new rollout stands, what a phase covers, and how long its coverage grows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloud.guard.evidence import Standing, Status
from cloud.guard.policy import Policy
from protocol.schedule import Ramp, Terms

_WITHHELD = frozenset({Status.AWAITING_APPROVAL, Status.ABORTED})
_BEGUN = frozenset({Status.RUNNING, Status.COMPLETED})
"""Its time has come by the cloud's clock: devices whose own are behind are not kept waiting by them."""
_STILL = frozenset({Status.AWAITING_APPROVAL, Status.PAUSED, Status.STOPPED_BY_GATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a release has to say of itself: all that devices learn of a rollout."""

    percentage: int
    terms: Terms
    enabled: bool


def begin(policy: Policy, now_ms: int, devices: int) -> Standing:
    """Return where a new rollout to a group of so many devices stands."""
    if policy.approvals:
        return Standing(status=Status.AWAITING_APPROVAL, phase_began_at_ms=now_ms, why="waits for approval")
    return started(policy, Standing(status=Status.RUNNING), now_ms, devices)


def started(policy: Policy, standing: Standing, now_ms: int, devices: int) -> Standing:
    """Return the standing with its first phase open, now or when the plan begins."""
    begins_at_ms = max(now_ms, policy.terms.not_before_ms)
    first = opened(policy, standing, 0, begins_at_ms, devices)
    if begins_at_ms > now_ms:
        return replace(first, status=Status.SCHEDULED, why="begins later")
    return replace(first, status=Status.RUNNING, why="the first phase is open")


def opened(policy: Policy, standing: Standing, phase: int, at_ms: int, devices: int) -> Standing:
    """Return the standing with a phase open from a time on; who went quiet before the first one is nobody's concern."""
    memory = replace(
        standing.memory, ramp_s=growth_s(policy, phase, devices), opened_at_ms=at_ms, watched_from_ms=at_ms
    )
    if phase == 0:
        memory = replace(memory, heard_through_ms=at_ms)
    return replace(standing, phase=phase, phase_began_at_ms=at_ms, memory=memory)


def growth_s(policy: Policy, phase: int, devices: int) -> int:
    """Return for how long the coverage of a phase grows: as it says, or as the pace of the plan demands."""
    opening = policy.phases[phase]
    if policy.pace_per_hour is None or opening.percentage is None:
        return opening.ramp_s
    share = share_of(policy, phase) - share_of(policy, phase - 1)
    return -(-devices * share * 3600 // (100 * policy.pace_per_hour))


def paced(policy: Policy, standing: Standing, devices: int, now_ms: int) -> Standing:
    """Return the standing with the slope that the plan's pace demands for a group that is not as large as it was.

    What is covered now stays covered: the line turns where it is. By less than a tenth it is let be, for each turn is a
    notice to everybody.
    """
    memory = standing.memory
    elapsed_ms = now_ms - standing.phase_began_at_ms
    if policy.pace_per_hour is None or not 0 <= elapsed_ms < 1000 * memory.ramp_s:
        return standing
    ramp_s = growth_s(policy, standing.phase, devices)
    if not ramp_s or 10 * abs(ramp_s - memory.ramp_s) < memory.ramp_s:
        return standing
    began_at_ms = now_ms - -(-elapsed_ms * ramp_s // memory.ramp_s)
    return replace(standing, phase_began_at_ms=began_at_ms, memory=replace(memory, ramp_s=ramp_s))


def share_of(policy: Policy, phase: int) -> int:
    """Return what percentage a phase covers, without whom the plan holds back; 0 for the phase before the first."""
    shares = [it.percentage for it in policy.phases[: phase + 1] if it.percentage is not None]
    return min(shares[-1], 100 - policy.hold_back) if shares else 0


def coverage(policy: Policy, standing: Standing) -> Coverage:
    """Return what the release says in a standing. Coverage never shrinks from one to the next."""
    phase, memory = standing.phase, standing.memory
    percentage = share_of(policy, phase)
    ramp = None
    if memory.ramp_s and not standing.ran_its_course and policy.phases[phase].percentage is not None:
        ramp = Ramp(
            from_percentage=share_of(policy, phase - 1),
            starts_at_ms=standing.phase_began_at_ms,
            ends_at_ms=standing.phase_began_at_ms + 1000 * memory.ramp_s,
        )
    if standing.ran_its_course:
        percentage = max((it.percentage for it in policy.phases if it.percentage is not None), default=0)
    terms = replace(
        policy.terms,
        canaries=tuple(dict.fromkeys(it.group for it in policy.phases[: phase + 1] if it.group is not None)),
        ramp=ramp,
        not_before_ms=0 if standing.status in _BEGUN else policy.terms.not_before_ms,
        paused=standing.status in _STILL or (standing.status is Status.OVERTAKEN and ramp is not None),
        stopped=memory.stopped,
        retried_at=memory.retried_at,
    )
    rolled_back = standing.status is Status.STOPPED_BY_GATE and memory.rolled_back
    return Coverage(percentage=percentage, terms=terms, enabled=standing.status not in _WITHHELD and not rolled_back)
