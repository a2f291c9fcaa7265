"""Many rehearsals of one script, one after the other or on all processors, in the order of their seeds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from cloud.simulation.rehearsal import Script, rehearse
from cloud.simulation.results import Run

WORTH_PROCESSES: Final = 400_000
"""Devices, over all runs, from which on starting processes costs less than it saves."""
MAX_PROCESSES: Final = 16


def rehearse_all(script: Script, seed: int, runs: int, done: Callable[[int], None]) -> tuple[Run, ...]:
    """Return the runs with the seeds from `seed` on; `done` hears of each that is over."""
    seeds = range(seed, seed + runs)
    workers = min(os.cpu_count() or 1, runs, MAX_PROCESSES)
    if workers < 2 or runs * script.fleet.devices < WORTH_PROCESSES:
        return tuple(_heard(rehearse(script, number), done) for number in seeds)
    # Spawned, not forked: a fork would copy a terminal's progress in the middle of a line.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return tuple(_heard(run, done) for run in pool.map(partial(rehearse, script), seeds))


def _heard(run: Run, done: Callable[[int], None]) -> Run:
    done(1)
    return run
