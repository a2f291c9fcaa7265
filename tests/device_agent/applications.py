"""Applications for tests: shell scripts as images, run by real supervisors, and what they say in files."""

import hashlib
import queue
from pathlib import Path
from typing import Any

from device_agent.application import Application
from device_agent.supervision import Exit, RestartPolicy
from tests.support.processes import wait_until

TIMEOUT_S = 20.0
AT_ONCE = RestartPolicy(first_s=0.0, longest_s=0.0)

STEADY = "echo $$ > pid; while :; do sleep 1000; done"
"""Says its number and stays; its child, the sleep, is of its group."""


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def write(path: Path, script: str) -> Path:
    path.write_text(script + "\n", encoding="ascii")
    return path


def make_application(directory: Path, *command: str, **settings: Any) -> Application:
    """Return a supervisor that runs `/bin/sh IMAGE` (or a command) in `directory`/data."""
    return Application(command or ("/bin/sh", "{image}"), directory / "state", directory / "data", **settings)


def start(application: Application, image: Path, **settings: Any) -> str:
    return application.start(
        image,
        digest=settings.get("digest") or digest(image),
        environment=settings.get("environment", {}),
        keep_up=settings.get("keep_up", False),
    )


def exits(application: Application) -> "queue.SimpleQueue[Exit]":
    seen: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    application.exited(seen.put)
    return seen


def said(path: Path) -> str:
    """Return what a process wrote into a file, once it has written a whole line."""
    wait_until(lambda: path.exists() and path.read_text(encoding="ascii").endswith("\n"), TIMEOUT_S, f"{path.name}")
    return path.read_text(encoding="ascii").strip()


def started_pid(data: Path) -> int:
    pid = int(said(data / "pid"))
    (data / "pid").unlink()
    return pid
