"""Rollouts by plan: what the guard decides is carried out in one transaction, or not at all.

A look reads one snapshot, asks the guard, and applies the verdict if nobody changed the rollout in between (its
`revision`), together with what devices are to be told (the notice, in the outbox), the events and the audit. A cloud
that ends anywhere has done all of it or nothing, and looks again when it is back; the same look twice does it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlmodel import Session, col, select

from cloud.guard import steering
from cloud.guard.evidence import OPEN, Evidence, Memory, Standing, Status
from cloud.guard.guarding import Verdict, guard
from cloud.guard.planning import begin, coverage
from cloud.guard.policy import Policy, plain
from cloud.models import ReleaseRow
from cloud.rollout_models import RolloutRow
from cloud.store.audit import audit
from cloud.store.channels import changed, channel_key, check_floor, release_views
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.events import note
from cloud.store.lookup import firmware_by_id, group_row, release_row
from cloud.store.rollout_evidence import evidence_of, group_size, overtaken_by
from cloud.store.rollout_notes import note_actions
from cloud.values import ChannelKey, ReleaseView
from protocol.codec import structure, to_plain

GUARD: Final = "guard"
"""Who decides when nobody does."""
TRIES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A rollout: its plan, where it stands, what is known of it, and what it waits for (`why`)."""

    release: ReleaseView
    policy: Policy
    standing: Standing
    evidence: Evidence
    why: str
    again_at_ms: int | None
    plan_hash: str
    revision: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a rollout: whether anything was done, and in how long time alone makes another worth it."""

    acted: bool = False
    due_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A rollout that somebody steers; what takes long to know is looked up only when it matters: a brake is quick."""

    session: Session
    release: ReleaseRow
    policy: Policy
    standing: Standing
    now_ms: int

    @property
    def devices(self) -> int:
        return group_size(self.session, self.release.product, self.release.group_name)

    @property
    def evidence(self) -> Evidence:
        return evidence_of(self.session, self.release, self.policy, self.standing, now_ms=self.now_ms)


Turn = Callable[[_Asked], Standing]


