"""What became of a rollout's devices, by queries that return a row for each kind of device, never one for each device.

Times are by the cloud's own clock: when something was heard, not when a device says that it was.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Integer, Select, and_, case, func, or_
from sqlalchemy import cast as cast_column
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.guard.evidence import (
    FLIPS,
    FLIPS_AT,
    TAKEN_BACK,
    Arm,
    Evidence,
    Fingerprint,
    HealthEvidence,
    Silence,
    Standing,
    StratumEvidence,
)
from cloud.guard.guarding import soaked_at_ms
from cloud.guard.planning import share_of
from cloud.guard.policy import HealthGate, Policy, SilenceGate
from cloud.models import AttemptRow, ComponentRow, DeviceRow, FirmwareRow, ReleaseRow
from cloud.rollout_models import HealthRow
from cloud.shadowing import notice_releases
from cloud.store.channels import channel_key, in_channel
from cloud.store.situations import as_noticed, ids_of
from protocol.identity import place
from protocol.manifest import ANY_HARDWARE
from protocol.phases import Outcome, Reason
from protocol.schedule import PER_CENT, Stratum

TRANSIENT: Final = (Reason.DOWNLOAD_FAILED.value, Reason.STORAGE_FAILED.value)
"""Failures for want of something that may come back: they say nothing of the firmware."""
MAX_PLACES: Final = 200_000
"""How many devices are looked at to find one that has yet to take a release, before one is taken for granted."""
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class _Scope:
    """What all queries are about."""

    session: Session
    release: ReleaseRow
    digest: str
    hardware_models: tuple[str, ...]
    policy: Policy
    standing: Standing
    now_ms: int

    @property
    def quiet_before_ms(self) -> int:
        return self.now_ms - 1000 * (self.policy.gates.silence or SilenceGate()).quiet_after_s

    @property
    def devices(self) -> SelectOfScalar[str]:
        """The query for the ids of the group's devices."""
        group = ids_of(self.release.product, group=self.release.group_name)
        return group.where(col(DeviceRow.revoked_at_ms).is_(None))

    @property
    def counted(self) -> ColumnElement[bool]:
        """The condition for an attempt to count: it is of this release, was not cancelled, nor retried since."""
        forgotten = and_(
            col(AttemptRow.outcome).in_((Outcome.FAILED.value, Outcome.ROLLED_BACK.value)),
            col(AttemptRow.tried_order) < self.standing.memory.retried_at,
        )
        return and_(
            col(AttemptRow.source_id) == self.release.id,
            or_(col(AttemptRow.outcome).is_(None), col(AttemptRow.outcome) != Outcome.CANCELLED.value),
            or_(col(AttemptRow.outcome).is_(None), ~forgotten),
        )


def group_size(session: Session, product: str, group: str) -> int:
    """Return how many devices a group has that are let in."""
    devices = ids_of(product, group=group).where(col(DeviceRow.revoked_at_ms).is_(None)).subquery()
    return session.exec(select(func.count()).select_from(devices)).one()


def evidence_of(
    session: Session,
    release: ReleaseRow,
    policy: Policy,
    standing: Standing,
    *,
    now_ms: int,
    listening_for_ms: int | None = None,
) -> Evidence:
    """Return what is known of a rollout now; about silence nothing before the cloud has listened for long enough."""
    firmware = session.get_one(FirmwareRow, release.firmware_id)
    scope = _Scope(session, release, firmware.digest, tuple(firmware.hardware_models), policy, standing, now_ms)
    strata, fresh = _strata(scope)
    devices, already, kinds = _group(scope)
    gate = policy.gates.silence
    hears = gate is not None and (listening_for_ms is None or listening_for_ms >= 1000 * gate.quiet_after_s)
    return Evidence(
        devices=devices,
        already=already,
        strata=strata,
        fresh_succeeded=fresh["succeeded"],
        fresh_failed=fresh["failed"],
        nobody_left=_nobody_left(scope, strata, fresh),
        nobody_beside=hears and _nobody_beside(scope, strata),
        kinds=max(kinds, len(strata), 1),
        silence=_silence(scope) if hears else None,
        health=tuple(_health(scope, gate) for gate in policy.gates.health),
        overtaken_by=overtaken_by(session, release),
    )


