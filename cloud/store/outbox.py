"""What is still to be told: a set of messages to compute from the truth, marked in the transaction that changed it.

A row says "this may be out of date out there". Whoever publishes takes it, computes the message from the store, sends
it and settles the row; if the truth changed meanwhile the row has another revision, and is told once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert
from sqlmodel import col, select

from cloud.models import OutboxRow
from cloud.store.engine import Change, Database
from cloud.store.lookup import batches
from cloud.values import OutboxItem, OutboxKind


class Outbox:
    """The dirty set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, limit: int = 100, kind: OutboxKind | None = None) -> tuple[OutboxItem, ...]:
        """Return what is to be told, oldest first, of one kind if it is given; it stays until it is settled."""
        query = select(OutboxRow).order_by(col(OutboxRow.revision), col(OutboxRow.key)).limit(limit)
        if kind is not None:
            query = query.where(col(OutboxRow.kind) == kind.value)
        with self._database.reading() as session:
            return tuple(OutboxItem(OutboxKind(row.kind), row.key, row.revision) for row in session.exec(query))

    def depth(self) -> dict[OutboxKind, int]:
        """Return how much is to be told, of each kind."""
        query = select(OutboxRow.kind, func.count()).group_by(col(OutboxRow.kind))
        with self._database.reading() as session:
            found = dict(iter(session.exec(query)))
        return {kind: found.get(kind.value, 0) for kind in OutboxKind}

    def settle(self, item: OutboxItem) -> bool:
        """Strike an item out; False if it changed since it was taken, so that it must be told again."""
        with self._database.changing() as change:
            row = change.session.get(OutboxRow, (item.kind.value, item.key))
            if row is None or row.revision != item.revision:
                return False
            change.session.delete(row)
            return True

    def mark(self, kind: OutboxKind, key: str) -> None:
        """Have something told again (a new bundle, a notice that somebody lacks)."""
        with self._database.changing() as change:
            mark(change, kind, [key])


def mark(change: Change, kind: OutboxKind, keys: Sequence[str]) -> None:
    """Mark messages as out of date, within the transaction that makes them so."""
    revision = change.next_number("revision") if keys else 0
    for some in batches(sorted(set(keys))):
        marked = delete(OutboxRow).where(col(OutboxRow.kind) == kind.value, col(OutboxRow.key).in_(some))
        change.session.execute(marked)
        rows = [{"kind": kind.value, "key": key, "revision": revision} for key in some]
        change.session.execute(insert(OutboxRow), rows)
