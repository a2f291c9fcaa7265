"""The runner finds what it is there for: a planted crash, a slow input, memory that grows, and a process that dies."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import session as session_module
from tests.fuzz.json_spans import spans_of
from tests.fuzz.mutation import Mutator
from tests.fuzz.parsers.every import ROOM_OF, TARGETS
from tests.fuzz.parsers.wire import plain
from tests.fuzz.run import Record, main, table
from tests.fuzz.session import Session, smaller
from tests.fuzz.targets import MAX_INPUT_BYTES, Target

SEED = b'{"name": "pi-1", "list": [1, 2, {"a": "{\\"b\\": 5}"}], "none": null}'


def target(parse: Callable[[bytes], object], *expected: type[Exception]) -> Target:
    return Target(name="planted", make=plain(parse), seeds=lambda: [SEED], shape="json", expected=expected)


def test_an_error_that_is_not_documented_is_found_and_made_small(tmp_path: Path) -> None:
    def parse(content: bytes) -> None:
        if b"null" not in content:
            raise KeyError(content)
        if b"pi-1" not in content:
            raise ValueError("documented")

    planted = target(parse, ValueError)
    tally = Session(planted, tmp_path, seed=1).run(2000)
    (finding,) = tally.findings
    assert (finding.kind, finding.sign) == ("uncaught", "KeyError in parse")
    assert tally.refused > 0
    assert smaller(planted, tmp_path, finding).content == b""


def test_a_slow_input_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SLOW_S", 0.02)

    def parse(content: bytes) -> None:
        if content.count(b"pi-1") > 1:
            time.sleep(0.03)

    assert [finding.kind for finding in Session(target(parse), tmp_path, seed=1).run(200).findings] == ["slow"]


def test_memory_that_grows_is_found(tmp_path: Path) -> None:
    kept: list[mmap.mmap] = []

    def parse(_content: bytes) -> None:
        kept.append(mmap.mmap(-1, 16_384))  # of the system: an interpreter may have much that was free already
        kept[-1].write(os.urandom(16_000))

    try:
        tally = Session(target(parse), tmp_path, seed=1).run(6000)
        assert [finding.kind for finding in tally.findings] == ["memory"]
    finally:
        for held in kept:
            held.close()


def test_a_parser_that_is_good_has_no_findings_and_the_same_inputs_each_time(tmp_path: Path) -> None:
    heard: list[list[bytes]] = []
    for _ in range(2):
        heard.append([])
        tally = Session(target(heard[-1].append), tmp_path, seed=7).run(1500)
        assert (tally.findings, tally.runs) == ([], 1500)
    assert heard[0] == heard[1]
    assert len(set(heard[0])) > 1000
    assert max(map(len, heard[0])) <= MAX_INPUT_BYTES


def test_where_the_values_of_a_text_are() -> None:
    spans = spans_of(SEED)
    assert [SEED[slice(*span)] for span in spans.keys] == [b'"name"', b'"list"', b'"a"', b'"none"']
    assert {SEED[slice(*span)] for span in spans.values} >= {b'"pi-1"', b"1", b"null", b'[1, 2, {"a": "{\\"b\\": 5}"}]'}
    assert [SEED[slice(*span)] for span in spans.texts] == [b'"{\\"b\\": 5}"']
    rng = random.Random(1)
    assert any(b'{\\"b\\": 5' not in Mutator("json").mutated([SEED], rng) for _ in range(100))


def test_the_command_goes_on_where_it_was_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "chunk", "--state", str(tmp_path)]
    assert main([*options, "--runs", "3000"]) == 0
    assert "| `chunk` | 3,000 |" in capsys.readouterr().out
    assert main([*options, "--runs", "5000"]) == 0
    assert "| `chunk` | 5,000 |" in capsys.readouterr().out


def test_the_command_ends_with_1_for_a_finding_and_keeps_what_a_process_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted.py").write_text(
        """
import os
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.wire import plain
from tests.fuzz.targets import Target
def parse(content):
    if b"x" not in content:
        os.kill(os.getpid(), 9)
TARGETS = (Target(name="dying", make=plain(parse), seeds=lambda: [b"x"], shape="bytes"),)
run_one_of(TARGETS)
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(TARGETS, "dying", target(lambda _content: None))
    monkeypatch.setitem(ROOM_OF, "dying", "planted")
    assert main(["--runs", "2000", "--only", "dying", "--state", str(tmp_path)]) == 1
    (found,) = (tmp_path / "findings").glob("dying-died-*.input")
    assert b"x" not in found.read_bytes()
    assert found.name in capsys.readouterr().out


def test_the_table_adds_up() -> None:
    records = {"a": Record(runs=1000, seconds=2.0, refused=250, slowest_s=0.5, growth_bytes=2**20)}
    assert "| `a` | 1,000 | 500 | 25% | 500 ms | 1.0 MiB | 0 |" in table(["a"], records)
