"""The guard: what follows from a plan, from where a rollout stands and from what its devices did, at one time.

Rules, in order:

1. What is closed stays closed. What waits for approval, or was stopped by a gate, waits for somebody.
2. A newer release that reaches everybody overtakes it.
3. A rollout that was scheduled starts when its time has come: by the plan's own time, not by when that was noticed.
4. Every gate is asked, also while somebody has paused it, and before it begins: a device takes it by its own clock. A
   gate stops single strata while the others are content, else it pauses or rolls back. Whatever a gate does, no phase
   is opened in the same look.
5. A phase is over when its coverage has grown, its soak has passed, enough devices stood the soak in it, none that
   began its trial before that is still to say how it went (bad news travels more slowly than good news: a device that
   fails says so when the time to prove itself is over), and as many were settled as are still in the middle. A phase
   that covers nobody is over at once; if that is because others are held back it soaks. One that nobody survived is
   stopped: there is nothing to go on with. So is one of which all that restarted into it, two at least, have been
   silent since, and nobody is left to compare them with.
6. After the last phase it is completed, and covers whom it held back. Nothing is completed that nobody runs.
7. What is completed is guarded on, until a newer release reaches whom it could reach: devices come late, and take their
   successes back. Those that begin after its completion are judged by themselves, too. A gate stops it as before, and
   who resumes it has it completed again: no phase is opened anew.

Time is an argument, and nothing is read. The same look twice does the same thing once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cloud.guard.evidence import Evidence, Standing, Status
from cloud.guard.gates import Finding, find, hear, remember
from cloud.guard.planning import Coverage, begin, coverage, opened, paced, share_of
from cloud.guard.policy import Policy, Response
from protocol.schedule import Stratum

LOOK_S: Final = 30
"""How often an open rollout is looked at, at least."""
MIN_LOST: Final = 2
"""How many have to be silent, with nobody to compare them with, for that to be more than one broken device."""
REST_S: Final = 300
"""How often one that is completed is looked at, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Its time has come."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPhase:
    """Cover the devices of the next phase."""

    phase: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nobody further takes it."""

    gate: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Disable it: the release before is Live."""

    gate: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopStratum:
    """Devices like these take it no more; the others do."""

    strata: tuple[Stratum, ...]
    gate: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """The plan has run its course."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtake:
    """A newer release has taken its place."""

    label: int
    why: str


Action = Start | OpenPhase | Pause | RollBack | StopStratum | Complete | Overtake


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, in this order, and where the rollout stands then. `why` says what it waits for, or what happened.

    `again_at_ms` is when to look again if nothing else happens; None if time alone changes nothing.
    """

    actions: tuple[Action, ...]
    why: str
    standing: Standing
    again_at_ms: int | None = None


def guard(policy: Policy, standing: Standing, evidence: Evidence, now_ms: int) -> Verdict:
    """Return what to do now, by the rules at the head of this file."""
    idle = _idle(policy, standing, evidence, now_ms)
    if idle is not None:
        return idle
    memory = remember(policy.gates, hear(policy.gates, standing.memory, evidence), evidence)
    heard = replace(standing, memory=memory)
    findings = find(policy.gates, heard, evidence)
    if findings:
        return _stop(heard, findings, now_ms)
    if heard.status is Status.SCHEDULED:
        return _begin(policy, heard, now_ms)
    if heard.status is Status.PAUSED:
        return Verdict(actions=(), why=heard.why, standing=heard, again_at_ms=now_ms + LOOK_S * 1000)
    if heard.status is Status.COMPLETED:
        return Verdict(actions=(), why=heard.why, standing=heard, again_at_ms=_silent_at_ms(policy, now_ms))
    return _go_on(policy, paced(policy, heard, evidence.devices, now_ms), evidence, now_ms)


def _idle(policy: Policy, standing: Standing, evidence: Evidence, now_ms: int) -> Verdict | None:
    """Return the verdict on what devices do not take now (rules 1 and 2), or None."""
    status, why = standing.status, standing.why
    if status is Status.COMPLETED:
        if evidence.overtaken_by is None:
            return None
        why = f"v{evidence.overtaken_by} reaches every device that this could still reach"
    elif status is Status.AWAITING_APPROVAL:
        why = f"waits for approval by somebody else: {len(standing.approved_by)} of {policy.approvals} agreed"
    elif standing.is_open and evidence.overtaken_by is not None:
        why = f"v{evidence.overtaken_by} reaches every device that this could still reach"
        done = replace(standing, status=Status.OVERTAKEN, paused_at_ms=standing.paused_at_ms or now_ms, why=why)
        return Verdict(actions=(Overtake(label=evidence.overtaken_by, why=why),), why=why, standing=done)
    elif status in (Status.SCHEDULED, Status.RUNNING, Status.PAUSED):
        return None
    elif status is Status.OVERTAKEN and evidence.overtaken_by is None:
        why = "what had overtaken it reaches its devices no more: resume it if it is to go on, or abort it"
    return Verdict(actions=(), why=why, standing=standing)


