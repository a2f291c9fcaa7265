"""Processes that may not be our children: which one it is, when it ends, and how a whole group of them is ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.values import check_number, check_text

_POLL_S: Final = 0.02
_LAST_WAIT_S: Final = 5.0
_MAX_PID: Final = 2**22
"""What Linux gives out at most (PID_MAX_LIMIT)."""
_NO_PROCESS: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})
"""What pidfd_open says of a number that nobody has, or that one of a process's threads has."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process beyond doubt: numbers are given out again, but not with the same start (clock ticks) in one boot."""

    pid: int
    started_ticks: int
    boot_id: str

    def __post_init__(self) -> None:
        check_number(self.pid, "pid", 1, _MAX_PID)
        check_number(self.started_ticks, "started_ticks")
        check_text(self.boot_id, "boot_id", 64)


def identify(pid: int) -> Identity | None:
    """Return which process has this number, or None if none has (a zombie still has)."""
    fields = _stat(pid)
    if fields is None:
        return None
    return Identity(pid=pid, started_ticks=int(fields[19]), boot_id=_BOOT_ID.read_text(encoding="ascii").strip())


def open_process(identity: Identity) -> int | None:
    """Return a pidfd of that very process, or None if it is gone; readable when it ends."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    # Only now, when the descriptor holds on to whatever process it is, does a comparison tell anything.
    if identify(identity.pid) == identity and not has_ended(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def has_ended(descriptor: int, timeout_s: float = 0.0) -> bool:
    """Tell whether the process behind a pidfd has ended, waiting for that up to `timeout_s`."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(max(0.0, timeout_s) * 1000))


def end_group(pid: int, descriptor: int, timeout_s: float) -> bool:
    """End the group that process `pid` leads: SIGTERM, and SIGKILL to what is left of it after `timeout_s`.

    Tells whether all of it is gone; what is not waits in the kernel for a device. A leader that is our child is to be
    reaped after this, not before: until then nobody else can get the group's number.
    """
    deadline = time.monotonic() + timeout_s
    _signal_group(pid, signal.SIGTERM)
    if has_ended(descriptor, timeout_s) and _is_empty(pid, deadline):
        return True
    _signal_group(pid, signal.SIGKILL)
    return has_ended(descriptor, _LAST_WAIT_S) and _is_empty(pid, time.monotonic() + _LAST_WAIT_S)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _is_empty(group: int, deadline: float) -> bool:
    """Tell whether a group has no living member, waiting until `deadline`: the kernel has no event for that."""
    while any(_members(group)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _members(group: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields is not None and fields[0] not in {"Z", "X"} and int(fields[2]) == group:
            yield int(path.name)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the third (the state) on, see proc(5)."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return content.rpartition(")")[2].split()
