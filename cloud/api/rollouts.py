"""Rollouts by plan: where one stands and why, and the words with which an operator steers it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.api.backend import Actor, Backend, Server
from cloud.api.documents import Document, ReleasePage
from cloud.api.releases import page_of
from cloud.guard.evidence import HealthEvidence, StratumEvidence
from cloud.guard.guarding import soaked_at_ms
from cloud.guard.planning import coverage
from cloud.guard.policy import Gates, Phase
from cloud.guard.sequential import MILLION, log_bound, silence_evidence
from cloud.store.rollouts import RolloutView
from cloud.values import ReleaseView
from protocol.schedule import PER_CENT

router = APIRouter(tags=["rollouts"])


class Saying(Document):
    """Why, for those who ask later."""

    why: Annotated[str, Field(max_length=500)] = ""


class FailurePage(BaseModel):
    """How many devices failed in one phase of the update for one reason."""

    phase: str
    reason: str
    count: int


class StratumPage(BaseModel):
    """What became of the devices of one hardware model that came from one version; `stopped`: they take it no more."""

    hardware_model: str | None
    from_version: str | None
    started: int
    under_way: int
    proven: int
    succeeded: int
    failed: int
    transient: int
    moved_on: int
    quiet: int
    failures: tuple[FailurePage, ...]
    stopped: bool


class SilencePage(BaseModel):
    """How strongly silence speaks against the release: it is stopped where `evidence` reaches `bound` (logarithms)."""

    took_quiet: int
    others_quiet: int
    evidence: float
    bound: float


class RolloutPage(BaseModel):
    """A rollout. `phase` counts from 1; `covered_percent` is the share of the group that may take it now.

    `waits_for` says what happens next, or why nothing does; `why` is the last thing that happened. `completed`: its
    last phase is over, whatever stopped it since.
    """

    release: ReleaseView
    status: str
    completed: bool
    why: str
    waits_for: str
    phase: int
    phases: tuple[Phase, ...]
    phase_began_at_ms: int
    soaked_at_ms: int
    covered_percent: float
    hold_back: int
    gates: Gates
    approvals: int
    approved_by: tuple[str, ...]
    devices: int
    already: int
    strata: tuple[StratumPage, ...]
    stopped: tuple[str, ...]
    silence: SilencePage | None
    health: tuple[HealthEvidence, ...]
    plan_hash: str
    link: str


@router.get("/releases/{release_id}/rollout")
def show_rollout(server: Server, release_id: str) -> RolloutPage:
    """Return where a release stands with its plan, and why."""
    return page(server, server.store.rollouts.page(release_id))


@router.post("/releases/{release_id}/pause")
def pause_release(server: Server, actor: Actor, release_id: str, body: Saying) -> RolloutPage | ReleasePage:
    """Have nobody further take it. A release without a plan answers with its own page, as it does to the next two."""
    if not server.store.rollouts.has_plan(release_id):
        return page_of(server, server.store.unplanned.pause(release_id, by=actor, why=body.why))
    return page(server, server.store.rollouts.pause(release_id, by=actor, why=body.why))


@router.post("/releases/{release_id}/resume")
def resume_release(server: Server, actor: Actor, release_id: str) -> RolloutPage | ReleasePage:
    """Go on where it was paused or stopped; what stopped it does not count again."""
    if not server.store.rollouts.has_plan(release_id):
        return page_of(server, server.store.unplanned.resume(release_id, by=actor))
    return page(server, server.store.rollouts.resume(release_id, by=actor))


@router.post("/releases/{release_id}/abort")
def abort_rollout(server: Server, actor: Actor, release_id: str, body: Saying) -> RolloutPage:
    """Disable it for good: its devices return to the release before."""
    return page(server, server.store.rollouts.abort(release_id, by=actor, why=body.why))


@router.post("/releases/{release_id}/retry")
def retry_release(server: Server, actor: Actor, release_id: str) -> RolloutPage | ReleasePage:
    """Have the devices that failed so far try once more."""
    if not server.store.rollouts.has_plan(release_id):
        return page_of(server, server.store.unplanned.retry(release_id, by=actor))
    return page(server, server.store.rollouts.retry(release_id, by=actor))


@router.post("/releases/{release_id}/approve")
def approve_rollout(server: Server, actor: Actor, release_id: str) -> RolloutPage:
    """Agree to it, as somebody else than who made it."""
    return page(server, server.store.rollouts.approve(release_id, by=actor))


@router.post("/releases/{release_id}/advance")
def advance_rollout(server: Server, actor: Actor, release_id: str) -> RolloutPage:
    """Open the next phase now."""
    return page(server, server.store.rollouts.advance(release_id, by=actor))


def page(server: Backend, view: RolloutView) -> RolloutPage:
    """Return a rollout as the API answers it."""
    policy, standing, evidence = view.policy, view.standing, view.evidence
    memory = standing.memory
    gate = policy.gates.silence
    return RolloutPage(
        release=view.release,
        status=standing.status.value,
        completed=standing.ran_its_course,
        why=standing.why,
        waits_for=view.why,
        phase=standing.phase + 1,
        phases=policy.phases,
        phase_began_at_ms=standing.phase_began_at_ms,
        soaked_at_ms=soaked_at_ms(policy, standing),
        covered_percent=_covered(view),
        hold_back=policy.hold_back,
        gates=policy.gates,
        approvals=policy.approvals,
        approved_by=standing.approved_by,
        devices=evidence.devices,
        already=evidence.already,
        strata=tuple(_stratum(view, it) for it in evidence.strata),
        stopped=tuple(str(it) for it in memory.stopped),
        silence=None
        if gate is None
        else SilencePage(
            took_quiet=memory.took_quiet,
            others_quiet=memory.control_quiet,
            evidence=round(silence_evidence(memory.silence_log_e / MILLION, memory.silence_looks), 3),
            bound=round(log_bound(gate.false_stop_permille), 3),
        ),
        health=evidence.health,
        plan_hash=view.plan_hash,
        link=server.link("releases", view.release.release_id),
    )


def _covered(view: RolloutView) -> float:
    """Return the share of the group that the percentage or the ramp covers now; canaries are on top of it."""
    cover = coverage(view.policy, view.standing)
    if not cover.enabled or view.now_ms < cover.terms.not_before_ms:
        return 0.0
    if cover.terms.ramp is None:
        return float(view.release.percentage)
    now_ms = (view.standing.paused_at_ms or view.now_ms) if cover.terms.paused else view.now_ms
    return round(cover.terms.ramp.covered(cover.percentage, now_ms) / PER_CENT, 2)


def _stratum(view: RolloutView, it: StratumEvidence) -> StratumPage:
    stratum = it.stratum
    stopped = view.standing.memory.stopped
    return StratumPage(
        hardware_model=stratum.hardware_model,
        from_version=stratum.from_version,
        started=it.started,
        under_way=it.under_way,
        proven=it.proven,
        succeeded=it.succeeded,
        failed=it.failed,
        transient=it.transient,
        moved_on=it.moved_on,
        quiet=it.quiet,
        failures=tuple(
            FailurePage(phase=at.phase, reason=at.reason, count=count) for at, count in sorted(it.failures.items())
        ),
        stopped=any(other.contains(stratum.hardware_model or "", stratum.from_version) for other in stopped),
    )
