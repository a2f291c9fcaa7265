"""One target's process: tries inputs, tells how far it is on standard output, in lines of JSON, and may die.

Each module of targets is a program: `python -m tests.fuzz.parsers.wire NAME …`. The others would cost memory and time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.session import Session, Tally, smaller, write_reproducer
from tests.fuzz.targets import MAX_INPUT_BYTES, Target

TELL_S: Final = 1.0


def run_one_of(targets: Sequence[Target]) -> int:
    """Run what the arguments say, with one of these targets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    for name in ("--first", "--runs", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--current", type=Path, required=True, help="where the present input is kept for the parent")
    parser.add_argument("--findings", type=Path, required=True)
    options = parser.parse_args()
    quiet()
    target = next(each for each in targets if each.name == options.target)
    with options.current.open("r+b") as file, scratch() as directory:
        current = mmap.mmap(file.fileno(), MAX_INPUT_BYTES + 8)
        session = Session(target, directory, seed=options.seed, first_run=options.first, current=current)
        told_at_s = 0.0

        def tell(tally: Tally, paths: Sequence[str] = (), *, now: bool = False) -> None:
            nonlocal told_at_s
            if now or time.monotonic() - told_at_s > TELL_S:
                told_at_s = time.monotonic()
                names = ("runs", "refused", "seconds", "slowest_s", "growth_bytes")
                said = {name: getattr(tally, name) for name in names} | {"findings": list(paths)}
                sys.stdout.write(json.dumps(said) + "\n")
                sys.stdout.flush()

        tally = session.run(options.runs, tell)
    paths = []
    for finding in tally.findings:
        with scratch() as directory:
            least = smaller(target, directory, finding)
        paths.append(str(write_reproducer(options.findings, target.name, least)))
    tell(tally, paths, now=True)
    return 0


def quiet() -> None:
    """Let nobody print what is logged: a line for each input would be most of the work."""
    logging.lastResort = None
    logging.raiseExceptions = False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory in memory, if there is such a place: on a disk most of the time would be fsync's."""
    directory = Path(tempfile.mkdtemp(dir=memory_directory(), prefix="fleetlift-fuzz-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def memory_directory() -> str | None:
    """Return a file system in memory, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