def _begin(policy: Policy, standing: Standing, now_ms: int) -> Verdict:
    """Return whether its time has come (rule 3)."""
    if now_ms < standing.phase_began_at_ms:
        return Verdict(actions=(), why="begins later", standing=standing, again_at_ms=standing.phase_began_at_ms)
    why = f"its time has come: {_phase_name(policy, standing)} is open"
    begun = replace(standing, status=Status.RUNNING, why=why)
    return Verdict(actions=(Start(why=why),), why=why, standing=begun, again_at_ms=now_ms)


def _stop(standing: Standing, findings: tuple[Finding, ...], now_ms: int) -> Verdict:
    """Return what the gates do: single strata are stopped if no gate is about all, and the strongest response wins."""
    whole = [finding for finding in findings if not finding.strata]
    why = "; ".join(finding.why for finding in whole or findings)
    gate = ", ".join(finding.gate for finding in whole or findings)
    if not whole:
        strata = tuple(stratum for finding in findings for stratum in finding.strata)
        memory = replace(standing.memory, stopped=(*standing.memory.stopped, *strata))
        # What is completed is completed for the others, who go on.
        after = replace(standing, memory=memory, why=why)
        stop = StopStratum(strata=strata, gate=gate, why=why)
        return Verdict(actions=(stop,), why=why, standing=after, again_at_ms=now_ms + LOOK_S * 1000)
    rolls_back = any(finding.then is Response.ROLL_BACK for finding in whole)
    after = replace(
        standing,
        status=Status.STOPPED_BY_GATE,
        paused_at_ms=standing.paused_at_ms or now_ms,
        memory=replace(standing.memory, rolled_back=rolls_back, was_completed=standing.ran_its_course),
        why=why,
    )
    action = RollBack(gate=gate, why=why) if rolls_back else Pause(gate=gate, why=why)
    return Verdict(actions=(action,), why=why, standing=after)


def _silent_at_ms(policy: Policy, now_ms: int) -> int | None:
    """Return when who is heard of now has been silent for long enough to count; None if nobody listens."""
    gate = policy.gates.silence
    return None if gate is None else now_ms + 1000 * max(gate.quiet_after_s, REST_S)


def soaked_at_ms(policy: Policy, standing: Standing) -> int:
    """Return when the soak of the open phase is over."""
    return standing.phase_began_at_ms + 1000 * (standing.memory.ramp_s + policy.phases[standing.phase].soak_s)


def _go_on(policy: Policy, standing: Standing, evidence: Evidence, now_ms: int) -> Verdict:
    """Return whether the open phase is over, and what comes then."""
    soaked_ms = soaked_at_ms(policy, standing)
    settled = evidence.fresh_succeeded + evidence.fresh_failed
    is_last = standing.phase + 1 == len(policy.phases)
    name = _phase_name(policy, standing)
    again_at_ms = now_ms + LOOK_S * 1000
    if soaked_ms > now_ms:
        again_at_ms = min(again_at_ms, soaked_ms)
    hold = _hold(policy, standing, evidence, soaked_ms - now_ms)
    if hold is None and is_last and not evidence.succeeded and not evidence.already:
        hold = _nobody_runs(evidence)
    if hold is not None:
        nobody = _nobody_stood(policy, standing, evidence) if soaked_ms <= now_ms else None
        if nobody is not None:
            return _stop(standing, (nobody,), now_ms)
        return Verdict(actions=(), why=f"{name}: {hold}", standing=standing, again_at_ms=again_at_ms)
    done = f"{name} is over: {evidence.fresh_succeeded} of {settled} devices that settled in it stood the soak"
    if not settled:
        done = f"{name} is over: nobody in it had yet to take it"
    if is_last:
        memory = replace(standing.memory, watched_from_ms=now_ms)
        after = replace(standing, status=Status.COMPLETED, why=done, memory=memory)
        return Verdict(actions=(Complete(why=done),), why=done, standing=after)
    after = replace(opened(policy, standing, standing.phase + 1, now_ms, evidence.devices), why=done)
    action = OpenPhase(phase=after.phase, why=done)
    return Verdict(actions=(action,), why=done, standing=after, again_at_ms=now_ms)