class Rollouts:
    """Releases that go by a plan."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, release_id: str) -> RolloutView:
        """Return how a rollout stands; NotFoundError for a release that does not exist or has no plan."""
        with self._database.reading() as session:
            return _view(session, rollout_row(session, release_id), self._database.now_ms())

    def has_plan(self, release_id: str) -> bool:
        """Tell whether a release goes by a plan."""
        with self._database.reading() as session:
            return session.get(RolloutRow, release_id) is not None

    def open(self) -> tuple[str, ...]:
        """Return the ids of the releases whose rollouts may still go on."""
        query = select(RolloutRow.release_id).where(col(RolloutRow.status).in_([it.value for it in OPEN]))
        with self._database.reading() as session:
            return tuple(session.exec(query.order_by(col(RolloutRow.release_id))))

    def completed(self) -> tuple[str, ...]:
        """Return the ids of the releases that are completed and still guarded: the newest of each channel."""
        newest: dict[ChannelKey, str] = {}
        query = (
            select(ReleaseRow)
            .join(RolloutRow, col(RolloutRow.release_id) == col(ReleaseRow.id))
            .where(col(RolloutRow.status) == Status.COMPLETED.value, col(ReleaseRow.enabled).is_(True))
            .order_by(col(ReleaseRow.label))
        )
        with self._database.reading() as session:
            newest.update((channel_key(release), release.id) for release in session.exec(query))
        return tuple(sorted(newest.values()))

    def reconcile(self, release_id: str, *, listening_for_ms: int | None = None) -> Look:
        """Look at a rollout and do what follows.

        Nothing is believed of silence before the cloud has been `listening_for_ms` (None: always) for long enough.
        """
        for _ in range(TRIES):
            with self._database.reading() as session:
                row = rollout_row(session, release_id)
                policy, before = policy_of(row), standing_of(row)
                release, now_ms = release_row(session, release_id), self._database.now_ms()
                if not _may_act(session, release, before):
                    return Look()
                evidence = evidence_of(
                    session, release, policy, before, now_ms=now_ms, listening_for_ms=listening_for_ms
                )
            verdict = guard(policy, before, evidence, now_ms)
            if verdict.standing == before or self._apply(release_id, row.revision, verdict):
                due_in_ms = None if verdict.again_at_ms is None else verdict.again_at_ms - now_ms
                return Look(acted=bool(verdict.actions), due_in_ms=due_in_ms)
        return Look(due_in_ms=0)

    def _apply(self, release_id: str, revision: int, verdict: Verdict) -> bool:
        """Carry a verdict out; False if the rollout is not what it was any more, and nothing was changed."""
        with self._database.changing() as change:
            row = rollout_row(change.session, release_id)
            if row.revision != revision:
                return False
            release = release_row(change.session, release_id)
            before = standing_of(row)
            carry_out(change, row, release, verdict.standing)
            note_actions(change, release, policy_of(row), verdict.actions)
            if verdict.actions:
                told = {"before": _told(before), "after": _told(verdict.standing, verdict.why)}
                audit(change, GUARD, f"rollout.{_did(verdict)}", f"release/{release_id}", **told)
            return True

    def pause(self, release_id: str, *, by: str, why: str = "") -> RolloutView:
        """Have nobody further take it; who is before the restart with it lets it be."""
        said = why or f"paused by {by}"
        return self._steer(release_id, by, "paused", lambda it: steering.pause(it.standing, it.now_ms, said), why=said)

    def resume(self, release_id: str, *, by: str) -> RolloutView:
        """Go on where it was; what stopped it does not count again."""
        return self._steer(
            release_id, by, "resumed", lambda it: steering.resume(it.policy, it.standing, it.evidence, it.now_ms)
        )

    def abort(self, release_id: str, *, by: str, why: str = "") -> RolloutView:
        """Disable it for good: its devices return to the release before."""
        said = why or f"aborted by {by}"
        return self._steer(release_id, by, "aborted", lambda it: steering.abort(it.standing, said), why=said)

    def approve(self, release_id: str, *, by: str) -> RolloutView:
        """Agree to it; when enough others than who made it did, its first phase opens."""
        return self._steer(
            release_id,
            by,
            "approved",
            lambda it: steering.approve(
                it.policy,
                it.standing,
                by=by,
                made_by=it.release.created_by,
                now_ms=it.now_ms,
                devices=it.devices,
            ),
        )

    def advance(self, release_id: str, *, by: str) -> RolloutView:
        """Open the next phase now."""
        return self._steer(
            release_id,
            by,
            "phase",
            lambda it: steering.advance(it.policy, it.standing, it.now_ms, it.devices),
        )

    def retry(self, release_id: str, *, by: str) -> RolloutView:
        """Have the devices that failed so far try once more."""
        with self._database.changing() as change:
            decision = change.next_number("decision")
            _steer(change, release_id, by, "retried", lambda it: steering.retry(it.standing, decision))
        return self.page(release_id)

    def _steer(self, release_id: str, by: str, what: str, turn: Turn, **data: Any) -> RolloutView:
        with self._database.changing() as change:
            _steer(change, release_id, by, what, turn, **data)
        return self.page(release_id)


def rollout_row(session: Session, release_id: str) -> RolloutRow:
    """Return the rollout of a release; NotFoundError without a plan."""
    release = release_row(session, release_id)
    row = session.get(RolloutRow, release_id)
    if row is None:
        raise NotFoundError(
            f"v{release.label} of {channel_key(release)} has no plan: it is at {release.percentage} % until it is "
            "patched. Pause it; or disable it, and its devices return to the one before; nothing was changed"
        )
    return row


def _may_act(session: Session, release: ReleaseRow, standing: Standing) -> bool:
    """Tell whether a look may lead to anything; what is overtaken after its completion costs one small query."""
    if standing.status is Status.COMPLETED:
        return release.enabled and overtaken_by(session, release) is None
    return standing.is_open


def policy_of(row: RolloutRow) -> Policy:
    """Return a rollout's plan."""
    return structure(row.policy, Policy)


def standing_of(row: RolloutRow) -> Standing:
    """Return where a rollout stands."""
    return Standing(
        status=Status(row.status),
        phase=row.phase,
        phase_began_at_ms=row.phase_began_at_ms,
        paused_at_ms=row.paused_at_ms,
        why=row.why,
        approved_by=tuple(row.approved_by),
        memory=structure(row.memory, Memory),
    )


