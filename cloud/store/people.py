"""People: who may do what. Somebody always stays an enabled administrator of everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import delete
from sqlmodel import Session, col, select

from cloud.access.roles import EVERYTHING, Caller, Role, Scope
from cloud.people import PersonView
from cloud.people_models import GrantRow, LoginCodeRow, PersonRow, SessionRow
from cloud.store.audit import audit
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.store.lookup import checking, product_row
from protocol.identity import check_id

RESERVED: Final = frozenset({"server", "init", "server-machine"})
"""What the record of decisions calls those who are no person."""
_ALL: Final = (EVERYTHING, Role.ADMIN.value)


class People:
    """Who may do what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def people(self) -> tuple[PersonView, ...]:
        """Return everybody by name."""
        with self._database.reading() as session:
            rows = session.exec(select(PersonRow).order_by(col(PersonRow.name))).all()
            return tuple(_view(session, row) for row in rows)

    def person(self, name: str) -> PersonView:
        """Return one; NotFoundError."""
        with self._database.reading() as session:
            return _view(session, person_row(session, name))

    def caller(self, name: str) -> Caller | None:
        """Return a person with all that they may, or None for one who is not known, or disabled."""
        with self._database.reading() as session:
            return caller_of(session, name)

    def password_of(self, name: str) -> str | None:
        """Return the hash of a password; None where nobody can log in with one."""
        with self._database.reading() as session:
            row = session.get(PersonRow, name)
            return row.password if row is not None and row.disabled_at_ms is None else None

    def add(self, name: str, grants: Mapping[str, Role], *, by: str) -> PersonView:
        """Make a person known; ConflictError for a name that is taken, InvalidError, NotFoundError for a product."""
        with checking():
            check_id(name, "person's name")
        if name in RESERVED:
            raise InvalidError(f"{name} is no person's name: it stands for the server itself; nothing was changed")
        with self._database.changing() as change:
            if change.session.get(PersonRow, name) is not None:
                raise ConflictError(f"there is a person {name} already; nothing was changed")
            row = PersonRow(name=name, created_at_ms=change.now_ms, created_by=by)
            change.session.add(row)
            change.session.flush()
            for product, role in grants.items():
                _grant(change, name, product, role, by)
            change.session.flush()
            audit(change, by, "person.added", f"person/{name}", after={"grants": dict(grants)})
            return _view(change.session, row)

    def grant(self, name: str, product: str, role: Role, *, by: str) -> PersonView:
        """Give a person a role for a product or `*`, instead of the one that they had; NotFoundError, ConflictError."""
        with self._database.changing() as change:
            row = person_row(change.session, name)
            there = change.session.get(GrantRow, (name, product))
            before = there.role if there else None
            if before != role.value:
                _grant(change, name, product, role, by)
                if (product, before) == _ALL:
                    _check_somebody_is_left(change, name)
                changed = {"before": {product: before}, "after": {product: role.value}}
                audit(change, by, "person.granted", f"person/{name}", **changed)
            return _view(change.session, row)

    def withdraw(self, name: str, product: str, *, by: str) -> PersonView:
        """Take a person's role for a product or `*` away; NotFoundError where they have none, ConflictError."""
        with self._database.changing() as change:
            row = person_row(change.session, name)
            there = change.session.get(GrantRow, (name, product))
            if there is None:
                raise NotFoundError(f"{name} has no role for {product!r:.80}; nothing was changed")
            change.session.delete(there)
            if (product, there.role) == _ALL:
                _check_somebody_is_left(change, name)
            audit(change, by, "person.withdrawn", f"person/{name}", before={product: there.role})
            return _view(change.session, row)

    def disable(self, name: str, *, by: str) -> PersonView:
        """Shut a person out: password, sessions and tokens open nothing any more; NotFoundError, ConflictError."""
        with self._database.changing() as change:
            row = person_row(change.session, name)
            if row.disabled_at_ms is None:
                row.disabled_at_ms = change.now_ms
                change.session.add(row)
                if _grants(change.session, name).get(EVERYTHING) is Role.ADMIN:
                    _check_somebody_is_left(change, name)
                log_out(change, name)
                audit(change, by, "person.disabled", f"person/{name}")
            return _view(change.session, row)

    def enable(self, name: str, *, by: str) -> PersonView:
        """Let a person in again, with the roles and tokens that they had; NotFoundError."""
        with self._database.changing() as change:
            row = person_row(change.session, name)
            if row.disabled_at_ms is not None:
                row.disabled_at_ms = None
                change.session.add(row)
                audit(change, by, "person.enabled", f"person/{name}")
            return _view(change.session, row)

    def set_password(self, name: str, password: str | None, *, by: str) -> PersonView:
        """Set the hash that a person logs in by, or take it away; every session of theirs ends. NotFoundError."""
        with self._database.changing() as change:
            row = person_row(change.session, name)
            row.password = password
            change.session.add(row)
            log_out(change, name)
            audit(change, by, "person.password_set" if password else "person.password_removed", f"person/{name}")
            return _view(change.session, row)


def person_row(session: Session, name: str) -> PersonRow:
    """Return the person; NotFoundError."""
    row = session.get(PersonRow, name)
    if row is None:
        raise NotFoundError(f"there is no person {name!r:.80}; nothing was changed")
    return row


def caller_of(
    session: Session, name: str, scope: Scope | None = None, token: str = "", until_ms: int | None = None
) -> Caller | None:
    """Return who asks, unless they are not known, or disabled."""
    row = session.get(PersonRow, name)
    if row is None or row.disabled_at_ms is not None:
        return None
    return Caller(name=name, grants=_grants(session, name), scope=scope or Scope(), token=token, until_ms=until_ms)


def log_out(change: Change, name: str) -> None:
    """End every console session of a person, and what could open another."""
    change.session.execute(delete(SessionRow).where(col(SessionRow.person) == name))
    change.session.execute(delete(LoginCodeRow).where(col(LoginCodeRow.person) == name))


def _grant(change: Change, name: str, product: str, role: Role, by: str) -> None:
    if product != EVERYTHING:
        product_row(change.session, product)
    change.session.merge(
        GrantRow(person=name, product=product, role=role.value, granted_at_ms=change.now_ms, granted_by=by)
    )


def _check_somebody_is_left(change: Change, name: str) -> None:
    change.session.flush()
    query = (
        select(PersonRow.name)
        .join(GrantRow, col(GrantRow.person) == col(PersonRow.name))
        .where(col(PersonRow.disabled_at_ms).is_(None))
        .where(col(GrantRow.product) == EVERYTHING, col(GrantRow.role) == Role.ADMIN.value)
    )
    if change.session.exec(query).first() is None:
        raise ConflictError(
            f"{name} is the last administrator of everything; nothing was changed. Make somebody else one first"
        )


def _grants(session: Session, name: str) -> dict[str, Role]:
    rows = session.exec(select(GrantRow).where(col(GrantRow.person) == name).order_by(col(GrantRow.product)))
    return {row.product: Role(row.role) for row in rows}


def _view(session: Session, row: PersonRow) -> PersonView:
    return PersonView(
        name=row.name,
        grants=_grants(session, row.name),
        has_password=row.password is not None,
        disabled_at_ms=row.disabled_at_ms,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
    )
