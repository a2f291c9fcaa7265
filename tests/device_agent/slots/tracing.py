"""Runs a scenario in a child under strace, and returns what strace saw."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.device_agent.slots.disk import CALLS
from tests.support.brokers import missing_service

REPOSITORY = Path(__file__).parents[3]
SCENARIOS = "tests.device_agent.slots.scenarios"


def trace(scenario: str, directory: Path, *bugs: str, scenarios: str = SCENARIOS) -> str:
    """Return what strace saw of a scenario of a module of scenarios."""
    strace = shutil.which("strace")
    if strace is None:
        missing_service("strace is not installed")
    output = directory.with_name("trace")
    command = [sys.executable, "-m", scenarios, scenario, str(directory), *bugs]
    options = ["-f", "--seccomp-bpf", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(output)]
    done = subprocess.run([strace, *options, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr and not output.exists():
        missing_service(f"strace may not trace here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    return output.read_text(encoding="ascii")
