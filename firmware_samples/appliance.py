"""What every sample appliance has: a version, a status file, a health port, the SDK, and a quick clean end.

Its surroundings come from the environment, which the agent sets:
    FLEETLIFT_DATA_DIR         where `status.json` is written (default: the working directory)
    FLEETLIFT_HEALTH_PORT      where GET /health answers, on 127.0.0.1 (default: a free port, named in the status file)
    FLEETLIFT_CONTROL_SOCKET   the agent's control socket, read by the SDK (default: no agent)
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import signal
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, Protocol

from device_agent.sdk import Event, Updates, UpdatesError

STATUS: Final = "status.json"
STEP_S: Final = 0.2
STALLED_S: Final = 2.0
"""A main loop that has not come round for so long is not healthy, whatever it thinks."""
MAX_BODY_BYTES: Final = 4096
EVENTS_KEPT: Final = 20
AGENT_TIMEOUT_S: Final = 1.0
DEFERRED_S: Final = 600

Command = Callable[[Mapping[str, Any]], object]


class Application(Protocol):
    """What an appliance is for."""

    def step(self, elapsed_s: float) -> Mapping[str, Any]:
        """Do a fifth of a second's work; return what the status file shows. Called by one thread."""

    def healthy(self, elapsed_s: float) -> bool:
        """Tell whether it does its work, `elapsed_s` after its start."""

    def commands(self) -> Mapping[str, Command]:
        """Return what may be asked over HTTP: by path, functions of the JSON body. Called by other threads."""


@dataclass
class Surroundings:
    """What an application is built from: its version's parameters, the environment and the line to the agent."""

    version: Mapping[str, Any]
    environ: Mapping[str, str]
    updates: Updates


@dataclass
class _Running:
    """One appliance at work: what the main loop and the health port share."""

    version: Mapping[str, Any]
    started_at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    stepped: float = field(default_factory=time.monotonic)
    application: Application | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"steps": 0, "health_checks": 0, "events": 0})
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    ending: threading.Event = field(default_factory=threading.Event)

    def healthy(self) -> bool:
        now = time.monotonic()
        return (
            self.application is not None
            and now - self.stepped < STALLED_S
            and self.application.healthy(now - self.started)
        )

    def hear(self, event: Event) -> None:
        self.counts["events"] += 1
        self.events.append(dict(event))


def run(make: Callable[[Surroundings], Application]) -> None:
    """Run an application until SIGTERM; ends the process with 0, or with 1 and a sentence when it cannot start."""
    running = _Running(_read_version())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.ending.set())
    name = f"{running.version['product']} {running.version['version']}"
    if (reason := running.version["parameters"].get("crashes")) is not None:
        sys.exit(f"{name}: {reason}")
    data_dir = Path(os.environ.get("FLEETLIFT_DATA_DIR", "."))
    image = Path(sys.argv[0]).resolve()  # now: `current` may point elsewhere later
    try:
        server = _HealthServer(int(os.environ.get("FLEETLIFT_HEALTH_PORT", "0")), running)
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(f"{name}: the health port cannot be opened: {error}")
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    for left in data_dir.glob(f".{STATUS}.*"):  # half a status, of a process that was killed
        left.unlink(missing_ok=True)
    with Updates(timeout_s=AGENT_TIMEOUT_S) as updates:
        updates.on("*", running.hear)
        try:
            application = make(Surroundings(running.version, os.environ, updates))
        except ValueError as error:
            sys.exit(f"{name}: {error}")
        running.commands = _update_commands(updates) | dict(application.commands())
        running.application = application
        while not running.ending.wait(STEP_S):
            shown = application.step(time.monotonic() - running.started)
            running.stepped = time.monotonic()
            running.counts["steps"] += 1
            status = _status(running, updates) | {"image": str(image), "health_port": server.server_address[1]}
            _write(data_dir / STATUS, status | dict(shown))
    say(f"{name}: ended after {running.counts['steps']} steps")


def say(text: str) -> None:
    """Write a line to the log. A log that cannot be written, on a full disk say, stops no appliance."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), f"{text}\n".encode())


def _read_version() -> Mapping[str, Any]:
    """Return what the build put into the image: product, version, build and parameters."""
    version: Mapping[str, Any] = json.loads(pkgutil.get_data("firmware_samples", "version.json") or b"")
    return version


def _update_commands(updates: Updates) -> dict[str, Command]:
    return {
        "/updates/disable": lambda body: updates.disable_updates(body.get("until_s"), str(body.get("why", "asked to"))),
        "/updates/enable": lambda _: updates.enable_updates(),
        "/updates/ready": lambda _: updates.ready(),
        "/updates/check": lambda _: updates.check_for_updates(),
        "/updates/confirm": lambda _: updates.confirm(),
        "/updates/consent": lambda _: updates.consent(),
        "/updates/defer": lambda body: updates.defer(float(body.get("seconds", DEFERRED_S))),
        "/updates/decline": lambda _: updates.decline(),
    }


def _status(running: _Running, updates: Updates) -> dict[str, Any]:
    return {
        "product": running.version["product"],
        "version": running.version["version"],
        "build": running.version["build"],
        "pid": os.getpid(),
        "started_at": running.started_at,
        "written_at": time.time(),
        "healthy": running.healthy(),
        "agent_connected": updates.connected,
        "updates_enabled": updates.updates_enabled,
        "updates_pending": updates.updates_pending,
        "updates_forced": updates.updates_forced,
        "attention": updates.attention,
        "events": list(running.events),
        "counts": dict(running.counts),
    }


def _write(path: Path, status: Mapping[str, Any]) -> None:
    """Write the status so that a reader sees the one before or this one, whole.

    Without fsync: five times a second would wear out the flash, and after a power cut the status is stale anyway.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(status, ensure_ascii=False, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:  # a full disk is no reason to stop heating
        say(f"the status was not written: {error}")
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


class _HealthServer(socketserver.ThreadingTCPServer):
    """Answers health checks; on the loopback interface only, for its commands ask nobody's leave."""

    allow_reuse_address = True  # the version before has just ended on this very port
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, port: int, running: _Running) -> None:
        self.running = running
        super().__init__(("127.0.0.1", port), _Requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a peer that went away; report the rest."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Requests(BaseHTTPRequestHandler):
    """GET /health, and POST to the commands."""

    timeout = 2.0
    server: _HealthServer

    def do_GET(self) -> None:
        running = self.server.running
        if self.path != "/health":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "GET /health is all there is to read"})
            return
        running.counts["health_checks"] += 1
        healthy = running.healthy()
        status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, {"healthy": healthy, "version": running.version["version"]})

    def do_POST(self) -> None:
        command = self.server.running.commands.get(self.path)
        if command is None:
            known = ", ".join(self.server.running.commands)
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"POST to one of {known}"})
            return
        try:
            self._answer(HTTPStatus.OK, {"result": command(self._body())})
        except (ValueError, TypeError, UpdatesError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _body(self) -> Mapping[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= MAX_BODY_BYTES:
            raise ValueError(f"the body has at most {MAX_BODY_BYTES} bytes")
        body = json.loads(self.rfile.read(length) or b"{}")
        if not isinstance(body, dict):
            raise ValueError("the body is a JSON object")  # noqa: TRY004 - a value of the wrong shape, from outside
        return body

    def _answer(self, status: HTTPStatus, body: Mapping[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing: the agent asks all day."""