def _strata(scope: _Scope) -> tuple[tuple[StratumEvidence, ...], dict[str, int]]:
    """Return what became of each kind of device, and how many settled since the open phase began, by how."""
    found: dict[tuple[str, str | None], dict[str, Any]] = defaultdict(lambda: defaultdict(int) | {"failures": {}})
    fresh = {"succeeded": 0, "failed": 0}
    for model, version, kind, phase, reason, count, *sums in scope.session.execute(_outcomes(scope)):
        since, quiet, away, lost, begun, on_trial = (int(it or 0) for it in sums)
        numbers = found[model, version]
        numbers["started"] += count
        numbers["quiet"] += quiet
        numbers["away"] += away
        numbers["lost"] += lost
        numbers["on_trial"] += on_trial
        if kind != "transient":
            numbers["fresh_started"] += begun
        if kind in fresh:
            fresh[kind] += since
        if kind == "failed":
            numbers["fresh_failed"] += begun
            fingerprint = Fingerprint(phase, reason)
            numbers["failures"][fingerprint] = numbers["failures"].get(fingerprint, 0) + count
        else:
            numbers[kind] += count
    strata = (
        StratumEvidence(stratum=Stratum(hardware_model=model, from_version=version), **found[model, version])
        for model, version in sorted(found, key=str)
    )
    return tuple(strata), fresh


def _outcomes(scope: _Scope) -> Select[Any]:
    """Return the query for the devices' last attempts, counted by kind of device and by what became of them."""
    succeeded = col(AttemptRow.outcome) == Outcome.SUCCEEDED.value
    again = and_(succeeded, col(AttemptRow.tried_order) >= scope.standing.memory.retried_at)
    last = (
        select_columns(func.max(col(AttemptRow.id)).label("id"), func.sum(case((again, 1), else_=0)).label("successes"))
        .where(scope.counted)
        .group_by(col(AttemptRow.device_id))
        .subquery()
    )
    taken_back = and_(succeeded, col(AttemptRow.taken_back_at_ms).is_not(None))
    settled_at_ms = func.coalesce(col(AttemptRow.taken_back_at_ms), col(AttemptRow.settled_at_ms), 0)
    soaked = settled_at_ms <= scope.now_ms - 1000 * scope.policy.phases[scope.standing.phase].soak_s
    flips_back = and_(_ever_taken_back(scope), or_(~succeeded, taken_back, ~soaked))
    moved_on = and_(succeeded, func.coalesce(col(ComponentRow.digest), "") != scope.digest)
    flips = and_(last.c.successes >= FLIPS_AT, or_(col(AttemptRow.outcome).is_(None), ~soaked, moved_on))
    kind = case(
        (or_(flips_back, flips), "failed"),
        (col(AttemptRow.outcome).is_(None), "under_way"),
        (moved_on, "moved_on"),
        (and_(succeeded, soaked), "succeeded"),
        (succeeded, "proven"),
        (col(AttemptRow.reason).in_(TRANSIENT), "transient"),
        else_="failed",
    )
    reason = case((flips_back, TAKEN_BACK), (flips, FLIPS), else_=func.coalesce(col(AttemptRow.reason), ""))
    is_silent = and_(
        col(DeviceRow.online).is_(False), func.coalesce(col(DeviceRow.last_seen_at_ms), 0) < scope.quiet_before_ms
    )
    quiet = and_(is_silent, col(AttemptRow.taken_at_ms).is_not(None), kind.in_(("under_way", "proven", "succeeded")))
    away = and_(is_silent, kind == "under_way")
    in_time = col(AttemptRow.taken_at_ms) <= soaked_at_ms(scope.policy, scope.standing)
    on_trial = and_(kind == "under_way", ~is_silent, in_time)
    columns = (col(DeviceRow.hardware_model), col(AttemptRow.from_version), kind, col(AttemptRow.phase), reason)
    return (
        select_columns(
            *columns,
            func.count(),
            func.sum(case((settled_at_ms > scope.standing.memory.opened_at_ms, 1), else_=0)),
            func.sum(case((quiet, 1), else_=0)),
            func.sum(case((away, 1), else_=0)),
            func.sum(case((and_(away, col(AttemptRow.taken_at_ms).is_not(None)), 1), else_=0)),
            func.sum(case((col(AttemptRow.begun_at_ms) >= scope.standing.memory.watched_from_ms, 1), else_=0)),
            func.sum(case((on_trial, 1), else_=0)),
        )
        .select_from(AttemptRow)
        .join(last, last.c.id == col(AttemptRow.id))
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .outerjoin(
            ComponentRow,
            and_(
                col(ComponentRow.device_id) == col(AttemptRow.device_id),
                col(ComponentRow.component) == col(AttemptRow.component),
            ),
        )
        .group_by(*columns)
    )