def _nobody_stood(policy: Policy, standing: Standing, evidence: Evidence) -> Finding | None:
    """Return a finding if there is nothing to go on with: since somebody resumed it all failed, or are silent."""
    if evidence.succeeded or evidence.proven or evidence.middle:
        return None
    failed = min(evidence.fresh_failed, evidence.failed_since(standing.memory))
    if failed:
        why = f"all {failed} devices that took it in this phase failed, and none stood the soak"
        return Finding(gate="failures", then=policy.gates.failures.then, why=why)
    gate, lost = policy.gates.silence, evidence.lost - standing.memory.quiet_seen
    if gate is None or not evidence.nobody_beside or lost < MIN_LOST:
        return None
    why = (
        f"all {lost} devices that restarted into it in this phase were not heard of since, for more than "
        f"{gate.quiet_after_s} s, and nobody else is there to hold that against"
    )
    return Finding(gate="silence", then=gate.then, why=why)


def _hold(policy: Policy, standing: Standing, evidence: Evidence, soaks_for_ms: int) -> str | None:
    """Return what the open phase waits for, as a sentence's end, or None if it is over."""
    settled = evidence.fresh_succeeded + evidence.fresh_failed
    middle = evidence.middle
    idle = evidence.nobody_left and not evidence.under_way and not evidence.proven
    is_narrowed = share_of(policy, standing.phase) < (policy.phases[standing.phase].percentage or 0)
    if idle and not settled and not (is_narrowed and soaks_for_ms > 0):
        return None
    if soaks_for_ms > 0:
        return f"{'grows and ' if standing.memory.ramp_s else ''}soaks for {-(-soaks_for_ms // 1000)} s more"
    enough = evidence.fresh_succeeded >= policy.min_succeeded
    if not enough and not (idle and (not evidence.fresh_failed or evidence.succeeded >= policy.min_succeeded)):
        if not settled and not middle and not evidence.proven:
            return _nobody_said(evidence)
        if evidence.fresh_failed and not (middle or evidence.proven or evidence.failed_since(standing.memory)):
            return (
                f"{evidence.fresh_failed} devices failed before it was resumed, and do not take it again by "
                "themselves: `release retry` has them try once more"
            )
        return (
            f"{evidence.fresh_succeeded} of {policy.min_succeeded} that it takes stood the soak; "
            f"{evidence.proven} are in it, {middle} in the middle of the update"
        )
    return _unsettled(evidence, settled)


def _nobody_said(evidence: Evidence) -> str:
    """Return what a phase waits for in which no device is known to have ended well, badly or not yet."""
    if evidence.lost:
        return (
            f"{evidence.lost} devices restarted into it and were not heard of since. Look at one of them; `release "
            "pause` keeps the others from it, and `release abort` takes it back"
        )
    if evidence.under_way:
        return f"{evidence.under_way} devices began it and were not heard of since"
    return _moved_on(evidence) or "no device has taken it yet"


def _nobody_runs(evidence: Evidence) -> str:
    """Return why a plan is not completed that has run its course."""
    if evidence.lost:
        return _nobody_said(evidence)
    return _moved_on(evidence) or (
        "no device runs it yet, and it covers nobody that has yet to take it; it stays open for those to come, until "
        "`release abort` ends it"
    )


def _moved_on(evidence: Evidence) -> str | None:
    if not evidence.moved_on:
        return None
    return (
        f"no device runs it any more: {evidence.moved_on} had it and run another firmware since, by another release, a "
        "pin or an OTA; `release abort` ends it"
    )


def _unsettled(evidence: Evidence, settled: int) -> str | None:
    """Return whose word a phase waits for that has soaked, as a sentence's end, or None."""
    if evidence.on_trial:
        return f"{evidence.on_trial} devices have restarted into it, and have yet to say how that went"
    if settled < evidence.middle:
        return f"{evidence.middle} devices are in the middle of the update, and only {settled} have settled"
    return None


def _phase_name(policy: Policy, standing: Standing) -> str:
    return f"phase {standing.phase + 1} of {len(policy.phases)} ({policy.phases[standing.phase]})"


__all__ = [
    "LOOK_S",
    "REST_S",
    "Action",
    "Complete",
    "Coverage",
    "OpenPhase",
    "Overtake",
    "Pause",
    "RollBack",
    "Start",
    "StopStratum",
    "Verdict",
    "begin",
    "coverage",
    "guard",
    "soaked_at_ms",
]
