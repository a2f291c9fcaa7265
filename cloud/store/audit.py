"""The record of decisions: append-only, each row's hash covering the row before it."""

from __future__ import annotations

from typing import Any

from cloud.store.engine import Database
from cloud.values import AuditView


class Audit:
    """The audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, actor: str, action: str, subject: str, *, before: Any = None, after: Any = None) -> AuditView:
        """Record a decision that changes no row of the store (a new root, a refused login)."""
        raise NotImplementedError

    def rows(self, *, after: int = 0, subject: str | None = None, limit: int = 1000) -> tuple[AuditView, ...]:
        """Return rows by number, those with a higher number than `after`."""
        raise NotImplementedError
