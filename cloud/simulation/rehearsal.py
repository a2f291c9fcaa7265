"""One rehearsal: a made-up fleet, the real guard, and virtual time that jumps from what happens to what happens next.

Each tick: the guard's coverage tells devices, what is due happens to them, and the guard looks at what the cloud would
know by then. Nothing else moves the release, and chance is a generator with a seed: the same seed, the same course.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from cloud.guard.evidence import Standing, Status
from cloud.guard.guarding import Action, OpenPhase, Pause, RollBack, Start, StopStratum, Verdict, guard
from cloud.guard.planning import Coverage, begin, coverage
from cloud.guard.policy import Policy
from cloud.simulation.cohorts import Agenda, Cohort, Conduct
from cloud.simulation.coverage import covered_below
from cloud.simulation.fleets import Fleet
from cloud.simulation.hearsay import Hearsay
from cloud.simulation.results import Happening, Run, Sample
from cloud.simulation.troubles import Troubles
from protocol.down import NoticeRelease
from protocol.schedule import openness
from protocol.values import FirmwareRef

START_MS: Final = 1_704_067_200_000
"""Monday, the 1st of January 2024, 00:00 UTC: when rehearsals begin, unless the plan begins after they would end."""
COMPONENT: Final = "app"
MOVING: Final = frozenset({Status.AWAITING_APPROVAL, Status.SCHEDULED, Status.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is rehearsed: a fleet, how its devices go about it, what the release does to them, and the plan."""

    fleet: Fleet
    conduct: Conduct
    troubles: Troubles
    policy: Policy
    until_s: float
    timezone: str = ""


@dataclass(slots=True)
class _Stage:
    """A rehearsal under way."""

    script: Script
    seed: int
    standing: Standing
    start_ms: int
    chance: Random
    agenda: Agenda = field(default_factory=Agenda)
    cohorts: list[Cohort] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    ended_at_s: float | None = None
    broken_at_end: int = 0
    ended: str = "still_open"
    looks_at: int = 0


def rehearse(script: Script, seed: int) -> Run:
    """Return the course of one rehearsal; the same for the same script and seed."""
    stage = _set(script, seed)
    hearsay = Hearsay(stage.cohorts, script.conduct, stage.start_ms)
    release = _release(seed, coverage(script.policy, stage.standing))
    stage.agenda.add(0)
    while (tick := stage.agenda.next()) is not None and tick * script.conduct.tick_s <= script.until_s:
        now_ms = stage.start_ms + round(tick * script.conduct.tick_s * 1000)
        news = _tell(stage, release, tick, now_ms)
        news |= _happen(stage, tick, now_ms)
        if stage.standing.status in MOVING and (news or tick >= stage.looks_at):
            evidence = hearsay.evidence(script.policy, stage.standing, release, tick)
            verdict = guard(script.policy, stage.standing, evidence, now_ms)
            release = _heed(stage, verdict, release, tick, now_ms)
        if news:
            _sample(stage, tick)
    _sample(stage, round(min(stage.samples[-1].at_s, script.until_s) / script.conduct.tick_s))
    return Run(
        seed=seed,
        devices=script.fleet.devices,
        ended=stage.ended,
        ended_at_s=stage.ended_at_s,
        broken_at_end=stage.broken_at_end if stage.ended_at_s is not None else stage.samples[-1].broken,
        stopped_for=tuple(map(str, stage.standing.memory.stopped)),
        samples=tuple(stage.samples),
        happenings=tuple(stage.happenings),
    )


def _set(script: Script, seed: int) -> _Stage:
    not_before_ms = script.policy.terms.not_before_ms
    start_ms = START_MS if not_before_ms <= START_MS + script.until_s * 1000 else not_before_ms
    standing = begin(script.policy, start_ms, script.fleet.devices)
    stage = _Stage(script=script, seed=seed, standing=standing, start_ms=start_ms, chance=Random(seed))  # noqa: S311
    for kind in script.fleet.counts:
        places = script.fleet.places(kind, _release_id(seed))
        fails = script.troubles.chance_for(kind)
        stage.cohorts.append(Cohort(kind, places, fails, script.conduct, stage.chance, stage.agenda))
    _sample(stage, 0)
    return stage


