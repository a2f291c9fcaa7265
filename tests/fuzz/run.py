"""`make fuzz`: every target a million times, two at once; a table at the end, and exit code 1 for a finding.

    python -m tests.fuzz.run [--runs N] [--only NAME*] [--jobs N] [--seed N] [--fresh]
    python -m tests.fuzz.run --reproduce build/fuzz/findings/TARGET-….input

What was done is kept in build/fuzz: interrupted, it goes on from there; `--fresh` (or another seed) begins again. Each
target has a process of its own, whose memory is measured, and which may die: the input that it died of is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.child import memory_directory, scratch
from tests.fuzz.parsers.every import ROOM_OF, TARGETS
from tests.fuzz.session import SLOW_S, Finding, write_reproducer
from tests.fuzz.targets import MAX_INPUT_BYTES

STATE: Final = Path("build") / "fuzz"
RUNS: Final = 1_000_000
JOBS: Final = 2
STUCK_S: Final = 120.0
"""How long a process may say nothing: a thousand inputs of the slowest target take seconds."""
_MIB: Final = 2**20


@dataclass
class Record:
    """What is known of one target."""

    runs: int = 0
    seconds: float = 0.0
    refused: int = 0
    slowest_s: float = 0.0
    growth_bytes: int = 0
    findings: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; return the exit code."""
    options = _options().parse_args(arguments)
    if options.reproduce:
        return _reproduce(options.reproduce)
    chosen = [name for name in TARGETS if any(fnmatch.fnmatch(name, pattern) for pattern in options.only or ["*"])]
    if options.list or not chosen:
        _say("\n".join(chosen or TARGETS))
        return 0 if chosen else 2
    records = _load(options.state, options.seed)
    for name in chosen if options.fresh else ():
        records.pop(name, None)
    try:
        _all(chosen, records, options)
    except KeyboardInterrupt:
        _tell("interrupted; the same command goes on from here")
        return 130
    finally:
        _save(options.state, options.seed, records)
    _say(table(chosen, records))
    found = [path for name in chosen for path in records[name].findings]
    if found:
        _say("\n  ".join(["\nFindings, each with what it did in a .txt beside it:", *found]))
    return 1 if found else 0


def table(chosen: Sequence[str], records: dict[str, Record]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| parser | runs | runs/s | refused | slowest | memory | findings |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name in chosen:
        record = records[name]
        pace = record.runs / record.seconds if record.seconds else 0.0
        share = record.refused / record.runs if record.runs else 0.0
        lines.append(
            f"| `{name}` | {record.runs:,} | {pace:,.0f} | {share:.0%} | {record.slowest_s * 1000:.0f} ms "
            f"| {record.growth_bytes / _MIB:.1f} MiB | {len(record.findings)} |"
        )
    runs, seconds = sum(records[name].runs for name in chosen), sum(records[name].seconds for name in chosen)
    return "\n".join([*lines, "", f"{len(chosen)} parsers, {runs:,} runs, {seconds:,.0f} s of one processor"])


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Try every parser on hostile input.")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"inputs for each parser (default {RUNS:,})")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="parsers by name or pattern")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"processes at once (default {JOBS})")
    parser.add_argument("--seed", type=int, default=1, help="another one tries other inputs")
    parser.add_argument("--state", type=Path, default=STATE, help="where results and findings are kept")
    parser.add_argument("--fresh", action="store_true", help="forget what was done with these parsers before")
    parser.add_argument("--list", action="store_true", help="name the parsers and do nothing")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="try one finding again, with its traceback")
    return parser