def start_rollout(change: Change, release: ReleaseRow, policy: Policy, plan_hash: str = "") -> None:
    """Give a release that is being made a plan, and have it say what the plan begins with."""
    for phase in policy.phases:
        if phase.group is not None:
            group_row(change.session, release.product, phase.group)
    devices = group_size(change.session, release.product, release.group_name)
    standing = begin(policy, change.now_ms, devices)
    row = RolloutRow(
        release_id=release.id,
        policy=plain(policy),
        status=standing.status.value,
        plan_hash=plan_hash,
        updated_at_ms=change.now_ms,
    )
    cover = coverage(policy, standing)
    release.percentage, release.terms, release.enabled = cover.percentage, to_plain(cover.terms), cover.enabled
    change.session.add(release)
    _keep(change, row, standing)


def abort_with(change: Change, release: ReleaseRow, by: str) -> bool:
    """End the rollout of a release that somebody disables, for it is guarded no more; False if there is none."""
    row = change.session.get(RolloutRow, release.id)
    if row is None or not standing_of(row).can_end:
        return False
    said = f"disabled by {by}"
    _steer(change, release.id, by, "aborted", lambda it: steering.abort(it.standing, said), why=said)
    return True


def carry_out(change: Change, row: RolloutRow, release: ReleaseRow, standing: Standing) -> None:
    """Bring the rows to a standing, and have the channel told if devices are to do anything else then.

    A percentage that somebody patched after its completion stays: what was covered keeps its release.
    """
    cover = coverage(policy_of(row), standing)
    said = (max(cover.percentage, release.percentage), to_plain(cover.terms), cover.enabled)
    if said != (release.percentage, release.terms, release.enabled):
        if cover.enabled and not release.enabled:
            group_row(change.session, release.product, release.group_name)
            check_floor(change.session, firmware_by_id(change.session, release.firmware_id))
        if cover.enabled != release.enabled:
            release.disabled_at_ms = None if cover.enabled else change.now_ms
        release.percentage, release.terms, release.enabled = said
        change.session.add(release)
        changed(change, channel_key(release))
    _keep(change, row, standing)


def _keep(change: Change, row: RolloutRow, standing: Standing) -> None:
    row.status, row.phase, row.why = standing.status.value, standing.phase, standing.why
    row.phase_began_at_ms, row.paused_at_ms = standing.phase_began_at_ms, standing.paused_at_ms
    row.approved_by, row.memory = list(standing.approved_by), to_plain(standing.memory)
    row.revision += 1
    row.updated_at_ms = change.now_ms
    change.session.add(row)
    change.session.flush()


def _steer(change: Change, release_id: str, by: str, what: str, turn: Turn, **data: Any) -> None:
    row, release = rollout_row(change.session, release_id), release_row(change.session, release_id)
    asked = _Asked(change.session, release, policy_of(row), standing_of(row), change.now_ms)
    try:
        after = turn(asked)
    except steering.RolloutError as error:
        raise ConflictError(f"v{release.label} of {channel_key(release)}: {error}") from None
    carry_out(change, row, release, after)
    subject = f"release/{release.id}"
    if what == "phase":
        data = {"phase": after.phase + 1, "of": len(asked.policy.phases), "why": after.why}
    note(change, f"rollout.{what}", subject, release.product, by=by, label=release.label, **data)
    told = {"before": _told(asked.standing), "after": _told(after, data.get("why", after.why))}
    audit(change, by, f"rollout.{what}", subject, **told)


def _told(standing: Standing, why: str = "") -> dict[str, object]:
    """Return what the audit says of a standing."""
    stopped = [str(it) for it in standing.memory.stopped]
    told: dict[str, object] = {"status": standing.status.value, "phase": standing.phase + 1, "stopped": stopped}
    return told | ({"why": why} if why else {})


def _did(verdict: Verdict) -> str:
    names = {
        "Start": "started",
        "OpenPhase": "phase",
        "Pause": "gate",
        "RollBack": "gate",
        "StopStratum": "stratum_stopped",
        "Complete": "completed",
        "Overtake": "overtaken",
    }
    return names[type(verdict.actions[0]).__name__]


def _view(session: Session, row: RolloutRow, now_ms: int) -> RolloutView:
    release = release_row(session, row.release_id)
    policy, standing = policy_of(row), standing_of(row)
    evidence = evidence_of(session, release, policy, standing, now_ms=now_ms)
    verdict = guard(policy, standing, evidence, now_ms)
    return RolloutView(
        release=release_views(session, [release], now_ms)[0],
        policy=policy,
        standing=standing,
        evidence=evidence,
        why=verdict.why,
        again_at_ms=verdict.again_at_ms,
        plan_hash=row.plan_hash,
        revision=row.revision,
        now_ms=now_ms,
    )
