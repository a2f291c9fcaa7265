"""Bearer tokens, known by their SHA-256 only."""

from __future__ import annotations

from sqlmodel import col, or_, select

from cloud.models import TokenRow
from cloud.store.audit import audit
from cloud.store.engine import Database
from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.values import TokenView
from protocol.errors import IdentityError
from protocol.identity import check_digest, check_id


class Tokens:
    """Who may speak to the API."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, token_sha256: str, *, by: str) -> TokenView:
        """Record a token; ConflictError if the name or the token exists."""
        try:
            check_id(name, "token name"), check_digest(token_sha256, "token")
        except IdentityError as error:
            raise InvalidError(f"{error}; nothing was changed") from None
        with self._database.changing() as change:
            same = select(TokenRow).where(or_(col(TokenRow.name) == name, col(TokenRow.sha256) == token_sha256))
            if change.session.exec(same).first():
                raise ConflictError(f"a token named {name!r} exists already; revoke it or choose another name")
            row = TokenRow(name=name, sha256=token_sha256, created_at_ms=change.now_ms, created_by=by)
            change.session.add(row)
            audit(change, by, "token.added", f"token/{name}")
            return _view(row)

    def find(self, token_sha256: str) -> TokenView | None:
        """Return the token with this SHA-256 unless it was revoked."""
        query = select(TokenRow).where(col(TokenRow.sha256) == token_sha256, col(TokenRow.revoked_at_ms).is_(None))
        with self._database.reading() as session:
            row = session.exec(query).first()
            return _view(row) if row else None

    def revoke(self, name: str, *, by: str) -> None:
        """Revoke a token; NotFoundError."""
        with self._database.changing() as change:
            row = change.session.get(TokenRow, name)
            if row is None:
                raise NotFoundError(f"there is no token named {name!r:.80}; nothing was changed")
            if row.revoked_at_ms is None:
                row.revoked_at_ms = change.now_ms
                change.session.add(row)
                audit(change, by, "token.revoked", f"token/{name}")

    def tokens(self) -> tuple[TokenView, ...]:
        """Return all tokens by name."""
        with self._database.reading() as session:
            return tuple(_view(row) for row in session.exec(select(TokenRow).order_by(col(TokenRow.name))))


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        name=row.name, created_at_ms=row.created_at_ms, created_by=row.created_by, revoked_at_ms=row.revoked_at_ms
    )
