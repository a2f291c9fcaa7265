"""An application that somebody else runs: scripts that start and stop a process stand in for a service manager."""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.supervision import ApplicationError, Supervisor
from device_agent.system_service import SystemService
from protocol.phases import Reason
from tests.support.processes import is_alive, wait_until

RESTART = 'sh "$0" stop; "$2" & echo $! > "$1/pid"; echo "$FLEETLIFT_VERSION" > "$1/version"'
STOP = 'test ! -e "$1/pid" || { kill -9 $(cat "$1/pid"); rm "$1/pid"; }'
ACTIVE = 'test -e "$1/pid" && kill -0 $(cat "$1/pid")'


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="ascii")
    path.chmod(0o700)
    return path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SystemService]:
    for name, script in (("restart", RESTART), ("stop", STOP), ("active", ACTIVE)):
        (tmp_path / name).write_text(script.replace('"$0" stop', f'{tmp_path}/stop "$1"') + "\n", encoding="ascii")
    yield make(tmp_path)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(pid(tmp_path), signal.SIGKILL)


def make(tmp_path: Path) -> SystemService:
    command = {name: ("/bin/sh", str(tmp_path / name), str(tmp_path)) for name in ("restart", "stop", "active")}
    return SystemService(
        tmp_path / "state",
        restart=(*command["restart"], "{image}"),
        stop=command["stop"],
        active=command["active"],
        timeout_s=20.0,
    )


def pid(tmp_path: Path) -> int:
    return int((tmp_path / "pid").read_text(encoding="ascii"))


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def test_it_is_a_supervisor(service: SystemService) -> None:
    conforming: Supervisor = service
    conforming.close()


def test_it_starts_restarts_and_stops_the_service(service: SystemService, image: Path, tmp_path: Path) -> None:
    assert not service.alive()
    started = service.start(image, digest=digest(image), environment={"FLEETLIFT_VERSION": "1.0.0"}, keep_up=True)
    assert started == digest(image)
    first = pid(tmp_path)
    assert service.alive()
    assert is_alive(first)
    assert (tmp_path / "version").read_text(encoding="ascii") == "1.0.0\n"
    service.start(image, digest=digest(image), environment={}, keep_up=True)
    wait_until(lambda: not is_alive(first), what="the end of the first")
    assert is_alive(pid(tmp_path))
    second = pid(tmp_path)
    service.stop(20.0)
    wait_until(lambda: not is_alive(second), what="the end of the second")
    assert not service.alive()


def test_an_image_of_another_digest_is_not_started(service: SystemService, image: Path, tmp_path: Path) -> None:
    with pytest.raises(ApplicationError) as refused:
        service.start(image, digest="0" * 64, environment={}, keep_up=True)
    assert refused.value.reason is Reason.WRONG_BOOT
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/bin/sh", "-c", "echo no such unit; exit 5"), "ended with 5: no such unit"),
        (("/bin/sh", "-c", "sleep 1000"), "took too long"),
        (("/no/such/program",), "ended with 127"),
    ],
)
def test_a_restart_command_that_fails_is_told(tmp_path: Path, image: Path, command: tuple[str, ...], why: str) -> None:
    service = SystemService(tmp_path / "state", restart=command, timeout_s=0.3)
    with pytest.raises(ApplicationError, match=why) as failed:
        service.start(image, digest=digest(image), environment={}, keep_up=True)
    assert failed.value.reason is Reason.START_FAILED


def test_the_next_agent_finds_what_runs(service: SystemService, image: Path, tmp_path: Path) -> None:
    service.start(image, digest=digest(image), environment={}, keep_up=True)
    following = make(tmp_path)
    assert following.adopt(image, digest=digest(image), environment={}, keep_up=True)
    there = pid(tmp_path)
    assert not following.adopt(image, digest="0" * 64, environment={}, keep_up=True)
    wait_until(lambda: not is_alive(there), what="the end of what was not wanted")
    assert not make(tmp_path).adopt(image, digest=digest(image), environment={}, keep_up=True)
