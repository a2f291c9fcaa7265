"""What is still to be told: a set of messages to compute from the truth, marked in the transaction that changed it."""

from __future__ import annotations

from cloud.store.engine import Database
from cloud.values import OutboxItem, OutboxKind


class Outbox:
    """The dirty set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, limit: int = 100) -> tuple[OutboxItem, ...]:
        """Return what is to be told, oldest first; it stays until it is settled."""
        raise NotImplementedError

    def settle(self, item: OutboxItem) -> bool:
        """Strike an item out; False if it changed since it was taken, so that it must be told again."""
        raise NotImplementedError

    def mark(self, kind: OutboxKind, key: str) -> None:
        """Have something told again (a new bundle, a notice that somebody lacks)."""
        raise NotImplementedError