def _tell(stage: _Stage, release: NoticeRelease | None, tick: int, now_ms: int) -> bool:
    """Tell the devices that the release covers by now; while a ramp grows, come back at the next tick."""
    if release is None:
        return False
    news = False
    for cohort in stage.cohorts:
        news |= cohort.tell(covered_below(release, cohort.kind, now_ms), tick)
    ramp = release.terms.ramp
    if ramp is not None and not release.terms.paused and now_ms < ramp.ends_at_ms:
        stage.agenda.add(tick + 1)
    return news


def _happen(stage: _Stage, tick: int, now_ms: int) -> bool:
    terms, tick_s = stage.script.policy.terms, stage.script.conduct.tick_s
    if terms.windows and (terms.deadline_ms is None or now_ms < terms.deadline_ms):
        opening = openness(terms.windows, stage.script.timezone, now_ms)
        if not opening.is_open and opening.changes_at_ms is not None:
            opens = -int(-(opening.changes_at_ms - stage.start_ms) // (tick_s * 1000))
            for cohort in stage.cohorts:
                cohort.put_off(tick, max(opens, tick + 1))
    happened = [cohort.step(tick) for cohort in stage.cohorts]
    return any(happened)


def _heed(
    stage: _Stage, verdict: Verdict, release: NoticeRelease | None, tick: int, now_ms: int
) -> NoticeRelease | None:
    """Do as the guard says: publish what changed, and stop who has to stop; returns the release as it is told then."""
    stage.standing = verdict.standing
    tick_s = stage.script.conduct.tick_s
    for action in verdict.actions:
        stage.happenings.append(Happening(tick * tick_s, _said(action)))
    stage.looks_at = tick + 1
    if verdict.again_at_ms is not None:
        stage.looks_at = max(tick + 1, -int(-(verdict.again_at_ms - stage.start_ms) // (tick_s * 1000)))
        stage.agenda.add(stage.looks_at)
    if verdict.standing.status not in MOVING and stage.ended_at_s is None:
        stage.ended_at_s = tick * tick_s
        stage.broken_at_end = _sample(stage, tick).broken
        rolled_back = verdict.standing.memory.rolled_back
        stage.ended = "rolled_back" if rolled_back else _ENDS.get(verdict.standing.status, "paused")
    told = _release(stage.seed, coverage(stage.script.policy, verdict.standing))
    if told == release:
        return told
    for cohort in stage.cohorts:
        if told is None or (covered_below(told, cohort.kind, now_ms) == 0 and cohort.told):
            cohort.call_off()
    _tell(stage, told, tick, now_ms)
    return told


_ENDS: Final = {Status.COMPLETED: "completed"}


def _said(action: Action) -> str:
    match action:
        case Start():
            return action.why
        case OpenPhase():
            return f"phase {action.phase + 1} opens: {action.why}"
        case Pause():
            return f"paused by its gate on {action.gate}: {action.why}"
        case RollBack():
            return f"rolled back by its gate on {action.gate}: {action.why}"
        case StopStratum():
            return f"stopped for {', '.join(map(str, action.strata))}: {action.why}"
        case _:
            return action.why


def _sample(stage: _Stage, tick: int) -> Sample:
    failed = sum(it.failed.total + it.crashed.total for it in stage.cohorts)
    sample = Sample(
        at_s=tick * stage.script.conduct.tick_s,
        covered=sum(it.told for it in stage.cohorts),
        running=sum(it.proven.total for it in stage.cohorts),
        failed=failed,
        silent=sum(it.silent.total for it in stage.cohorts),
    )
    if stage.samples and stage.samples[-1].at_s == sample.at_s:
        stage.samples.pop()
    stage.samples.append(sample)
    return sample


def _release_id(seed: int) -> str:
    return f"rehearsal-{seed}"


def _release(seed: int, told: Coverage) -> NoticeRelease | None:
    """Return the release as the notice has it, or None while it is disabled."""
    if not told.enabled:
        return None
    return NoticeRelease(
        release_id=_release_id(seed),
        label=1,
        order=1,
        firmware=_FIRMWARE,
        percentage=told.percentage,
        terms=told.terms,
    )


_FIRMWARE: Final = FirmwareRef(
    component=COMPONENT, version="2.0.0", build=2, seq=2, digest="2" * 64, size_bytes=1, hardware_models=("*",)
)
