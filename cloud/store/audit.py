"""The record of decisions: append-only, each row's hash covering the row before it.

A row's hash is the SHA-256 of the canonical JSON (keys sorted, no spaces, UTF-8) of an object of its fields `number`,
`at_ms`, `actor`, `action`, `subject`, `before`, `after`, `prev_hash` and, if the row has one, `origin`. The first row's
`prev_hash` is 64 zeros. Whoever changes or removes a row has to make every later one anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, insert, literal
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.auditing import FIRST_PREV_HASH, canonical, hash_of
from cloud.device_models import DecidedDeviceRow
from cloud.models import AuditRow, OtaRow, ReleaseRow
from cloud.provenance import ORIGIN
from cloud.store.engine import Change, Database
from cloud.values import AuditHead, AuditView
from protocol.codec import to_plain

EXPORT_BATCH: Final = 500
_IN_LINES: Final = frozenset({"release", "device", "ota"})


class Audit:
    """The audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, actor: str, action: str, subject: str, *, before: Any = None, after: Any = None) -> AuditView:
        """Record a decision that changes no row of the store (a new root, a refused login)."""
        with self._database.changing() as change:
            return _view(audit(change, actor, action, subject, before=before, after=after))

    def rows(  # one parameter a filter
        self,
        *,
        after: int = 0,
        before: int | None = None,
        subject: str | None = None,
        prefix: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        newest: bool = False,
        limit: int = 1000,
    ) -> tuple[AuditView, ...]:
        """Return rows by number, those with a higher number than `after` and a lower one than `before`.

        `prefix` is what the subject begins with; `until_ms` is not among the times. `newest`: the highest number first.
        """
        number = col(AuditRow.number)
        query = select(AuditRow).where(number > after).order_by(number.desc() if newest else number).limit(limit)
        for condition in (
            before is not None and number < before,
            subject is not None and col(AuditRow.subject) == subject,
            prefix is not None and col(AuditRow.subject).startswith(prefix, autoescape=True),
            actor is not None and col(AuditRow.actor) == actor,
            action is not None and col(AuditRow.action) == action,
            since_ms is not None and col(AuditRow.at_ms) >= since_ms,
            until_ms is not None and col(AuditRow.at_ms) < until_ms,
        ):
            if condition is not False:
                query = query.where(condition)
        with self._database.reading() as session:
            return tuple(_view(row) for row in session.exec(query))

    def head(self) -> AuditHead:
        """Return the newest row's number and hash."""
        with self._database.reading() as session:
            row = session.exec(select(AuditRow).order_by(col(AuditRow.number).desc()).limit(1)).first()
            return AuditHead(number=row.number, hash=row.hash) if row else AuditHead(number=0, hash=FIRST_PREV_HASH)

    def export(self) -> Iterator[str]:
        """Yield every row as a line of canonical JSON, some at a time: however long the record is, it takes no room."""
        number = 0
        while rows := self.rows(after=number, limit=EXPORT_BATCH):
            yield "".join(f"{line(row)}\n" for row in rows)
            number = rows[-1].number

    def last(self, subject: str) -> AuditView | None:
        """Return the newest row about a subject, or None."""
        query = select(AuditRow).where(col(AuditRow.subject) == subject).order_by(col(AuditRow.number).desc()).limit(1)
        with self._database.reading() as session:
            row = session.exec(query).first()
            return None if row is None else _view(row)


def audited(session: Session, subject: str, after: int | None, limit: int) -> tuple[AuditView, ...]:
    """Return the decisions about a subject by number: those after one, or the newest.

    Those about a device are its own, those for many that changed it, and those about its single-device OTAs.
    """
    number, found = col(AuditRow.number), dict[int, AuditRow]()
    for condition in _about(subject):  # one by one: each has its index
        query = select(AuditRow).where(condition).limit(limit)
        query = query.order_by(number.desc()) if after is None else query.where(number > after).order_by(number)
        found |= {row.number: row for row in session.exec(query)}
    numbers = sorted(found)
    return tuple(_view(found[it]) for it in (numbers[-limit:] if after is None else numbers[:limit]))


def _about(subject: str) -> Iterator[ColumnElement[bool]]:
    yield col(AuditRow.subject) == subject
    kind, _, device_id = subject.partition("/")
    if kind == "device":
        decided, ota = DecidedDeviceRow, OtaRow
        yield col(AuditRow.number).in_(select(decided.number).where(col(decided.device_id) == device_id))
        named = select_columns(literal("ota/").concat(col(ota.id))).where(col(ota.device_id) == device_id)
        yield col(AuditRow.subject).in_(named)


def decided_of(change: Change, decision: AuditRow, device_ids: Sequence[str]) -> None:
    """Have the timelines of these devices tell a decision that was about all of them, within its transaction."""
    rows = [{"number": decision.number, "device_id": device_id} for device_id in device_ids]
    if rows:
        change.session.execute(insert(DecidedDeviceRow), rows)


def audit(change: Change, actor: str, action: str, subject: str, *, before: Any = None, after: Any = None) -> AuditRow:
    """Add a decision to the record, within the transaction that carries it out; values are JSON or dataclasses."""
    last = change.session.exec(select(AuditRow).order_by(col(AuditRow.number).desc()).limit(1)).first()
    origin = ORIGIN.get()
    row = AuditRow(
        number=last.number + 1 if last else 1,
        at_ms=change.now_ms,
        actor=actor,
        action=action,
        subject=subject,
        before=canonical(to_plain(before)),
        after=canonical(to_plain(after)),
        origin=None if origin is None else canonical({name: it for name, it in to_plain(origin).items() if it}),
        prev_hash=last.hash if last else FIRST_PREV_HASH,
        hash="",
    )
    row.hash = row_hash(_view(row))
    change.session.add(row)
    change.session.flush()
    change.say(f"{action}: {subject}, by {actor}", action=action, actor=actor, **_fields_of(change, subject))
    return row


def _fields_of(change: Change, subject: str) -> dict[str, Any]:
    """Return what log lines about a subject say of it beside their words."""
    kind, _, name = subject.partition("/")
    if kind == "release" and (release := change.session.get(ReleaseRow, name)) is not None:
        return {"release_id": name, "label": f"v{release.label}", "product": release.product}
    return {f"{kind}_id": name} if kind in _IN_LINES else {}


def row_hash(row: AuditView) -> str:
    """Return the hash that this row must have."""
    return hash_of(_fields(row))


def line(row: AuditView) -> str:
    """Return a row as a line of an export: canonical JSON of all its fields."""
    return canonical(_fields(row))


def _fields(row: AuditView) -> dict[str, Any]:
    # None is left out of plain values; these two are null in the record.
    return to_plain(row) | {"before": to_plain(row.before), "after": to_plain(row.after)}  # type: ignore[no-any-return]


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
        origin=None if row.origin is None else json.loads(row.origin),
    )
