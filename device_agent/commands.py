"""Commands of the configuration: their placeholders, and a run that ends in time, whole group and all."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.processes import end_group

TAIL_BYTES: Final = 400
_GRACE_S: Final = 1.0
_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended: its exit code (negative: the signal), None if it took too long; and its last output."""

    code: int | None
    output: str

    @property
    def passed(self) -> bool:
        """Whether it ended in time with 0."""
        return self.code == 0


def expand(command: Sequence[str], image: Path | None = None) -> list[str]:
    """Return a command with `{python}` (this interpreter) and `{image}` in its words replaced; no shell is involved."""
    values = {"{python}": sys.executable, "{image}": str(image) if image else "{image}"}
    expanded = []
    for word in command:
        for name, value in values.items():
            word = word.replace(name, value)  # noqa: PLW2901 - each placeholder in turn
        expanded.append(word)
    return expanded


def run(
    command: Sequence[str],
    timeout_s: float,
    *,
    environment: Mapping[str, str],
    directory: Path | None = None,
    leaves_children: bool = False,
) -> Ran:
    """Run a command to its end, but no longer than `timeout_s`; its whole group is ended with it.

    A command that `leaves_children`, and ends in time, may: that is how scripts start services. Raises OSError if it
    cannot be started. Of its output the last bytes are kept, however much there is.
    """
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=dict(environment),
        start_new_session=True,
    ) as process:
        ended = os.pidfd_open(process.pid)
        try:
            in_time, tail = _read_until_ended(process, ended, deadline)
            if not in_time or not leaves_children:
                end_group(process.pid, ended, 0.0 if in_time else _GRACE_S)
        finally:
            os.close(ended)
        code = process.wait()
    return Ran(code=code if in_time else None, output=tail.decode(errors="replace").strip())


def _read_until_ended(process: subprocess.Popen[bytes], ended: int, deadline: float) -> tuple[bool, bytes]:
    """Return whether the process ended before the deadline, and the end of what it wrote."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    output, tail, in_time = process.stdout.fileno(), b"", False
    os.set_blocking(output, False)
    with selectors.DefaultSelector() as selector:
        selector.register(ended, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while not in_time and (left_s := deadline - time.monotonic()) > 0:
            ready = {key.fd for key, _events in selector.select(left_s)}
            in_time = ended in ready
            if output in ready:
                block = os.read(output, _READ_BYTES)
                tail = (tail + block)[-TAIL_BYTES:]
                if not block:
                    selector.unregister(output)
    return in_time, _drain(output, tail)


def _drain(output: int, tail: bytes) -> bytes:
    """Return the tail of what is in the pipe now; what a child still holding it writes later is not waited for."""
    for _ in range(16):  # a pipe's capacity, 64 KiB a read: never an endless writer
        try:
            block = os.read(output, _READ_BYTES)
        except BlockingIOError:
            break
        if not block:
            break
        tail = (tail + block)[-TAIL_BYTES:]
    return tail
