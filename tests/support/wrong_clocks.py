"""Agents whose clock is wrong: real processes, and OpenSSL in them too, under libfaketime; time passes as ever."""

import sys
from pathlib import Path

from tests.support.brokers import missing_service

IN_1970 = "@1970-01-01 00:10:00"
TEN_YEARS_AHEAD = "+3653d"
_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
# libfaketime (0.9) breaks sleep() when it leaves the monotonic clock alone; what the agent runs has the right clock.
_LAUNCHER = """\
import os, threading, time
os.environ.pop("LD_PRELOAD", None)
time.sleep = lambda seconds: threading.Event().wait(seconds)
from device_agent.cli import main
main()
"""


def agent_with_clock(directory: Path, clock: str) -> Path:
    """Return a program to start in place of `fleetlift-agent`, in `directory`; skips where there is no libfaketime."""
    found = [path for pattern in _LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
    if not found:
        missing_service("libfaketime is not installed (apt install faketime)")
    launcher = directory / "launcher.py"
    launcher.write_text(_LAUNCHER)
    program = directory / "agent-with-another-clock"
    program.write_text(
        f'#!/bin/sh\nexport LD_PRELOAD="{found[0]}" FAKETIME="{clock}" FAKETIME_DONT_FAKE_MONOTONIC=1\n'
        f'exec "{sys.executable}" "{launcher}" "$@"\n'
    )
    program.chmod(0o700)
    return program
