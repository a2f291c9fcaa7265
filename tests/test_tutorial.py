"""docs/tutorial/first-device.md: its commands run as written, both machines being this one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_samples.build import build
from tests.support.brokers import free_port
from tests.support.processes import Processes

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = (REPOSITORY / "docs" / "tutorial" / "first-device.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(sh|toml)\n(.*?)```", re.DOTALL)
INSTALLS = ("sudo apt ", "make samples", "python -m pip wheel", "python3 -m venv")
"""What other tests do (tests/test_distribution.py, tests/test_readme.py)."""
IN_THE_BACKGROUND = {
    "fleetlift serve 2> serve.log &": "Ready.",
    "fleetlift-agent run --config agent.toml 2> agent.log &": "",
}
"""What they say when they are ready; the agent says nothing but in its log, and what follows waits for it."""
ENDS_WITH = {"thermostat-2.0.0": 1}
"""The exit code of the bad release, as the text says."""


class Machines:
    """Two directories in place of two machines, and the ports in place of those that are usual."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.processes = processes
        self.places = {"on the server": directory / "server", "on the Pi": directory / "pi"}
        for place in self.places.values():
            place.mkdir()
        self.api, self.health, *self.broker = (free_port() for _ in range(4))

    def here(self, text: str) -> str:
        """Return a text with this machine in place of those of the tutorial."""
        text = text.replace(
            "init --host 0.0.0.0",
            "init --host 127.0.0.1 --port {} --broker-port {} --cloud-port {}".format(self.api, *self.broker),
        )
        text = (
            text.replace("192.168.1.10", "127.0.0.1").replace("8321", str(self.api)).replace("8080", str(self.health))
        )
        return re.sub(r"^scp \S+ (\S+) pi@\S+$", rf"cp \1 {self.places['on the Pi']}", text)

    def type_in(self, place: Path, line: str) -> str:
        """Run one line as it stands; what runs in the background has to say that it is ready."""
        command = self.here(line)
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(place), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        if line in IN_THE_BACKGROUND:
            in_a_shell = ("-c", f"exec {command.removesuffix('&')}")
            started = self.processes.start(
                Path("/bin/bash"), *in_a_shell, name=command.split()[0], cwd=place, env=environment
            )
            if ready := IN_THE_BACKGROUND[line]:
                started.wait_for_line(ready, timeout_s=30)
            return ""
        done = subprocess.run(
            ["/bin/bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        wanted = next((code for word, code in ENDS_WITH.items() if word in line), 0)
        assert done.returncode == wanted, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def machines(tmp_path: Path, processes: Processes) -> Iterator[Machines]:
    there = Machines(tmp_path, processes)
    for name in ("thermostat-1.0.0", "thermostat-2.0.0"):
        build(name, there.places["on the server"] / "build" / "images")
    yield there
    for child in processes.started:
        if child.name == "fleetlift-agent" and child.process.poll() is None:
            child.terminate()  # its application ends with it; killed, it would leave it behind


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_the_tutorial_runs_as_written(machines: Machines) -> None:
    heard = {}
    for language, text in BLOCK.findall(DOCUMENT):
        if language == "toml":
            (machines.places["on the Pi"] / "agent.toml").write_text(machines.here(text))
            continue
        first, *lines = text.splitlines()
        for line in lines:
            if not line.startswith(INSTALLS):
                heard[line] = machines.type_in(machines.places[first.removeprefix("# ")], line)
    assert "1 device updated" in heard["fleetlift release push build/images/thermostat-1.0.0 --immediate --yes --wait"]
    assert "health_failed" in heard["fleetlift device history pi-1"]
    assert "1.0.0" in heard["fleetlift-agent status --config agent.toml"]
