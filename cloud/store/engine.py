"""The database: one engine, one writer at a time, and the schema brought up to date when it is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self


class Database:
    """An open database and the clock that stamps its rows."""

    @classmethod
    def open(cls, url: str, now: Callable[[], float]) -> Self:
        """Open, migrate and return the database; raises StoreError."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError
