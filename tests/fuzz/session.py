"""Runs one target many times in this process, and says what it met: crashes, slow inputs, memory that grows.

What an input did (which error, in which words) is the sign of where it came to. An input with a sign that is new joins
the corpus, so that later ones begin from there: guidance without a tracer, at a tenth of its price.
"""

from __future__ import annotations

import gc
import hashlib
import mmap
import random
import re
import resource
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import MAX_INPUT_BYTES, Parse, Target

SLOW_S: Final = 1.0
MAX_GROWTH_BYTES: Final = 32 * 1024 * 1024
BLOCK_RUNS: Final = 1000
WARM_UP_RUNS: Final = 2000
MAX_CORPUS: Final = 1000
MAX_CORPUS_ENTRY_BYTES: Final = 4 * 1024
MAX_FINDINGS: Final = 10
_PAGE: Final = resource.getpagesize()
DETAIL = re.compile(r"[0-9]+|'[^']*'|\"[^\"]*\"|b'[^']*'")


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that a parser must not meet like that."""

    kind: str
    """`uncaught`, `slow`, `stuck`, `died` or `memory`."""
    sign: str
    """What it has in common with others of the same cause."""
    detail: str
    content: bytes


@dataclass(slots=True)
class Tally:
    """What a target's runs came to."""

    runs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    growth_bytes: int = 0
    corpus: int = 0
    findings: list[Finding] = field(default_factory=list)


class Session:
    """One target's runs. `current`, if it is given, always holds the input that is being tried."""

    def __init__(
        self, target: Target, directory: Path, *, seed: int, first_run: int = 0, current: mmap.mmap | None = None
    ) -> None:
        self._target = target
        self._directory = directory
        self._seed = seed
        self._first = first_run
        self._current = current
        self._mutator = Mutator(target.shape, target.words)
        self._corpus = list(target.seeds())
        self._signs: set[tuple[object, ...]] = set()
        self.tally = Tally()

    def run(self, runs: int, progress: Callable[[Tally], None] = lambda _tally: None) -> Tally:
        """Try `runs` inputs, or fewer if there is too much to tell; raises what a seed raises that is refused."""
        with self._target.make(self._directory) as parse:
            self._try_seeds(parse)
            base_bytes = self._begin_measuring() if runs <= WARM_UP_RUNS else None
            while self.tally.runs < runs and len(self.tally.findings) < MAX_FINDINGS:
                rng = random.Random(f"{self._seed}/{self._target.name}/{self._first + self.tally.runs}")
                began = time.perf_counter()
                for _ in range(min(BLOCK_RUNS, runs - self.tally.runs)):
                    self._one(parse, self._mutator.mutated(self._corpus, rng))
                self.tally.seconds += time.perf_counter() - began
                self.tally.corpus = len(self._corpus)
                if base_bytes is None and self.tally.runs >= WARM_UP_RUNS:
                    base_bytes = self._begin_measuring()
                elif base_bytes is not None:
                    self.tally.growth_bytes = max(self.tally.growth_bytes, _peak_bytes() - base_bytes)
                progress(self.tally)
            if self.tally.growth_bytes > MAX_GROWTH_BYTES:
                grown = f"{self.tally.growth_bytes / 2**20:.1f} MiB more than after {WARM_UP_RUNS} runs"
                self.tally.findings.append(Finding("memory", "memory", grown, b""))
        return self.tally

    def _try_seeds(self, parse: Parse) -> None:
        for content in self._corpus:
            self._signs.add(self._attempt(parse, content))

    def _one(self, parse: Parse, content: bytes) -> None:
        began = time.perf_counter()
        if self._current is not None:
            self._current.seek(0)
            self._current.write(len(content).to_bytes(8, "little") + content)
        sign = self._attempt(parse, content)
        elapsed_s = time.perf_counter() - began
        self.tally.runs += 1
        if sign and sign[0] == "uncaught":
            self._found(Finding("uncaught", str(sign[1]), str(sign[2]), content))
        if elapsed_s > SLOW_S:  # a machine that is busy with something else is no finding
            elapsed_s = min(elapsed_s, *(_timed(lambda: self._attempt(parse, content)) for _ in range(2)))
            if elapsed_s > SLOW_S:
                self._found(Finding("slow", "slow", f"{elapsed_s:.2f} s", content))
        self.tally.slowest_s = max(self.tally.slowest_s, elapsed_s)
        is_new = sign not in self._signs and len(content) <= MAX_CORPUS_ENTRY_BYTES
        if is_new and len(self._corpus) < MAX_CORPUS:
            self._signs.add(sign)
            self._corpus.append(content)

    def _attempt(self, parse: Parse, content: bytes) -> tuple[object, ...]:
        try:
            result = parse(content)
        except self._target.expected as error:
            self.tally.refused += 1
            return (type(error).__name__, DETAIL.sub("_", str(error)[:120]).partition(";")[0])
        except Exception as error:  # noqa: BLE001 - this is what it is all for
            place = traceback.extract_tb(error.__traceback__)[-1]
            return ("uncaught", f"{type(error).__name__} in {place.name}", traceback.format_exc(limit=-12))
        return ("taken", type(result).__name__, result if isinstance(result, str | int | bool) else None)

    def _found(self, finding: Finding) -> None:
        if all((known.kind, known.sign) != (finding.kind, finding.sign) for known in self.tally.findings):
            self.tally.findings.append(finding)

    @staticmethod
    def _begin_measuring() -> int:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from now on
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def write_reproducer(directory: Path, target: str, finding: Finding) -> Path:
    """Write what was found, to be tried again by `python -m tests.fuzz.run --reproduce`; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{target}-{finding.kind}-{hashlib.sha256(finding.content).hexdigest()[:12]}"
    path = directory / f"{name}.input"
    path.write_bytes(finding.content)
    (directory / f"{name}.txt").write_text(f"{finding.sign}\n\n{finding.detail}\n", encoding="utf-8")
    return path


def smaller(target: Target, directory: Path, finding: Finding, attempts: int = 2000) -> Finding:
    """Return the finding with less of its input that still does the same."""
    content = finding.content
    session = Session(target, directory, seed=0)

    def same(candidate: bytes) -> bool:
        sign = session._attempt(parse, candidate)
        return bool(sign) and sign[:2] == ("uncaught", finding.sign)

    with target.make(directory) as parse:
        if finding.kind != "uncaught" or not same(content):
            return finding
        step = max(1, len(content) // 2)
        while step and attempts > 0:
            begin = 0
            while begin < len(content) and attempts > 0:
                attempts -= 1
                candidate = content[:begin] + content[begin + step :]
                if same(candidate):
                    content = candidate
                else:
                    begin += step
            step //= 2
    return Finding(finding.kind, finding.sign, finding.detail, content)


def new_current() -> mmap.mmap:
    """Return memory that a parent process can read the present input from, whatever happens to this one."""
    return mmap.mmap(-1, MAX_INPUT_BYTES + 8)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def names(targets: Sequence[Target]) -> list[str]:
    """Return the targets' names."""
    return [target.name for target in targets]
