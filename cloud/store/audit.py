"""The record of decisions: append-only, each row's hash covering the row before it.

A row's hash is the SHA-256 of the canonical JSON (keys sorted, no spaces, UTF-8) of an object of its fields `number`,
`at_ms`, `actor`, `action`, `subject`, `before`, `after` and `prev_hash`. The first row's `prev_hash` is 64 zeros.
Whoever changes or removes a row has to make every later one anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from sqlmodel import Session, col, select

from cloud.models import AuditRow
from cloud.store.engine import Change, Database
from cloud.values import AuditView
from protocol.codec import to_plain

FIRST_PREV_HASH: Final = "0" * 64


class Audit:
    """The audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, actor: str, action: str, subject: str, *, before: Any = None, after: Any = None) -> AuditView:
        """Record a decision that changes no row of the store (a new root, a refused login)."""
        with self._database.changing() as change:
            return _view(audit(change, actor, action, subject, before=before, after=after))

    def rows(self, *, after: int = 0, subject: str | None = None, limit: int = 1000) -> tuple[AuditView, ...]:
        """Return rows by number, those with a higher number than `after`."""
        query = select(AuditRow).where(col(AuditRow.number) > after).order_by(col(AuditRow.number)).limit(limit)
        if subject is not None:
            query = query.where(col(AuditRow.subject) == subject)
        with self._database.reading() as session:
            return tuple(_view(row) for row in session.exec(query))

    def last(self, subject: str) -> AuditView | None:
        """Return the newest row about a subject, or None."""
        query = select(AuditRow).where(col(AuditRow.subject) == subject).order_by(col(AuditRow.number).desc()).limit(1)
        with self._database.reading() as session:
            row = session.exec(query).first()
            return None if row is None else _view(row)


def audited(session: Session, subject: str, after: int | None, limit: int) -> tuple[AuditView, ...]:
    """Return the decisions about a subject by number: those after one, or the newest."""
    query = select(AuditRow).where(col(AuditRow.subject) == subject).limit(limit)
    if after is None:
        newest = session.exec(query.order_by(col(AuditRow.number).desc())).all()
        return tuple(_view(row) for row in reversed(newest))
    return tuple(
        _view(row) for row in session.exec(query.where(col(AuditRow.number) > after).order_by(col(AuditRow.number)))
    )


def audit(change: Change, actor: str, action: str, subject: str, *, before: Any = None, after: Any = None) -> AuditRow:
    """Add a decision to the record, within the transaction that carries it out; values are JSON or dataclasses."""
    last = change.session.exec(select(AuditRow).order_by(col(AuditRow.number).desc()).limit(1)).first()
    row = AuditRow(
        number=last.number + 1 if last else 1,
        at_ms=change.now_ms,
        actor=actor,
        action=action,
        subject=subject,
        before=_canonical(to_plain(before)),
        after=_canonical(to_plain(after)),
        prev_hash=last.hash if last else FIRST_PREV_HASH,
        hash="",
    )
    row.hash = row_hash(_view(row))
    change.session.add(row)
    change.session.flush()
    return row


def row_hash(row: AuditView) -> str:
    """Return the hash that this row must have."""
    covered = {name: value for name, value in to_plain(row).items() if name != "hash"}
    # None is left out of plain values, and is null in the record.
    covered |= {"before": to_plain(row.before), "after": to_plain(row.after)}
    return hashlib.sha256(_canonical(covered).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _view(row: AuditRow) -> AuditView:
    return AuditView(
        number=row.number,
        at_ms=row.at_ms,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        before=json.loads(row.before),
        after=json.loads(row.after),
        prev_hash=row.prev_hash,
        hash=row.hash,
    )
