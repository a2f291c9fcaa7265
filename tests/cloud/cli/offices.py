"""An operator's desk: a home, the server as a real process, and the command as one, or called in this process."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from cloud.cli import main
from protocol.codec import encode
from protocol.topics import Topics
from tests.cloud.homes import MODEL, PRODUCT, hello_of
from tests.support.brokers import free_port
from tests.support.mqtt import Peer
from tests.support.processes import Processes, Started

FLEETLIFT = Path(sys.executable).parent / "fleetlift"
TOPICS = Topics()


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Office:
    """A home with a server; `call` runs a command in this process, `run` as a process of its own."""

    directory: Path
    processes: Processes
    port: int
    broker_port: int
    server: Started | None = None

    @property
    def home(self) -> Path:
        return self.directory / "home"

    def run(self, *arguments: object, timeout_s: float = 60) -> Answer:
        command = [str(FLEETLIFT), *map(str, arguments), *self._home(arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.directory,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def call(self, *arguments: object, expect: int = 0) -> Answer:
        """Run the same `main` as the process does, without its start-up; fails on another exit code."""
        with contextlib.chdir(self.directory):
            answer = Answer(*captured(*arguments, *self._home(arguments)))
        assert answer.code == expect, answer
        assert "Traceback" not in answer.err
        return answer

    def json(self, *arguments: object, expect: int = 0) -> Any:
        return self.call(*arguments, "-o", "json", expect=expect).json

    def start(self, *arguments: object, name: str = "fleetlift") -> Started:
        return self.processes.start(
            FLEETLIFT, *map(str, arguments), *self._home(arguments), name=name, cwd=self.directory
        )

    def serve(self) -> Started:
        self.server = self.start("serve", name="serve")
        self.server.wait_for_line("Ready.", timeout_s=30)
        return self.server

    def application(self, text: str = "print('hello')\n", name: str = "app") -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        (directory / "__main__.py").write_text(text)
        return directory

    @contextmanager
    def device(self, device_id: str, **facts: Any) -> Iterator[Peer]:
        """Have a device join, with nothing behind it but the test."""
        with Peer(self.broker_port, device_id) as peer:
            peer.subscribe(TOPICS.all_down(device_id))
            peer.publish(TOPICS.up(device_id, "hello"), encode(hello_of(**facts)))
            while not peer.receive()[0].endswith("/desired"):
                pass
            yield peer

    def _home(self, arguments: tuple[object, ...]) -> list[str]:
        return [] if "--home" in arguments else ["--home", str(self.home)]


def captured(*arguments: object, typed: str = "") -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, and what it said on both streams."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fleetlift", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main()
    return code, out.getvalue(), err.getvalue()


def make_office(directory: Path, processes: Processes) -> Office:
    """Make a home for the product `thermostat` on free ports; nothing is started."""
    office = Office(directory, processes, free_port(), free_port())
    made = office.call(
        *("init", "--product", PRODUCT, "--hardware", MODEL, "--plain"),
        *("--port", office.port, "--broker-port", office.broker_port),
    )
    assert str(office.home) in made.out
    return office
