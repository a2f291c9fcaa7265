"""Console sessions, and codes for one login: both known by their SHA-256 only, and forgotten when they end."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete
from sqlmodel import col

from cloud.people import SessionView, UsedCode
from cloud.people_models import LoginCodeRow, PersonRow, SessionRow
from cloud.store.audit import audit
from cloud.store.engine import Change, Database
from cloud.store.people import log_out, person_row

TOUCH_MS: Final = 60_000
"""How exact `seen_at_ms` is."""
CODE_LIFETIME_S: Final = 300


class Sessions:
    """Who is logged in to the console."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(
        self, sha256: str, person: str, csrf: str, address: str, *, lifetime_s: int, until_ms: int | None = None
    ) -> SessionView:
        """Log a person in for so long, not longer than `until_ms`; NotFoundError. What has ended is forgotten."""
        with self._database.changing() as change:
            person_row(change.session, person)
            change.session.execute(delete(SessionRow).where(col(SessionRow.expires_at_ms) <= change.now_ms))
            row = SessionRow(
                sha256=sha256,
                person=person,
                csrf=csrf,
                address=address,
                created_at_ms=change.now_ms,
                seen_at_ms=change.now_ms,
                expires_at_ms=_ending(change.now_ms + lifetime_s * 1000, until_ms),
                until_ms=until_ms,
            )
            change.session.add(row)
            audit(change, person, "person.logged_in", f"person/{person}")
            return _view(row)

    def find(self, sha256: str) -> SessionView | None:
        """Return a session that has not ended, of a person who is not disabled, and note that it is used."""
        with self._database.reading() as session:
            row = session.get(SessionRow, sha256)
            person = session.get(PersonRow, row.person) if row else None
            now_ms = self._database.now_ms()
            if row is None or person is None or person.disabled_at_ms is not None or row.expires_at_ms <= now_ms:
                return None
            found = _view(row)
        if now_ms - found.seen_at_ms < TOUCH_MS:
            return found
        with self._database.changing() as change:
            row = change.session.get(SessionRow, sha256)
            if row is None:
                return None
            row.seen_at_ms = change.now_ms
            change.session.add(row)
            return _view(row)

    def close(self, sha256: str) -> None:
        """Log out of one session, if it is there."""
        with self._database.changing() as change:
            row = change.session.get(SessionRow, sha256)
            if row is not None:
                change.session.delete(row)
                audit(change, row.person, "person.logged_out", f"person/{row.person}")

    def close_all(self, person: str) -> None:
        """Log a person out everywhere."""
        with self._database.changing() as change:
            log_out(change, person)
            audit(change, person, "person.logged_out", f"person/{person}", after={"everywhere": True})

    def add_code(
        self, sha256: str, person: str, *, lifetime_s: int = CODE_LIFETIME_S, until_ms: int | None = None
    ) -> int:
        """Record a code for one login; return until when it is good (milliseconds since 1970). NotFoundError.

        What it opens does not live longer than `until_ms`.
        """
        with self._database.changing() as change:
            person_row(change.session, person)
            _forget_codes(change)
            ends_ms = _ending(change.now_ms + lifetime_s * 1000, until_ms)
            change.session.add(LoginCodeRow(sha256=sha256, person=person, expires_at_ms=ends_ms, until_ms=until_ms))
            audit(change, person, "person.login_code_made", f"person/{person}")
            return ends_ms

    def use_code(self, sha256: str) -> UsedCode | None:
        """Use a code up; return whose it was, or None for one that is not good, or of a person who is disabled."""
        with self._database.changing() as change:
            _forget_codes(change)
            row = change.session.get(LoginCodeRow, sha256)
            if row is None:
                return None
            change.session.delete(row)
            person = change.session.get(PersonRow, row.person)
            if person is None or person.disabled_at_ms is not None:
                return None
            return UsedCode(person=row.person, until_ms=row.until_ms)


def _ending(wanted_ms: int, until_ms: int | None) -> int:
    return wanted_ms if until_ms is None else min(wanted_ms, until_ms)


def _forget_codes(change: Change) -> None:
    change.session.execute(delete(LoginCodeRow).where(col(LoginCodeRow.expires_at_ms) <= change.now_ms))


def _view(row: SessionRow) -> SessionView:
    return SessionView(
        person=row.person,
        csrf=row.csrf,
        address=row.address,
        created_at_ms=row.created_at_ms,
        seen_at_ms=row.seen_at_ms,
        expires_at_ms=row.expires_at_ms,
        until_ms=row.until_ms,
    )
