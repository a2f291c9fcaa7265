"""The device's command and a real agent: a process with its own slots, application, journal and control socket."""

import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from device_agent.cli import seconds_until
from device_agent.sdk import Updates
from protocol.errors import UserError
from tests.support.brokers import free_port
from tests.support.processes import Processes, Started, is_alive, wait_until
from tests.support.repository import Repository

APPLICATION = b"""\
import os, pathlib, time
data = pathlib.Path(os.environ["FLEETLIFT_DATA_DIR"])
(data / "environment").write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
(data / "pid.new").write_text(str(os.getpid()))
(data / "pid.new").rename(data / "pid")
while True:
    time.sleep(60)
"""
SETTINGS = """\
[device]
id = "pi-1"
product = "thermostat"
hardware_model = "pi4"
state_dir = "state"
root = "root.json"
[broker]
url = "mqtt://127.0.0.1:{port}"
[components.app]
command = ["{{python}}", "{{image}}"]
golden = "golden"
"""


@dataclass
class Device:
    """A device whose base system brought an application along, and the agent's command on it."""

    directory: Path
    processes: Processes

    def __post_init__(self) -> None:
        golden = self.directory / "golden"
        golden.mkdir(parents=True)
        (golden / "image").write_bytes(APPLICATION)
        record = {"component": "app", "version": "1.0.0", "build": 1, "size_bytes": len(APPLICATION)}
        digest = hashlib.sha256(APPLICATION).hexdigest()
        (golden / "slot.json").write_text(json.dumps({**record, "digest": digest}))
        (self.directory / "root.json").write_bytes(Repository().bootstrap)
        self.config.write_text(SETTINGS.format(port=free_port()))

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def data(self) -> Path:
        return self.directory / "state" / "data" / "app"

    def start(self) -> Started:
        """Start the agent; returns when its application runs and its socket answers."""
        (self.data / "pid").unlink(missing_ok=True)
        started = self.processes.start(
            sys.executable, "-m", "device_agent.cli", "run", "--config", self.config, name="agent"
        )
        wait_until(lambda: self.call("status").returncode == 0, 20, "the agent's answer")
        return started

    def application(self) -> int:
        wait_until((self.data / "pid").exists, 20, "the application's start")
        return int((self.data / "pid").read_text())

    def call(self, command: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "device_agent.cli", command, "--config", str(self.config), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("status", "-o", "json").stdout)
        return found

    def end_application(self) -> None:
        """End what an agent that was killed left running."""
        record = self.directory / "state" / "components" / "app" / "application.json"
        if record.exists():
            pid = json.loads(record.read_text())["process"]["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def connect(self) -> Updates:
        return Updates(self.directory / "state" / "control.sock", required=True)


@pytest.fixture
def device(tmp_path: Path, processes: Processes) -> Iterator[Device]:
    device = Device(tmp_path / "device", processes)
    yield device
    processes.close()
    device.end_application()


@pytest.fixture
def agent(device: Device) -> Started:
    return device.start()


def sentence(ended: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a failed command says."""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("fleetlift-agent: ")
    return line


def test_it_runs_the_application_and_ends_with_it(device: Device, agent: Started) -> None:
    pid = device.application()
    environment = dict(line.split("=", 1) for line in (device.data / "environment").read_text().splitlines())
    state = device.directory / "state"
    assert environment["FLEETLIFT_CONTROL_SOCKET"] == str(state / "control.sock")
    assert environment["FLEETLIFT_DATA_DIR"] == str(state / "data" / "app")
    assert (environment["FLEETLIFT_COMPONENT"], environment["FLEETLIFT_VERSION"]) == ("app", "1.0.0")
    assert Path(environment["FLEETLIFT_IMAGE"]).read_bytes() == APPLICATION
    assert agent.terminate() == 0
    assert not is_alive(pid)
    assert "Traceback" not in agent.log()
    for private in (state, state / "components"):
        assert private.stat().st_mode & 0o077 == 0


def test_an_application_outlives_an_agent_that_is_killed(device: Device, agent: Started) -> None:
    pid = device.application()
    agent.kill()
    assert is_alive(pid)
    again = device.start()
    wait_until(lambda: device.status()["components"], 10, "the application's adoption")
    assert is_alive(pid)
    assert not (device.data / "pid").exists()  # it did not start again
    again.terminate()
    assert not is_alive(pid)


def test_status_for_people_and_for_programs(device: Device, agent: Started) -> None:
    device.application()
    wait_until(lambda: device.status()["components"], 10, "the application's state")
    found = device.status()
    assert found["phase"] == "idle"
    assert (found["online"], found["updates_enabled"], found["pending"]) == (False, True, None)
    assert found["components"]["app"]["version"] == "1.0.0"
    lines = device.call("status").stdout.splitlines()
    assert lines[0] == "phase      idle, offline"
    assert lines[1].startswith("app        1.0.0 build 1, ")
    assert re.match(r"broker     127\.0\.0\.1:\d+: .*refused", lines[2])
    assert lines[-1] == "updates    enabled"


def test_disabling_outlasts_the_agent(device: Device, agent: Started) -> None:
    assert device.call("disable", "--until", "1h", "--why", "dosing").returncode == 0
    assert not device.status()["updates_enabled"]
    agent.kill()
    device.start()
    with device.connect() as updates:
        assert not updates.updates_enabled
    assert "updates    disabled until" in device.call("status").stdout
    assert device.call("enable").returncode == 0
    assert device.status()["updates_enabled"]


def test_a_hold_lasts_as_long_as_its_command(device: Device, agent: Started, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    holder = device.processes.start(
        *(sys.executable, "-m", "device_agent.cli", "hold", "--config", str(device.config)),
        *("--why", "backup", "--scope", "restart", "--", "sh", "-c", f"read line < {go_on}; exit 7"),
        name="hold",
    )
    wait_until(lambda: device.status()["holds"], 10, "the hold")
    (hold,) = device.status()["holds"]
    assert hold["scope"] == ["restart"]
    assert hold["owner"].startswith("backup (pid ")
    go_on.write_text("\n")
    assert holder.wait() == 7
    wait_until(lambda: not device.status()["holds"], 10, "the hold's end")
    missing = device.call("hold", "--why", "x", "--", "/no/such/program")
    assert (missing.returncode, "No such file" in sentence(missing)) == (1, True)


@pytest.mark.parametrize("command", ["check", "confirm", "ready", "data-synced", "data-synced --undo"])
def test_the_other_words(device: Device, agent: Started, command: str) -> None:
    ended = device.call(*command.split())
    assert (ended.returncode, ended.stdout) == (0, "")


def test_a_gauge_is_reported(device: Device, agent: Started) -> None:
    for value in ("-12", "7"):
        ended = device.call("gauge", "queue-depth", value)
        assert (ended.returncode, ended.stderr) == (0, f"queue-depth is {value}\n")
    wait_until(lambda: device.status()["health"] == {"app": {"crashes": 0, "gauges": {"queue-depth": -12}}}, 10, "it")
    refused = device.call("gauge", "--component", "nothing", "queue-depth", "1")
    assert (refused.returncode, "there is no component 'nothing'" in sentence(refused)) == (1, True)


@pytest.mark.parametrize("command", ["status", "enable", "check"])
def test_without_an_agent(device: Device, command: str) -> None:
    ended = device.call(command)
    assert ended.returncode == 1
    assert "no agent answers at" in sentence(ended)


def test_a_second_agent_is_refused(device: Device, agent: Started) -> None:
    pid = device.application()
    ended = device.call("run")
    assert ended.returncode == 5
    assert "another agent runs on" in sentence(ended)
    assert is_alive(pid)
    assert device.status()["phase"] == "idle"


def _typo(device: Device) -> None:
    device.config.write_text(device.config.read_text() + "soak = 5\n")


def _data_of_its_own(device: Device) -> None:
    device.config.write_text(device.config.read_text() + 'data_dir = "state"\n')


def _no_root(device: Device) -> None:
    (device.directory / "root.json").unlink()


def _bad_root(device: Device) -> None:
    (device.directory / "root.json").write_text("{}")


def _newer_journal(device: Device) -> None:
    (device.directory / "state").mkdir()
    with sqlite3.connect(device.directory / "state" / "journal.db") as database:
        database.execute("PRAGMA user_version=99")
    database.close()


@pytest.mark.parametrize(
    ("mistake", "code", "told"),
    [
        (_typo, 2, "agent.toml:12: components.app.soak: not a key"),
        (_data_of_its_own, 2, "is or holds what is the agent's own; nothing was started"),
        (_no_root, 2, "root.json: No such file or directory; nothing was started"),
        (_bad_root, 1, "the root metadata that this device was given"),
        (_newer_journal, 2, "was written by a newer agent"),
    ],
)
def test_a_mistake_is_one_sentence(device: Device, mistake: Callable[[Device], None], code: int, told: str) -> None:
    mistake(device)
    ended = device.call("run")
    assert told in sentence(ended)
    assert ended.returncode == code


NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("7d", 604_800),
        ("13:00", 3600),
        ("11:00", 82_800),  # tomorrow
        ("2026-05-01T12:00:30", 30),
        ("2026-05-01T12:00:30+00:00", 30),
        ("2026-05-02", 43_200),
    ],
)
def test_until_when(when: str, seconds: int) -> None:
    assert seconds_until(when, NOW) == seconds


@pytest.mark.parametrize("when", ["", "soon", "0s", "-5m", "25:00", "2026-05-01T11:00", "1w", "99999999999d"])
def test_no_such_time(when: str) -> None:
    with pytest.raises(UserError, match="nothing was changed"):
        seconds_until(when, NOW)


def test_it_ends_by_either_signal(device: Device) -> None:
    started = device.start()
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == 0
