"""A journal that somebody or something damaged costs what was damaged, and no agent its start."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.events import Snapshot
from device_agent.journal import Disabling, Journal
from protocol.phases import Phase
from protocol.values import ComponentState
from tests.device_agent.journal.entries import NOW, told
from tests.support.updates import attempt, digest_of

Open = Callable[[], Journal]


@pytest.mark.parametrize("damage", ["garbage", "hole"])
def test_a_damaged_journal_is_set_aside(
    journal: Journal, path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = journal.journal_id
    for number in range(200):
        journal.append(attempt=told(str(number)))
    journal.close()
    content = bytearray(path.read_bytes())
    content[:] = os.urandom(len(content)) if damage == "garbage" else content
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    path.write_bytes(content)
    again = Journal(path, lambda: NOW)
    assert again.journal_id != before
    assert again.append(attempt=told()) == 1
    again.close()
    assert path.with_name("journal.db.damaged-1").read_bytes() == content
    assert "damaged" in caplog.text


def test_a_snapshot_that_is_not_understood_counts_as_none(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.save(Snapshot(phase=Phase.PROVING, attempt=attempt()))
    stored = json.loads(journal._fact("snapshot") or "")
    journal._set_fact("snapshot", json.dumps({**stored, "phase": "dancing"}))
    assert journal.load() == Snapshot()
    assert "not understood" in caplog.text


def read_and_written(journal: Journal) -> None:
    """Read all that an agent reads, and write what it writes: it goes on."""
    entries = journal.unacknowledged(99)
    assert [entry.seq for entry in entries] == [number + entries[0].seq for number in range(len(entries))]
    next_seq = journal.position().next_seq
    _ = journal.load(), journal.session, journal.acknowledged, journal.all_seen(), journal.floors(), journal.failed()
    _ = journal.installed(), journal.disabling(), journal.refused(), journal.back_off(digest_of("x"))
    _ = journal.chunks.bitmap("i", "b"), journal.chunks.chunk_list("b")
    assert journal.append(attempt=told("after")) == next_seq
    journal.condemn(digest_of("y"), 1)
    journal.note_failure(digest_of("x"))
    journal.next_session()
    journal.refuse("bad_chunk")
    journal.save(journal.load())
    assert journal.unacknowledged(99)[-1].attempt == told("after")


def fill(journal: Journal) -> None:
    journal.next_session()
    for number in range(4):
        journal.append(attempt=told(f"a{number}"))
    journal.acknowledge(1)
    journal.keep_seen("everyone/app", 3, b"{}")
    journal.raise_floors({"app": 2})
    journal.condemn(digest_of("y"), 1)
    journal.note_failure(digest_of("x"))
    journal.keep_installed(ComponentState(component="app", version="1.0.0", build=1, digest=digest_of("x")))
    journal.set_disabling(Disabling(until_ms=5))
    journal.refuse("bad_chunk")
    journal.chunks.save_bitmap("i", "b", b"\x01")
    journal.chunks.save_chunk_list("i", "b", b"\x00" * 32)
    journal.save(journal.load())


@pytest.mark.parametrize("value", [b"\xff\xfe", "text", "", -1, 2**60, 1.5, 7])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("facts", "value"), ("entries", "body"), ("told", "body"), ("seen", "seq"), ("seen", "payload")),
        *(("failed", "order"), ("failed", "number"), ("backing_off", "failures"), ("backing_off", "at_ms")),
        *(("floors", "seq"), ("installed", "body"), ("refused", "count"), ("chunks", "bitmap")),
        ("chunk_lists", "content"),
    ],
)
def test_a_value_that_nobody_wrote_stops_no_agent(
    open_journal: Open, path: Path, table: str, column: str, value: object
) -> None:
    journal = open_journal()
    fill(journal)
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f'UPDATE {table} SET "{column}" = ?', (value,))  # noqa: S608
        database.commit()
    read_and_written(open_journal())


def test_an_entry_that_was_garbled_costs_itself_alone(open_journal: Open, path: Path) -> None:
    journal = open_journal()
    fill(journal)
    before = journal.journal_id
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE entries SET body = '{}' WHERE seq = 3")
        database.commit()
    journal = open_journal()
    kept = [entry.attempt.attempt_id for entry in journal.unacknowledged(9) if entry.attempt]
    assert kept == ["a1", "a3"]
    assert journal.journal_id != before  # under the old one their numbers would have a gap
    assert [entry.seq for entry in journal.unacknowledged(9)] == [1, 2]


def test_a_file_whose_tables_are_others_is_set_aside(open_journal: Open, path: Path) -> None:
    open_journal().close()
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE floors (component") == 1
    path.write_bytes(content.replace(b"CREATE TABLE floors (component", b"CREATE TABLE floors (\xff\xffmponent"))
    fill(open_journal())
    assert path.with_name(path.name + ".damaged-1").exists()