def _all(chosen: Sequence[str], records: dict[str, Record], options: argparse.Namespace) -> None:
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in chosen:
        records.setdefault(name, Record())
        if records[name].runs < options.runs and not records[name].findings:
            waiting.put(name)
    lock, stopping = threading.Lock(), threading.Event()

    def save() -> None:
        with lock:
            _save(options.state, options.seed, records)

    def work() -> None:
        while not stopping.is_set():
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            _one(name, records[name], options, stopping=stopping, save=save)

    threads = [threading.Thread(target=work) for _ in range(max(1, options.jobs))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopping.set()
        for thread in threads:
            thread.join()
        raise


def _one(
    name: str, record: Record, options: argparse.Namespace, *, stopping: threading.Event, save: Callable[[], None]
) -> None:
    before = Record(**asdict(record))
    with tempfile.NamedTemporaryFile(dir=memory_directory(), prefix="fleetlift-fuzz-") as current:
        current.truncate(MAX_INPUT_BYTES + 8)
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", ROOM_OF[name], name, "--first", str(before.runs)),
                *("--runs", str(options.runs - before.runs), "--seed", str(options.seed), "--current", current.name),
                *("--findings", str(options.state / "findings")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's, who ends it
        )
        noise: list[bytes] = []
        reader = threading.Thread(target=lambda: noise.append(child.stderr.read() if child.stderr else b""))
        reader.start()
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        follower = threading.Thread(target=_follow, args=(child, lines))
        follower.start()
        ended = _listen(child, lines, record, stopping=stopping, save=save)
        reader.join()
        follower.join()
        child.__exit__(None, None, None)  # waits, and closes its pipes
        content = Path(current.name).read_bytes()
    if stopping.is_set():
        return
    if ended == "stuck" or child.returncode:
        length = int.from_bytes(content[:8], "little")
        said = noise[0].decode(errors="replace")[-3000:] if noise else ""
        why = f"no progress for {STUCK_S:g} s" if ended == "stuck" else f"exit code {child.returncode}\n{said}"
        kind = "stuck" if ended == "stuck" else "died"
        found = Finding(kind, kind, why, content[8 : 8 + length])
        record.findings.append(str(write_reproducer(options.state / "findings", name, found)))
    with contextlib.suppress(OSError):
        save()
    verdict = f"{len(record.findings)} findings" if record.findings else "good"
    _tell(f"{name}: {record.runs:,} runs, {record.seconds:.0f} s, {verdict}")


def _follow(child: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in child.stdout or ():
        lines.put(line)
    lines.put(b"")


def _listen(
    child: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes],
    record: Record,
    *,
    stopping: threading.Event,
    save: Callable[[], None],
) -> str:
    before = Record(**asdict(record))
    heard_at = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            stuck = time.monotonic() - heard_at > STUCK_S
            if stuck or stopping.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                return "stuck"
            continue
        if not line:
            return "ended"
        heard_at = time.monotonic()
        said = json.loads(line)
        record.runs = before.runs + said["runs"]
        record.seconds = before.seconds + said["seconds"]
        record.refused = before.refused + said["refused"]
        record.slowest_s = max(before.slowest_s, said["slowest_s"])
        record.growth_bytes = max(before.growth_bytes, said["growth_bytes"])
        record.findings = before.findings + said["findings"]
        save()


def _load(state: Path, seed: int) -> dict[str, Record]:
    try:
        kept = json.loads((state / f"seed-{seed}.json").read_bytes())
        return {name: Record(**fields) for name, fields in kept.items() if name in TARGETS}
    except (OSError, ValueError, TypeError):
        return {}


def _save(state: Path, seed: int, records: dict[str, Record]) -> None:
    state.mkdir(parents=True, exist_ok=True)
    path = state / f"seed-{seed}.json"
    path.with_suffix(".new").write_text(json.dumps({name: asdict(each) for name, each in records.items()}, indent=1))
    path.with_suffix(".new").replace(path)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _reproduce(path: Path) -> int:
    name = next((name for name in sorted(TARGETS, key=len, reverse=True) if path.name.startswith(f"{name}-")), None)
    if name is None:
        _tell(f"{path.name} does not begin with a parser's name")
        return 2
    target, content = TARGETS[name], path.read_bytes()
    with scratch() as directory, target.make(directory) as parse:
        began = time.perf_counter()
        try:
            _say(f"taken: {parse(content)!r}"[:500])
        except target.expected as error:
            _say(f"refused: {type(error).__name__}: {error}"[:500])
        elapsed_s = time.perf_counter() - began
    _say(f"{elapsed_s * 1000:.1f} ms")
    return 1 if elapsed_s > SLOW_S else 0


if __name__ == "__main__":
    sys.exit(main())
