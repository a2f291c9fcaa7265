"""Commands of the configuration end in time, and what they say is kept short."""

import os
import sys
import time
from pathlib import Path

import pytest

from device_agent.commands import TAIL_BYTES, expand, run
from tests.support.processes import is_alive

TIMEOUT_S = 20.0


def sh(script: str, timeout_s: float = TIMEOUT_S) -> tuple[int | None, str]:
    ran = run(("/bin/sh", "-c", script), timeout_s, environment=os.environ)
    return ran.code, ran.output


def test_placeholders_are_words_and_never_a_shell() -> None:
    image = Path("/slots/a/an image; rm -rf x")
    assert expand(("{python}", "--image={image}", "$HOME"), image) == [sys.executable, f"--image={image}", "$HOME"]
    assert expand(("{image}",)) == ["{image}"]


def test_exit_code_and_output() -> None:
    assert sh("echo well; exit 0") == (0, "well")
    assert sh("echo ill >&2; exit 3") == (3, "ill")
    assert sh("kill -9 $$") == (-9, "")


def test_only_the_end_of_endless_output_is_kept() -> None:
    code, output = sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done")
    assert code == 0
    assert output.endswith("line 20000")
    assert len(output) <= TAIL_BYTES


@pytest.mark.parametrize("script", ["sleep 1000", "yes", "trap '' TERM; while :; do sleep 0.1; done"])
def test_what_takes_too_long_is_ended(script: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    code, _output = sh(f"echo $$ > {tmp_path}/pid; {script}", 0.3)
    assert code is None
    assert time.monotonic() - begun < TIMEOUT_S
    assert not is_alive(int((tmp_path / "pid").read_text(encoding="ascii")))


def test_what_a_command_leaves_behind_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, _output = sh(f"sleep 1000 & echo $! > {tmp_path}/pid")
    assert code == 0
    assert time.monotonic() - begun < TIMEOUT_S / 2
    assert not is_alive(int((tmp_path / "pid").read_text(encoding="ascii")))


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        run(("/no/such/program",), 1.0, environment={})
