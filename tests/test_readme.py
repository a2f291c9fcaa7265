"""The README's commands run as they are written, on a fresh copy of what is tracked."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
BACKGROUND_IS_READY = {"fleetlift serve 2> serve.log &": "Ready."}


def commands(heading: str) -> list[str]:
    """Return the commands of the first block under a heading, comments left out."""
    block = README[README.index(heading) :].split("```sh\n")[1].split("```")[0]
    return [line.split("  #")[0].rstrip() for line in block.splitlines() if line.strip()]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the tracked files, and nothing else."""
    target = tmp_path / "fleetlift"
    target.mkdir()
    tracked = subprocess.run(
        [shutil.which("git") or "git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (REPOSITORY / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name, follow_symlinks=False)
    return target


@pytest.fixture
def shell(copy: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell in the copy, as a person has one, that is ended with everything it started."""
    process = subprocess.Popen(
        ["/bin/bash", "--noprofile", "--norc"],
        cwd=copy,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    subprocess.run(["/usr/bin/pkill", "-KILL", "-f", str(copy)], check=False)  # the application outlives its agent


def read_until(stream: IO[str], text: str, heard: list[str]) -> None:
    for line in stream:
        heard.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} was not said:\n{''.join(heard)}")


@pytest.mark.timeout(600)
def test_the_commands_run_as_written(copy: Path, shell: subprocess.Popen[str]) -> None:
    (demo,) = commands("# Fleetlift")
    make = subprocess.run(
        ["/bin/bash", "-c", demo], cwd=copy, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert make.returncode == 0, make.stdout + make.stderr
    last = make.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"demo: \d+ checks, 0 failed", last)
    assert last in README, "the README shows what the demonstration says"

    steps = commands("## First device, by hand")
    assert len(steps) <= 6
    heard = type_in(shell, steps)
    assert "1 device updated" in heard
    assert "cloud.api.observing" not in heard, "the server's log is between what one types and what is answered"
    installed = copy / "pi-1/state/components/app/current/image"
    assert installed.read_bytes() == (copy / "build/images/thermostat-1.0.0").read_bytes()


def type_in(shell: subprocess.Popen[str], steps: list[str]) -> str:
    """Type the steps as a person does: the next one when the last has ended, or says that it is ready."""
    heard: list[str] = []
    assert shell.stdin is not None
    assert shell.stdout is not None
    for number, step in enumerate(steps):
        print(step, file=shell.stdin, flush=True)
        ready = next((text for start, text in BACKGROUND_IS_READY.items() if step.startswith(start)), None)
        if ready is None:
            print(f"echo step {number} ended with $?", file=shell.stdin, flush=True)
            ready = f"step {number} ended with"
        read_until(shell.stdout, ready, heard)
        assert "ended with" not in heard[-1] or heard[-1].endswith(" 0\n"), "".join(heard)
    return "".join(heard)
