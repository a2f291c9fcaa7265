"""A real PostgreSQL for tests: one private cluster for each worker, a database of its own for each test."""

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.support.brokers import missing_service
from tests.support.processes import is_alive, wait_until

USER: Final = "fleetlift"
DEBIAN: Final = Path("/usr/lib/postgresql")
START_TIMEOUT_S: Final = 30.0
# Ends with its parent, however that ends: the pipe closes. A smart shutdown would wait for clients; SIGINT does not.
_WATCHED: Final = '"$@" </dev/null & read -r _; kill -INT $!; wait $!'
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "fsync": "off",  # a test ends processes and never the machine
    "autovacuum": "off",
    "synchronous_commit": "off",  # which the store has to put right
    "lc_messages": "C",
}


def find_postgresql() -> Path | None:
    """Return the directory with `initdb` and `postgres`: on the PATH, else the newest that Debian installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    installed = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(installed, key=lambda path: float(path.parent.name), default=None)


def require_postgresql() -> Path:
    """Return where PostgreSQL's programs are; skip or fail where there are none."""
    found = find_postgresql()
    if found is None:
        missing_service("PostgreSQL is not installed")
    return found


@dataclass
class Cluster:
    """A running server in a directory of its own, on a unix socket there; nobody else's account can open it.

    It does not run as root, so root lends it the account `nobody`. Texts are not sorted byte by byte there by default,
    as in most installations.
    """

    programs: Path
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is set otherwise than for tests in general."""
    _child: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def log_path(self) -> Path:
        """What the server said."""
        return self.directory / "server.log"

    @cached_property
    def _account(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def make(self) -> None:
        """Make the cluster."""
        if self._account:
            os.chown(self.directory, self._account["user"], self._account["group"])
        command: list[str | Path] = [self.programs / "initdb", "-D", self.directory / "data", "-U", USER]
        locale = [
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--locale-provider=icu",
            "--icu-locale=en",
        ]
        made = subprocess.run(
            [*command, *locale], capture_output=True, text=True, cwd="/", check=False, timeout=60, **self._account
        )
        assert made.returncode == 0, made.stderr

    def private(self, name: str, content: bytes) -> Path:
        """Write a file that the server alone reads."""
        path = self.directory / name
        path.touch(0o600)
        path.write_bytes(content)
        if self._account:
            os.chown(path, self._account["user"], self._account["group"])
        return path

    def start(self) -> None:
        """Start the server; returns when it lets clients in."""
        settings = {**_SETTINGS, **self.settings, "unix_socket_directories": str(self.directory)}
        command: list[str | Path] = [self.programs / "postgres", "-D", self.directory / "data"]
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "sh", *command, *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                **self._account,
            )
        wait_until(self._answers, START_TIMEOUT_S, "PostgreSQL letting clients in")

    def stop(self) -> None:
        """End the server at once, breaking its connections; what was committed stays."""
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            self._child.wait(START_TIMEOUT_S)
            self._child = None

    def url(self, database: str) -> str:
        """The address of a database, as in the server's settings."""
        port = self.settings.get("port")
        return f"postgresql://{USER}@/{database}?host={self.directory}" + (f"&port={port}" if port else "")

    def create(self, template: str = "template1") -> str:
        """Make a database, empty or as a copy of another that nobody uses now; return its name."""
        name = f"test_{next(self._names)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database; whoever uses it is thrown out."""
        self.run(f"DROP DATABASE {database} WITH (FORCE)")

    def connect(self, database: str) -> psycopg.Connection[dict[str, Any]]:
        """A connection past the store, each statement a transaction; close it."""
        return psycopg.connect(self.url(database), autocommit=True, row_factory=psycopg.rows.dict_row)

    def run(self, statement: str, *values: object, database: str = "postgres") -> list[dict[str, Any]]:
        """Run one statement by a connection of its own, past the store; return its rows."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        assert self._child is not None
        assert is_alive(self._child.pid), self.log_path.read_text()
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.run("SELECT 1"))
        return False


@contextlib.contextmanager
def running_cluster(prepare: Callable[[Cluster], Mapping[str, str]] = lambda _: {}) -> Iterator[Cluster]:
    """A cluster that runs, and is gone afterwards; skips or fails where there is no PostgreSQL.

    `prepare` is given it before it starts, and returns settings of its own.
    """
    programs = require_postgresql()
    # Not pytest's directory, which no other account can enter; and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="fleetlift-pg-") as directory:
        cluster = Cluster(programs, Path(directory))
        try:
            cluster.make()
            cluster.settings = prepare(cluster)
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """The worker's cluster, from the first test that wants one."""
    with running_cluster() as cluster:
        yield cluster
