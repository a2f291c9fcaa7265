"""How far a release is on its devices, counted by the database: who has begun, and who is still to begin.

A device's newest attempt at a release decides how it stands, but for two that leave it where it was before: one that
was cancelled, and one that failed before the failed were told to try again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.cohorts import Inquiry
from cloud.models import AttemptRow, DeviceRow, ReleaseRow
from cloud.progress import CONTRADICTED, DeviceProgress, Rollout, Stage, expected_progress, stage_of
from cloud.rollout_models import RolloutRow
from cloud.store.engine import Database
from cloud.store.lookup import release_row
from cloud.store.situations import DeviceIds, channels_of, ids_of, situations
from protocol.codec import structure
from protocol.phases import Outcome, Phase, Reason
from protocol.selection import Decision, Verdict
from protocol.up import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Devices whose newest attempt at a release counts: how many are in each stage; some of them, troubles first."""

    stages: Mapping[Stage, int]
    shown: tuple[DeviceProgress, ...]
    rollout: Rollout | None
    since: frozenset[str]
    """Devices that have begun after the attempt that was asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbegun:
    """Devices that are still to begin, or cannot; `last_attempt` is the newest attempt of all when that was so."""

    devices: Mapping[str, DeviceProgress]
    looked_at: int
    last_attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The devices that are to take a release and have not begun: how many, which (SHA-256 over their ids), and some."""

    count: int
    digest: str
    some: tuple[DeviceProgress, ...]


class Standings:
    """How far releases are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begun(self, release_id: str, *, after: int, limit: int) -> Begun:
        """Count the devices that have begun, show `limit` of them, and name who has after an attempt; NotFoundError."""
        with self._database.reading() as session:
            release = release_row(session, release_id)
            counts, outcome = func.count(), col(AttemptRow.outcome)
            back = col(AttemptRow.taken_back_at_ms).is_not(None)
            query = select_columns(outcome, back, counts).where(*_decided(release)).group_by(outcome, back)
            stages: dict[Stage, int] = {}
            for said, taken_back, count in session.execute(query):
                stage = stage_of(Outcome(said) if said else None, taken_back=bool(taken_back))
                stages[stage] = stages.get(stage, 0) + count
            newer = select(AttemptRow.device_id).where(
                col(AttemptRow.source_id) == release_id, col(AttemptRow.id) > after
            )
            return Begun(
                stages=stages,
                shown=_shown(session, release, limit),
                rollout=_rollout_of(row) if (row := session.get(RolloutRow, release_id)) else None,
                since=frozenset(session.exec(newer)),
            )

    def rollouts(self, release_ids: Collection[str]) -> Mapping[str, Rollout]:
        """Return where the plans of releases are, by release id; those without one are left out."""
        with self._database.reading() as session:
            rows = session.exec(select(RolloutRow).where(col(RolloutRow.release_id).in_(release_ids)))
            return {row.release_id: _rollout_of(row) for row in rows}

    def unbegun(self, release_id: str) -> Unbegun:
        """Tell of each device that has not begun whether it is to take a release, and what it waits for; NotFoundError.

        The expensive part: the selection is asked about each of them.
        """
        with self._database.reading() as session:
            release = release_row(session, release_id)
            last = session.exec(select(func.max(AttemptRow.id))).one() or 0
            begun = select(AttemptRow.device_id).where(*_decided(release))
            ids = _group(release).where(col(DeviceRow.id).not_in(begun))
            devices = situations(session, release.product, ids, many=True)
            channels, now_ms = channels_of(session, release.product), self._database.now_ms()
            before = _before(session, release)
        found = {}
        for situation in devices:
            device_id = situation.device_id
            progress = expected_progress(release_id, release.component, situation, channels, now_ms=now_ms)
            if progress is not None or device_id in before:
                found[device_id] = progress or DeviceProgress(
                    device_id=device_id, online=situation.online, stage=before[device_id]
                )
        return Unbegun(devices=found, looked_at=len(devices), last_attempt=last)

    def waiting(self, release_id: str, *, limit: int) -> Waiting:
        """Tell who waits for a release now, naming `limit` of them by id; NotFoundError. Who is alike is asked once."""
        with self._database.reading() as session:
            release = release_row(session, release_id)
            begun = select(AttemptRow.device_id).where(*_decided(release))
            ids = _group(release).where(col(DeviceRow.id).not_in(begun))
            fleet = situations(session, release.product, ids, many=True)
            channels, now_ms = channels_of(session, release.product), self._database.now_ms()
        inquiry = Inquiry(fleet, channels, now_ms)
        positions = sorted(
            position
            for kind in range(len(fleet.kinds))
            for alike in inquiry.decided(kind, release.component)
            if _is_to_take(alike.decision, release_id)
            for position in alike.positions
        )
        names = "\0".join(sorted(fleet.device_ids[it] for it in positions))
        some = (
            expected_progress(release_id, release.component, fleet[it], channels, now_ms=now_ms)
            for it in positions[:limit]
        )
        return Waiting(
            count=len(positions),
            digest=hashlib.sha256(names.encode()).hexdigest(),
            some=tuple(it for it in some if it is not None),
        )


def _is_to_take(decision: Decision, release_id: str) -> bool:
    wanted = decision.wanted
    return wanted is not None and wanted.source_id == release_id and decision.verdict is Verdict.TAKE


def _group(release: ReleaseRow) -> DeviceIds:
    return ids_of(release.product, group=release.group_name)


def _newest(release: ReleaseRow) -> ColumnElement[bool]:
    of_each = (
        select(func.max(AttemptRow.id))
        .where(col(AttemptRow.source_id) == release.id, col(AttemptRow.device_id).in_(_group(release)))
        .group_by(col(AttemptRow.device_id))
    )
    return col(AttemptRow.id).in_(of_each)


def _decided(release: ReleaseRow) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a device's newest attempt to say how the device stands."""
    outcome, retried_at = col(AttemptRow.outcome), int(release.terms.get("retried_at", 0))
    failed = outcome.in_([Outcome.FAILED.value, Outcome.ROLLED_BACK.value])
    counts = or_(
        outcome.is_(None),
        outcome == Outcome.SUCCEEDED.value,
        failed & (col(AttemptRow.tried_order) >= retried_at),
    )
    return (_newest(release), counts)


