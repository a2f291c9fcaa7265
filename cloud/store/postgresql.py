"""PostgreSQL in the store's manners: one writer among all servers, one snapshot for each reader, nothing in the clear.

A change first takes an advisory lock of the database, which ends with its transaction (PostgreSQL, "Explicit Locking"):
whoever comes after it sees what it did, so numbers have neither gaps nor doubles, as with SQLite's single writer.
"""

from __future__ import annotations

import os
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from cloud.config import is_loopback
from cloud.store.errors import StoreError

WRITING: Final = "fleetlift_writing"
"""The execution option of a connection that may change rows."""
WRITER_LOCK: Final = 0x666C656574  # "fleet"
LOCK_TIMEOUT_MS: Final = 10_000
CONNECT_TIMEOUT_S: Final = 10
SILENCE_TIMEOUT_MS: Final = 30_000
"""How long TCP waits for a server that answers nothing any more before the connection counts as lost."""
_DRIVER: Final = "postgresql+psycopg"
_VERIFIED: Final = ("verify-ca", "verify-full")


def postgresql_engines(url: URL, pool_size: int) -> tuple[Engine, Engine]:
    """Return what reads and what writes, over one pool; raises StoreError for an address that is not to be used."""
    _check(url)
    limits: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": SILENCE_TIMEOUT_MS,
        "application_name": "fleetlift",
    }
    try:
        engine = create_engine(
            url.set(drivername=_DRIVER),
            pool_size=pool_size,
            pool_pre_ping=True,  # what a restart of the database broke is replaced before it is used
            connect_args={name: value for name, value in limits.items() if name not in url.query},
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            "PostgreSQL needs a library that is not installed: pip install 'fleetlift[postgres]'"
        ) from error
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _take_turn)
    event.listen(engine, "before_cursor_execute", _replace_nul, retval=True)
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    # What a change reads is what was committed before it had its turn: the lock is its first statement, so a snapshot
    # for the whole transaction would be one from before.
    writing = engine.execution_options(isolation_level="READ COMMITTED", **{WRITING: True})
    return reading, writing


def _check(url: URL) -> None:
    if url.drivername not in ("postgresql", _DRIVER):
        raise StoreError(f"{url.drivername!r:.40} is not spoken here; one says postgresql://user@host/database")
    if "password" in url.query:
        raise StoreError("a password in a database URL's query is shown in logs; name a file: ?passfile=/path")
    sslmode = url.query.get("sslmode") or os.environ.get("PGSSLMODE")
    if sslmode not in _VERIFIED and not _is_local(url):
        raise StoreError(
            "a database on another machine is spoken to only over TLS, with its certificate checked: add "
            "?sslmode=verify-full&sslrootcert=/path/to/ca.crt to its URL"
        )


def _is_local(url: URL) -> bool:
    """Whether every host is this machine by its name, its address, or a socket's directory."""
    hosts = [url.host or "", *_listed(url, "host"), *_listed(url, "hostaddr")]
    named = [name for name in hosts if name] or [os.environ.get("PGHOST", "")]
    return "service" not in url.query and all(
        not name or name.startswith("/") or is_loopback(name) or is_loopback(name.rpartition(":")[0]) for name in named
    )


def _listed(url: URL, key: str) -> list[str]:
    found = url.query.get(key, ())
    return [name for item in ((found,) if isinstance(found, str) else found) for name in item.split(",")]


def _set_up(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        (encoding,) = cursor.execute("SHOW server_encoding").fetchone()
        if encoding != "UTF8":
            connection.close()
            raise StoreError(f"the database's encoding is {encoding}, not UTF8; nothing was changed")
        cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        # What a method returned from is on the disk, whatever the server's own default.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _take_turn(connection: Connection) -> None:
    if connection.get_execution_options().get(WRITING, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


def _replace_nul(
    _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    """Replace U+0000 in texts: a device may say it, PostgreSQL stores it nowhere, and the rest is not to be lost."""
    sets = parameters if isinstance(parameters, list) else [parameters]
    if not any(isinstance(value, str) and "\0" in value for one in sets for value in one.values()):
        return statement, parameters
    clean = [{k: v.replace("\0", "\ufffd") if isinstance(v, str) else v for k, v in one.items()} for one in sets]
    return statement, clean if isinstance(parameters, list) else clean[0]