def _ever_taken_back(scope: _Scope) -> ColumnElement[bool]:
    """Return the condition for a device to have contradicted a success at this release: trying again hides nothing.

    They are few, and looked up once: asked about each device, it would cost the square of the fleet.
    """
    earlier = aliased(AttemptRow)
    return col(AttemptRow.device_id).in_(
        select(earlier.device_id).where(
            col(earlier.source_id) == scope.release.id,
            col(earlier.taken_back_at_ms).is_not(None),
            col(earlier.tried_order) >= scope.standing.memory.retried_at,
        )
    )


def _of_group(scope: _Scope, *columns: Any) -> Select[Any]:
    """Return a query for columns of the group's devices, each with what it runs of the release's component."""
    here = and_(
        col(ComponentRow.device_id) == col(DeviceRow.id), col(ComponentRow.component) == scope.release.component
    )
    chosen = select_columns(*columns).select_from(DeviceRow).outerjoin(ComponentRow, here)
    return chosen.where(col(DeviceRow.id).in_(scope.devices))


def _group(scope: _Scope) -> tuple[int, int, int]:
    """Return how many devices the group has, how many run the digest, and of how many kinds the others are."""
    runs = func.coalesce(col(ComponentRow.digest), "") == scope.digest
    kinds = _of_group(
        scope,
        col(DeviceRow.hardware_model),
        case((runs, None), else_=col(ComponentRow.version)).label("version"),
        func.count().label("count"),
        func.sum(case((runs, 1), else_=0)).label("runs"),
    ).group_by(col(DeviceRow.hardware_model), case((runs, None), else_=col(ComponentRow.version)))
    counts = [(count, int(there or 0)) for _, _, count, there in scope.session.execute(kinds)]
    return sum(count for count, _ in counts), sum(there for _, there in counts), sum(n > there for n, there in counts)


def _silence(scope: _Scope) -> Silence | None:
    """Return who was heard last since what is remembered, of those that took it and of the others."""
    since_ms, through_ms = scope.standing.memory.heard_through_ms, scope.quiet_before_ms
    if through_ms <= since_ms:
        return None
    took = (
        select_columns(col(AttemptRow.device_id), func.min(col(AttemptRow.taken_at_ms)).label("at_ms"))
        .where(col(AttemptRow.source_id) == scope.release.id, col(AttemptRow.taken_at_ms) <= through_ms)
        .group_by(col(AttemptRow.device_id))
        .subquery()
    )
    online, last = col(DeviceRow.online).is_(True), func.coalesce(col(DeviceRow.last_seen_at_ms), 0)
    has_it = took.c.at_ms.is_not(None)
    is_other = and_(~has_it, func.coalesce(col(ComponentRow.digest), "") != scope.digest)
    at_risk = or_(online, last > since_ms)
    went = and_(~online, last > since_ms, last <= through_ms)

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return cast_column(func.coalesce(func.sum(case((and_(*conditions), 1), else_=0)), 0), Integer)

    query = _of_group(
        scope, count(has_it, at_risk), count(has_it, went), count(is_other, at_risk), count(is_other, went)
    ).outerjoin(took, took.c.device_id == col(DeviceRow.id))
    there, gone, others, others_gone = scope.session.execute(query).one()
    return Silence(
        through_ms=through_ms,
        took=Arm(at_risk=there, went_quiet=gone),
        control=Arm(at_risk=others, went_quiet=others_gone),
    )