def _before(session: Session, release: ReleaseRow) -> Mapping[str, Stage]:
    """Return how devices stood when their newest attempts, which do not count, had ended."""
    ended = [Outcome.CANCELLED.value, Outcome.FAILED.value, Outcome.ROLLED_BACK.value]
    query = select(AttemptRow.device_id, AttemptRow.outcome).where(_newest(release), col(AttemptRow.outcome).in_(ended))
    return {
        device_id: stage_of(Outcome(outcome), taken_back=False)
        for device_id, outcome in session.exec(query)
        if outcome is not None
    }


def _shown(session: Session, release: ReleaseRow, limit: int) -> tuple[DeviceProgress, ...]:
    stands = col(AttemptRow.outcome) == Outcome.SUCCEEDED.value, col(AttemptRow.taken_back_at_ms).is_(None)
    good = stands[0] & stands[1]
    query = (
        select_columns(
            col(AttemptRow.device_id),
            col(AttemptRow.attempt_id),
            col(AttemptRow.phase),
            col(AttemptRow.outcome),
            col(AttemptRow.taken_back_at_ms),
            col(AttemptRow.reason),
            col(AttemptRow.detail),
            col(DeviceRow.online),
            col(DeviceRow.state),
        )
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(*_decided(release))
        .order_by(func.coalesce(good, False), col(AttemptRow.id).desc())
        .limit(limit)
    )
    return tuple(_attempted(row) for row in session.execute(query).mappings())


def _attempted(row: Mapping[Any, Any]) -> DeviceProgress:
    outcome = Outcome(row["outcome"]) if row["outcome"] else None
    taken_back, detail, percent = row["taken_back_at_ms"] is not None, row["detail"], None
    said = (row["state"] or {}).get("progress") if outcome is None else None
    if said and said["attempt_id"] == row["attempt_id"]:
        loading = structure(said, Progress)
        percent = loading.done_bytes * 100 // max(1, loading.total_bytes)
    if outcome is Outcome.SUCCEEDED and taken_back:
        detail = CONTRADICTED
    return DeviceProgress(
        device_id=row["device_id"],
        online=row["online"],
        stage=stage_of(outcome, taken_back=taken_back),
        phase=Phase(row["phase"]),
        percent=percent,
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=detail,
    )


def _rollout_of(row: RolloutRow) -> Rollout:
    phases = len(row.policy.get("phases", ())) or 1
    return Rollout(status=row.status, phase=min(row.phase + 1, phases), phases=phases, why=row.why)
