"""The journal's file: one SQLite database of one process, durable at every commit, never of a newer schema.

1. A commit that returned survives a power cut (`synchronous=FULL`, in a write-ahead log); one that raised changed
   nothing. `transaction()` nests: what is written inside the outermost one is stored together or not at all.
2. One process: a second one on the same state directory is refused by a lock that dies with its holder.
3. A file that is damaged is set aside, never deleted, and a new one begun: a device must run, with or without memory.
4. A row that nobody wrote so (a bit fell over where SQLite has no check) is removed when the file is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from device_agent.slots.durable import sync_directory
from protocol.errors import FleetliftError, UserError
from protocol.identity import MAX_INTEGER

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE told (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE seen (channel TEXT PRIMARY KEY, seq INTEGER NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE failed (digest TEXT PRIMARY KEY, "order" INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE backing_off (digest TEXT PRIMARY KEY, failures INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE floors (component TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE installed (component TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE refused (code TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (
    image TEXT NOT NULL, blob TEXT NOT NULL, bitmap BLOB NOT NULL, PRIMARY KEY (image, blob)
) WITHOUT ROWID;
CREATE TABLE chunk_lists (blob TEXT PRIMARY KEY, image TEXT NOT NULL, content BLOB NOT NULL);
"""
_TEXT: Final = "typeof({}) != 'text'"
_BLOB: Final = "typeof({}) != 'blob'"
_NUMBER: Final = f"typeof({{0}}) != 'integer' OR {{0}} NOT BETWEEN 0 AND {MAX_INTEGER}"
_ROWS: Final = {
    "facts": {"name": _TEXT, "value": _TEXT},
    "entries": {"seq": _NUMBER, "body": _TEXT},
    "told": {"seq": _NUMBER, "body": _TEXT},
    "seen": {"channel": _TEXT, "seq": _NUMBER, "payload": _BLOB},
    "failed": {"digest": _TEXT, '"order"': _NUMBER, "number": _NUMBER},
    "backing_off": {"digest": _TEXT, "failures": _NUMBER, "at_ms": _NUMBER},
    "floors": {"component": _TEXT, "seq": _NUMBER},
    "installed": {"component": _TEXT, "body": _TEXT},
    "refused": {"code": _TEXT, "count": _NUMBER},
    "chunks": {"image": _TEXT, "blob": _TEXT, "bitmap": _BLOB},
    "chunk_lists": {"blob": _TEXT, "image": _TEXT, "content": _BLOB},
}
"""Of each table's columns, what no agent wrote there."""
_LOG = logging.getLogger(__name__)


class JournalError(FleetliftError):
    """The journal could not be read or written; what was to be written was not."""

    code = "not_stored"


class ProcessLock:
    """Lets one agent run on a state directory; raises UserError for the second."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"the state directory {path.parent} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise UserError(
                f"another agent runs on {path.parent}; nothing was changed. Stop it first, or use another state_dir",
                exit_code=5,
            ) from None

    def release(self) -> None:
        """Let another agent run; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Database:
    """The journal's tables. Thread-safe: a transaction has the database for itself."""

    def __init__(self, path: Path) -> None:
        self.guard = threading.RLock()
        self._depth = 0
        self.before_commit: Callable[[], None] | None = None
        try:
            self._connection = _opened(path)
        except sqlite3.OperationalError as error:  # locked, full, unreadable: the file may be good
            raise JournalError(f"the journal {path} cannot be opened: {error}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite quotes what it found
            aside = _set_aside(path)
            _LOG.error("the journal %s is damaged (%s); it is kept as %s, and a new one begun", path, error, aside)
            self._connection = _opened(path)
        sync_directory(path.parent)
        self._mend()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Store everything written inside together; raises JournalError if it could not be, and then nothing is."""
        with self.guard:
            outermost = self._depth == 0
            if outermost:
                self._execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if outermost:
                    if self.before_commit is not None:
                        self.before_commit()
                    self._execute("COMMIT")
            except BaseException:
                if outermost:
                    with contextlib.suppress(sqlite3.Error):  # already rolled back, as after a full disk
                        self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def write(self, statement: str, *values: Any) -> None:
        """Execute one statement in the transaction under way, or in one of its own; raises JournalError."""
        with self.transaction():
            self._execute(statement, *values)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return a query's rows; raises JournalError."""
        with self.guard:
            cursor = self._execute(statement, *values)
            try:
                return cursor.fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file; idempotent."""
        with self.guard:
            self._connection.close()

    def _mend(self) -> None:
        with self.transaction():
            for table, columns in _ROWS.items():
                garbled = " OR ".join(condition.format(name) for name, condition in columns.items())
                if count := self._execute(f"DELETE FROM {table} WHERE {garbled}").rowcount:  # noqa: S608 - ours alone
                    _LOG.error("the journal's table %s had %d rows that nobody wrote; they are removed", table, count)

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise JournalError(f"the journal refused: {error}") from error


def _opened(path: Path) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.text_factory = lambda text: text.decode(errors="replace")
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if _checked_version(path, connection) == 0:
            connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _checked_version(path: Path, connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise UserError(
            f"the journal {path} was written by a newer agent (schema {version}, this one knows {SCHEMA_VERSION}); "
            "nothing was changed. Install that agent again, or use another state_dir"
        )
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("its check failed")
    if version == SCHEMA_VERSION:
        with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(SCHEMA)
            if _tables(connection) != _tables(fresh):
                raise sqlite3.DatabaseError("its tables are not those of an agent")
    return version


def _tables(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