def _health(scope: _Scope, gate: HealthGate) -> HealthEvidence:
    """Return how many devices report what a gate asks for, and how many are beyond its bound, on the digest and not."""
    gauge = cast_column(col(HealthRow.gauges)[gate.gauge].as_string(), BigInteger)
    value: Any = gauge if gate.gauge else col(HealthRow.crashes)
    runs = (col(HealthRow.digest) == scope.digest).label("runs")
    beyond = value > gate.at_most if gate.at_most is not None else value < gate.at_least
    query = (
        select_columns(runs, func.count(), func.sum(case((beyond, 1), else_=0)))
        .where(
            col(HealthRow.device_id).in_(scope.devices),
            col(HealthRow.component) == scope.release.component,
            value.is_not(None),
        )
        .group_by(runs)
    )
    found = {bool(is_it): (count, int(many or 0)) for is_it, count, many in scope.session.execute(query)}
    (reporting, over), (others, others_over) = found.get(True, (0, 0)), found.get(False, (0, 0))
    return HealthEvidence(reporting=reporting, beyond=over, control_reporting=others, control_beyond=others_over)


def _nobody_beside(scope: _Scope, strata: tuple[StratumEvidence, ...]) -> bool:
    """Tell whether nobody else of the group was heard of in the open phase; looked up only where it decides something.

    Others that fell silent in it as well are somebody: the night, or the outage, that silenced both is no evidence.
    """
    if not any(it.lost for it in strata) or any(it.proven or it.succeeded or it.under_way > it.away for it in strata):
        return False
    took = select(AttemptRow.device_id).where(scope.counted, col(AttemptRow.taken_at_ms).is_not(None))
    heard = or_(col(DeviceRow.online).is_(True), col(DeviceRow.last_seen_at_ms) > scope.standing.memory.opened_at_ms)
    others = _of_group(scope, col(DeviceRow.id)).where(
        heard, col(DeviceRow.id).not_in(took), func.coalesce(col(ComponentRow.digest), "") != scope.digest
    )
    return scope.session.execute(others.limit(1)).first() is None


def _nobody_left(scope: _Scope, strata: tuple[StratumEvidence, ...], fresh: dict[str, int]) -> bool:
    """Tell whether the open phase covers nobody who has yet to take it; looked up only where it decides something."""
    if scope.standing.ran_its_course or any(it.proven or it.under_way > it.away for it in strata):
        return False
    if fresh["succeeded"] >= scope.policy.min_succeeded:
        return False
    phase = scope.policy.phases[scope.standing.phase]
    begun = select(AttemptRow.device_id).where(scope.counted)
    waiting = _of_group(scope, col(DeviceRow.id)).where(
        col(DeviceRow.id).not_in(begun), func.coalesce(col(ComponentRow.digest), "") != scope.digest
    )
    if ANY_HARDWARE not in scope.hardware_models:
        waiting = waiting.where(col(DeviceRow.hardware_model).in_(scope.hardware_models))
    if phase.group is not None:
        members = ids_of(scope.release.product, group=phase.group)
        return scope.session.execute(waiting.where(col(DeviceRow.id).in_(members)).limit(1)).first() is None
    index = scope.standing.phase
    low, high = (PER_CENT * share_of(scope.policy, it) for it in (index - 1, index))
    looked_at = 0
    for some in scope.session.execute(waiting).scalars().partitions(_AT_ONCE):
        if any(low <= place(device_id, scope.release.id) < high for device_id in some):
            return False
        looked_at += len(some)
        if looked_at >= MAX_PLACES:
            return False
    return True


def overtaken_by(session: Session, release: ReleaseRow) -> int | None:
    """Return the lowest newer label of the channel that leaves this one nobody, or None."""
    if not release.enabled:
        return None
    query = (
        select(ReleaseRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(ReleaseRow.firmware_id))
        .where(*in_channel(channel_key(release)), col(ReleaseRow.enabled).is_(True))
        .where(col(ReleaseRow.label) >= release.label)
        .order_by(col(ReleaseRow.label))
    )
    this, *newer = [as_noticed(row, firmware) for row, firmware in session.exec(query)]
    return next((it.label for it in newer if len(notice_releases([it, this])) == 1), None)
