"""A stand-in for the agent behind its control socket: the real server, and a handler that remembers.

As a child (`python -m tests.device_agent.stand_in SOCKET`) it serves until it is killed, and says `serving` first.
"""

import json
import os
import queue
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from device_agent import sdk
from device_agent.control import ControlServer, Hold
from protocol.errors import UserError
from tests.support.processes import Started

TIMEOUT_S = 10.0
PENDING = {"component": "app", "version": "1.1.0", "mandatory": False, "forced": False}


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float) -> None:
        self.time = now

    def __call__(self) -> float:
        return self.time


class StandInAgent:
    """Implements ControlHandler: keeps the state that a real agent journals, and tells a test what it heard."""

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.clocks = (now, monotonic)
        self.enabled = True
        self.forced = False
        self.pending: dict[str, Any] | None = None
        self.more_status: dict[str, Any] = {}
        self.decisions: list[dict[str, Any]] = []
        self.heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.hold_changes: queue.SimpleQueue[tuple[Hold, ...]] = queue.SimpleQueue()
        self.failure: Exception | None = None
        self.server = ControlServer(path, self, now, monotonic=monotonic)

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.server.stop()

    def restart(self) -> None:
        """Stop, and serve again: what a restart of the agent looks like from outside."""
        self.server.stop()
        self.server = ControlServer(self.path, self, self.clocks[0], monotonic=self.clocks[1])
        self.server.start()

    def next_heard(self) -> tuple[str, Any]:
        return self.heard.get(timeout=TIMEOUT_S)

    def next_holds(self) -> tuple[Hold, ...]:
        return self.hold_changes.get(timeout=TIMEOUT_S)

    def offer(self, **changed: Any) -> None:
        """Have an update wait, as a release does."""
        self.pending = PENDING | changed
        self.server.publish({"event": "firmware_update_pending", **self.pending})

    # ControlHandler

    def status(self) -> dict[str, Any]:
        state = {"updates_enabled": self.enabled, "updates_forced": self.forced, "pending": self.pending}
        return state | self.more_status

    def disable(self, until: float | None, why: str) -> None:
        self._hear("disable", (until, why))
        self.enabled = False
        self.server.publish({"event": "updates_disabled"})

    def enable(self) -> None:
        self._hear("enable", None)
        self.enabled = True
        self.server.publish({"event": "updates_enabled"})

    def check(self) -> None:
        self._hear("check", None)

    def confirm(self) -> None:
        self._hear("confirm", None)

    def ready(self) -> None:
        self._hear("ready", None)

    def data_synced(self, synced: bool) -> None:
        self._hear("data_synced", synced)

    def gauge(self, name: str, value: int, component: str | None) -> None:
        self._hear("gauge", (name, value, component))

    def consent(self, component: str | None) -> None:
        self._hear("consent", component)

    def defer(self, seconds: int, component: str | None) -> float:
        self._hear("defer", (seconds, component))
        return self.clocks[0]() + seconds

    def decline(self, component: str | None) -> None:
        self._hear("decline", component)

    def why(self, component: str | None) -> list[dict[str, Any]]:
        self._hear("why", component)
        return self.decisions

    def holds_changed(self, holds: tuple[Hold, ...]) -> None:
        self.hold_changes.put(holds)

    def _hear(self, what: str, detail: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.heard.put((what, detail))


class LineClient:
    """A peer of the control socket that says exactly what it is told to."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(path))
        self._lines = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """Return the next line; None when the connection is closed."""
        line = self._lines.readline()
        return json.loads(line) if line else None

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        self.send(json.dumps({"op": operation, "id": 1, **fields}).encode() + b"\n")
        answer = self.receive()
        assert answer is not None, "the connection was closed instead of an answer"
        return answer


class Listener:
    """A handler that lets a test wait for what it is told."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[sdk.Event] = queue.SimpleQueue()

    def __call__(self, event: sdk.Event) -> None:
        self.told.put(event)

    def next(self) -> dict[str, Any]:
        return dict(self.told.get(timeout=TIMEOUT_S))


def freeze(child: Started) -> None:
    """Stop a child without ending it (SIGSTOP), and return when the kernel says that it stands."""
    child.process.send_signal(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)


def main() -> None:
    agent = StandInAgent(Path(sys.argv[1]))
    agent.failure = UserError("not today") if "--refuse" in sys.argv else None
    with agent:
        print("serving", flush=True)  # noqa: T201 - what the parent waits for
        signal.pause()


if __name__ == "__main__":
    main()
