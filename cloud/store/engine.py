"""The database: one engine, one writer at a time, and the schema brought up to date when it is opened.

SQLite runs in WAL mode with `synchronous=FULL`: what a method returned from is on the disk. Changes take turns on a
lock of this process, then on the database's own (`BEGIN IMMEDIATE`, or PostgreSQL's advisory lock); reads see one
snapshot and wait for nobody. What is one database's own is here and in `cloud.store.postgresql`; the rooms know none.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlmodel import Session

from cloud.models import CounterRow
from cloud.spans import span
from cloud.store.errors import StoreError, UnavailableError
from cloud.store.postgresql import WRITING, postgresql_engines

BUSY_TIMEOUT_MS: Final = 10_000
POOL_SIZE: Final = 32
MIGRATIONS: Final = Path(__file__).parent.parent / "migrations"
PROBE_MS: Final = 1000
"""How long somebody else may hold the database before it counts as not answering."""
MAX_SAID: Final = 20
"""How many of a change's lines its span tells."""
_LOCKED: Final = "the database is locked by another program"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that may change rows, and the time that it stamps them with."""

    session: Session
    now_ms: int
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def say(self, words: str, **fields: Any) -> None:
        """Have the log say this once the change is stored, and not before; `fields` that are None are left out."""
        self.lines.append((words, {name: value for name, value in fields.items() if value is not None}))

    def next_number(self, name: str, count: int = 1) -> int:
        """Return the next number of a counter: 1, 2, ...; of several that are taken at once, the last one."""
        row = self.session.get(CounterRow, name)
        if row is None:
            row = CounterRow(name=name, value=0)
        row.value += count
        self.session.add(row)
        self.session.flush()
        return row.value


class Database:
    """An open database and the clock that stamps its rows."""

    def __init__(self, engine: Engine, writing_engine: Engine, now: Callable[[], float]) -> None:
        self._engine = engine
        self._writing_engine = writing_engine
        self._now = now
        self._one_writer = threading.Lock()
        self._waits_since_s: float | None = None

    @classmethod
    def open(cls, url: str, now: Callable[[], float]) -> Self:
        """Open, migrate and return the database; raises StoreError."""
        database = cls(*_engines(url), now)
        try:
            with database._writing_engine.begin() as connection:
                _migrate(connection, url)
        except (SQLAlchemyError, sqlite3.Error, CommandError) as error:
            database.close()
            raise StoreError(f"the database {_shown(url)} cannot be opened: {_first_line(error)}") from error
        except StoreError:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def now_ms(self) -> int:
        """Return the time in milliseconds since 1970."""
        return int(self._now() * 1000)

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """One transaction that changes rows: all of it happens, or nothing (and the error goes on to the caller)."""
        ended = False
        try:
            with span("store change") as kept:
                with self._turn() as session:
                    change = Change(session, self.now_ms())
                    yield change
                    session.flush()
                    ended = True
                if said := [words for words, _ in change.lines]:
                    kept.note(fleetlift__changes="; ".join(said[:MAX_SAID]))
        except SQLAlchemyError as error:
            lost = _is_lost(error)
            if ended and lost:
                raise UnavailableError(
                    f"the database was lost while a change was being stored: {_first_line(error)}; look whether it was "
                    "made before trying again"
                ) from error
            kind, what = (UnavailableError, "was not reached for") if lost else (StoreError, "refused")
            raise kind(f"the database {what} a change: {_first_line(error)}; nothing was changed") from error
        for words, fields in change.lines:
            _log.info("%s", words, extra=fields)

    @contextmanager
    def _turn(self) -> Iterator[Session]:
        """A transaction that may change rows, once it has its turn: its time is not before that of the one before."""
        with self._one_writer, Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
            self._waits_since_s = time.monotonic()
            try:
                session.connection()
            finally:
                self._waits_since_s = None
            yield session

    def why_not_answering(self) -> str:
        """Return what keeps rows from being read or changed now, in words; nothing if all is well. Takes seconds."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
            if not self._one_writer.acquire(blocking=False):  # a change of ours: waiting for somebody else's?
                since_s = self._waits_since_s
                waits = since_s is not None and 1000 * (time.monotonic() - since_s) > PROBE_MS
                return _LOCKED if waits else ""
            try:
                self._probe()
            finally:
                self._one_writer.release()
        except SQLAlchemyError as error:
            _log.warning("the database does not answer: %s", _first_line(error))
            return "the database does not answer"
        except sqlite3.OperationalError:
            return _LOCKED
        return ""

    def _probe(self) -> None:
        """Have a turn at changing something, and change nothing."""
        if self._engine.dialect.name != "sqlite":
            with self._writing_engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
            return
        raw = self._engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute(f"PRAGMA busy_timeout={PROBE_MS}")
            try:
                cursor.execute("BEGIN IMMEDIATE")
                cursor.execute("ROLLBACK")
            finally:
                cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        finally:
            raw.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One snapshot to read from."""
        try:
            with Session(self._engine, expire_on_commit=False) as session:
                yield session
        except SQLAlchemyError as error:
            kind = UnavailableError if _is_lost(error) else StoreError
            raise kind(f"the database could not be read: {_first_line(error)}") from error


def _engines(url: str) -> tuple[Engine, Engine]:
    """Return what reads and what writes."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("the database URL cannot be read; one looks like sqlite:////var/lib/fleetlift.db") from None
    match parsed.get_backend_name():
        case "sqlite":
            engine = _sqlite(parsed, url)
            return engine, engine.execution_options(**{WRITING: True})
        case "postgresql":
            return postgresql_engines(parsed, POOL_SIZE)
        case other:
            raise StoreError(
                f"{other!r:.40} is no database that is known here; one looks like sqlite:////var/lib/fleetlift.db or "
                "postgresql://user@host/database"
            )


def _sqlite(parsed: URL, url: str) -> Engine:
    if not parsed.database or parsed.database == ":memory:":
        raise StoreError(
            "a store in memory would forget everything; give a file, as in sqlite:////var/lib/fleetlift.db"
        )
    _make_private(Path(parsed.database), url)
    engine = create_engine(parsed, pool_size=POOL_SIZE)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: Path, url: str) -> None:
    """Make the file with mode 0600 before SQLite makes it with another; its journals take over the mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"the database {_shown(url)} cannot be opened: {error.strerror}: {path}") from error


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin below, not by the driver's guess
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _migrate(connection: Connection, url: str) -> None:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = ScriptDirectory.from_config(config)
    there = MigrationContext.configure(connection).get_current_heads()
    revisions = {script.revision for script in known.walk_revisions()}
    if newer := [revision for revision in there if revision not in revisions]:
        raise StoreError(
            f"the database {_shown(url)} was written by a newer version of Fleetlift (schema {', '.join(newer)}; this "
            f"one knows up to {known.get_current_head()}). Nothing was changed. Start the newer version, or restore a "
            "backup from before it was started"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _is_lost(error: SQLAlchemyError) -> bool:
    """Whether the connection broke, or none could be made: that has no statement."""
    return isinstance(error, DBAPIError) and (error.connection_invalidated or error.statement is None)


def _first_line(error: BaseException) -> str:
    cause: Any = getattr(error, "orig", None) or error
    return str(cause).partition("\n")[0]
