"""Bearer tokens, known by their SHA-256 only."""

from __future__ import annotations

from cloud.store.engine import Database
from cloud.values import TokenView


class Tokens:
    """Who may speak to the API."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, token_sha256: str, *, by: str) -> TokenView:
        """Record a token; ConflictError if the name or the token exists."""
        raise NotImplementedError

    def find(self, token_sha256: str) -> TokenView | None:
        """Return the token with this SHA-256 unless it was revoked."""
        raise NotImplementedError

    def revoke(self, name: str, *, by: str) -> None:
        """Revoke a token; NotFoundError."""
        raise NotImplementedError

    def tokens(self) -> tuple[TokenView, ...]:
        """Return all tokens by name."""
        raise NotImplementedError
