"""API tokens, known by their SHA-256 only: each belongs to a person, and may do no more than they may."""

from __future__ import annotations

import logging
from typing import Final

from sqlmodel import Session, col, or_, select

from cloud.access.roles import EVERYTHING, Caller, Role, Scope
from cloud.models import TokenRow
from cloud.store.audit import audit
from cloud.store.engine import Database
from cloud.store.errors import ConflictError, InvalidError, NotFoundError, StoreError
from cloud.store.lookup import checking, product_row
from cloud.store.people import caller_of, person_row
from cloud.values import TokenView
from protocol.identity import check_digest, check_id

_log = logging.getLogger(__name__)

TOUCH_MS: Final = 60_000
"""How exact `used_at_ms` is."""


class Tokens:
    """Who may speak to the API."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        name: str,
        token_sha256: str,
        *,
        person: str,
        role: Role = Role.ADMIN,
        product: str = EVERYTHING,
        expires_at_ms: int | None = None,
        by: str,
    ) -> TokenView:
        """Record a token; ConflictError if the name or the token exists, NotFoundError for person and product."""
        with checking():
            check_id(name, "token name"), check_digest(token_sha256, "token")
        with self._database.changing() as change:
            person_row(change.session, person)
            if product != EVERYTHING:
                product_row(change.session, product)
            if expires_at_ms is not None and expires_at_ms <= change.now_ms:
                raise InvalidError("a token that expires in the past is good for nothing; nothing was changed")
            same = select(TokenRow).where(or_(col(TokenRow.name) == name, col(TokenRow.sha256) == token_sha256))
            if change.session.exec(same).first():
                raise ConflictError(f"a token named {name!r} exists already; revoke it or choose another name")
            row = TokenRow(
                name=name,
                sha256=token_sha256,
                person=person,
                role=role.value,
                product=product,
                expires_at_ms=expires_at_ms,
                created_at_ms=change.now_ms,
                created_by=by,
            )
            change.session.add(row)
            after = {"person": person, "role": role.value, "product": product, "expires_at_ms": expires_at_ms}
            audit(change, by, "token.added", f"token/{name}", after=after)
            return _view(row)

    def find(self, token_sha256: str) -> TokenView | None:
        """Return the token with this SHA-256, unless it was revoked, has expired, or its person is disabled."""
        with self._database.reading() as session:
            found = self._found(session, token_sha256)
            return None if found is None else _view(found[0])

    def caller(self, token_sha256: str) -> Caller | None:
        """Return who shows the token with this SHA-256, as `find`, and note that it is used."""
        with self._database.reading() as session:
            found = self._found(session, token_sha256)
        if found is None:
            return None
        row, caller = found
        if row.used_at_ms is None or self._database.now_ms() - row.used_at_ms >= TOUCH_MS:
            self._touch(row.name)
        return caller

    def token(self, name: str) -> TokenView:
        """Return one; NotFoundError."""
        with self._database.reading() as session:
            return _view(_row(session, name))

    def revoke(self, name: str, *, by: str) -> TokenView:
        """Revoke a token; NotFoundError."""
        with self._database.changing() as change:
            row = _row(change.session, name)
            if row.revoked_at_ms is None:
                row.revoked_at_ms = change.now_ms
                change.session.add(row)
                audit(change, by, "token.revoked", f"token/{name}")
            return _view(row)

    def tokens(self, person: str | None = None) -> tuple[TokenView, ...]:
        """Return all tokens, or a person's, by name."""
        query = select(TokenRow).order_by(col(TokenRow.name))
        if person is not None:
            query = query.where(col(TokenRow.person) == person)
        with self._database.reading() as session:
            return tuple(_view(row) for row in session.exec(query))

    def _found(self, session: Session, token_sha256: str) -> tuple[TokenRow, Caller] | None:
        query = select(TokenRow).where(col(TokenRow.sha256) == token_sha256, col(TokenRow.revoked_at_ms).is_(None))
        row = session.exec(query).first()
        if row is None or (row.expires_at_ms is not None and row.expires_at_ms <= self._database.now_ms()):
            return None
        scope = Scope(role=Role(row.role), product=row.product)
        caller = caller_of(session, row.person, scope, row.name, row.expires_at_ms)
        return None if caller is None else (row, caller)

    def _touch(self, name: str) -> None:
        """Note that a token is used. A database that cannot be written to now can still be read from."""
        try:
            with self._database.changing() as change:
                row = change.session.get_one(TokenRow, name)
                row.used_at_ms = change.now_ms
                change.session.add(row)
        except StoreError as error:
            _log.warning("it was not noted that the token %s is used: %s", name, error)


def _row(session: Session, name: str) -> TokenRow:
    row = session.get(TokenRow, name)
    if row is None:
        raise NotFoundError(f"there is no token named {name!r:.80}; nothing was changed")
    return row


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        name=row.name,
        person=row.person,
        role=Role(row.role),
        product=row.product,
        expires_at_ms=row.expires_at_ms,
        used_at_ms=row.used_at_ms,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        revoked_at_ms=row.revoked_at_ms,
    )
