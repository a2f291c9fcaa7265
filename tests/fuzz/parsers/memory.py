"""Targets: what a device keeps on its disk, as a disk that is damaged may give it back."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from device_agent.application import _Record
from device_agent.journal import Disabling, Journal
from device_agent.journal_database import JournalError
from device_agent.processes import Identity, open_process
from device_agent.slots.records import Committed, SlotName, SlotRecord, Staging, Trial
from device_agent.slots.records import load as load_record
from device_agent.window import Window, leading_bytes, received_bytes
from protocol.codec import decode, encode
from protocol.errors import MessageError, UserError
from protocol.phases import Phase
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.wire import plain
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import APP, ATTEMPT, DIGEST_A, DIGEST_B

SLOT: Final = SlotRecord(component="app", version="1.0.0", build=1, digest=DIGEST_A, size_bytes=5)
RECORDS: Final = (
    SLOT,
    Committed(slot=SlotName.A, image=SLOT, previous=SLOT),
    Trial(slot=SlotName.B, digest=DIGEST_B),
    Staging(digest=DIGEST_A, size_bytes=7),
)


@contextlib.contextmanager
def records(directory: Path) -> Iterator[Parse]:
    """The records of slots: each is exactly right, or counts as not there."""
    path = directory / "record.json"

    def parse(content: bytes) -> object:
        path.write_bytes(content)
        found = [load_record(path, kind) for kind in (SlotRecord, Committed, Trial, Staging)]
        return sum(record is not None for record in found)

    yield parse


def application(content: bytes) -> object:
    """`application.json`: which process the agent takes for its application's."""
    record = decode(content, _Record)
    descriptor = open_process(record.process)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def bitmap(content: bytes) -> object:
    """A bitmap of chunks as the journal may hold it; the first two bytes say how many chunks there are."""
    size_bytes = max(1, int.from_bytes(content[:2], "big") * 65_536 - 1000)
    have = content[2:]
    window = Window(size_bytes, window_bytes=4 * 1024 * 1024, now=0.0, have=have)
    assert 0 <= window.missing <= window.count
    assert 0 <= window.received_bytes <= size_bytes
    assert 0 <= received_bytes(have, size_bytes) <= size_bytes
    assert 0 <= leading_bytes(window.bitmap, size_bytes) <= size_bytes
    asked = window.ask(0.0)
    assert bool(asked) is bool(window.missing)
    for first, count in asked:
        assert 0 <= first < first + count <= window.count
    for first, _count in asked[:3]:
        window.receive(first, 1.0)
    return window.missing


def _filled(path: Path) -> None:
    journal = Journal(path, lambda: 1_800_000_000.0)
    journal.next_session()
    for _ in range(3):
        journal.append(attempt=ATTEMPT)
    journal.append(installed=APP)
    journal.acknowledge(1)
    journal.keep_seen("everyone/app", 3, b'{"product":"x"}')
    journal.raise_floors({"app": 2})
    journal.condemn(DIGEST_A, 3)
    journal.note_failure(DIGEST_B)
    journal.keep_installed(APP)
    journal.set_disabling(Disabling(until_ms=5, duration_ms=3, why="x"))
    journal.set_holders_boot("boot")
    journal.refuse("bad_chunk")
    journal.chunks.save_bitmap(DIGEST_A, DIGEST_B, b"\x05")
    journal.chunks.save_chunk_list(DIGEST_A, DIGEST_B, b"\x00" * 32)
    journal.save(journal.load())
    journal.close()


def _read(journal: Journal) -> object:
    """Read all that an agent reads, and write what it writes."""
    snapshot = journal.load()
    _ = journal.session, journal.acknowledged, journal.journal_id
    journal.position()
    journal.unacknowledged(10)
    for seen in journal.all_seen().values():
        assert isinstance(seen.payload, bytes)
    for floors in (journal.floors(), journal.failed(), journal.refused()):
        assert all(type(name) is str and type(number) is int for name, number in floors.items())
    journal.reported_failed()
    journal.back_off(DIGEST_B)
    journal.installed()
    journal.disabling()
    journal.holders_boot()
    bits = journal.chunks.bitmap(DIGEST_A, DIGEST_B)
    Window(8 * 65_536, window_bytes=65_536, now=0.0, have=bits)
    journal.chunks.chunk_list(DIGEST_B)
    journal.next_session()
    journal.append(attempt=ATTEMPT)
    journal.acknowledge(3)
    journal.raise_floors({"app": 4, "os": 1})
    journal.condemn(DIGEST_B, 9)
    journal.note_failure(DIGEST_B)
    journal.refuse("bad_chunk")
    journal.save(snapshot)
    return snapshot.phase.value if isinstance(snapshot.phase, Phase) else None


@contextlib.contextmanager
def journal_rows(directory: Path) -> Iterator[Parse]:
    """The journal's rows, with values that nobody wrote: a journal says JournalError at worst."""
    pristine, path = directory / "pristine.db", directory / "journal.db"
    _filled(path)
    shutil.copy(path, pristine)

    def parse(content: bytes) -> object:
        change = decode_change(content)
        shutil.copy(pristine, path)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            try:
                database.execute(f'UPDATE {change[0]} SET "{change[1]}" = ?', (change[2],))  # noqa: S608
                database.commit()
            except (sqlite3.Error, OverflowError):
                return "not written"
        journal = Journal(path, lambda: 1_800_000_000.0)
        try:
            return _read(journal)
        finally:
            journal.close()

    yield parse


COLUMNS: Final = {
    "facts": ("name", "value"), "entries": ("seq", "body"), "told": ("seq", "body"),
    "seen": ("channel", "seq", "payload"), "failed": ("digest", "order", "number"),
    "backing_off": ("digest", "failures", "at_ms"), "floors": ("component", "seq"), "installed": ("component", "body"),
    "refused": ("code", "count"), "chunks": ("image", "blob", "bitmap"), "chunk_lists": ("blob", "image", "content"),
}  # fmt: skip


def decode_change(content: bytes) -> tuple[str, str, object]:
    """Return a table, a column and a value; a NUL in front makes the value a blob."""
    table = list(COLUMNS)[content[0] % len(COLUMNS)] if content else "facts"
    columns = COLUMNS[table]
    column = columns[content[1] % len(columns)] if len(content) > 1 else columns[-1]
    value: object = content[3:]
    match content[2:3]:
        case b"t":
            value = content[3:].decode("utf-8", errors="replace")
        case b"i":
            value = int.from_bytes(content[3:10], "big", signed=True)
        case b"n":
            value = None
        case b"f":
            value = float(len(content)) / 7
    return table, column, value


def changes() -> list[bytes]:
    """Return a change of each column."""
    return [
        bytes((table, column)) + value
        for table, columns in enumerate(COLUMNS.values())
        for column in range(len(columns))
        for value in (b't{"a":1}', b"i\x00\x00\x00\x00\x00\x01", b"b\xff\x00\xff", b"n", b"f", b"t12")
    ]


@contextlib.contextmanager
def journal_file(directory: Path) -> Iterator[Parse]:
    """The journal's file with bytes that fell over: it is read, refused, or set aside for a new one."""
    path = directory / "journal.db"
    _filled(path)
    whole = path.read_bytes()

    def parse(content: bytes) -> object:
        for old in directory.glob("journal.db*"):
            old.unlink()
        damaged = bytearray(whole)
        for at in range(0, len(content) - 4, 5):  # where (3 bytes), and what stands there
            place = int.from_bytes(content[at : at + 3], "big") % len(damaged)
            damaged[place : place + 2] = content[at + 3 : at + 5]
        path.write_bytes(content if content[:6] == b"SQLite" else bytes(damaged))
        journal = Journal(path, lambda: 1_800_000_000.0)
        try:
            return _read(journal)
        finally:
            journal.close()

    yield parse


TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="slot_records",
        make=records,
        seeds=lambda: [encode(record) for record in RECORDS],
        shape="json",
        covers=("device_agent.slots.records.load",),
    ),
    Target(
        name="application.json",
        make=plain(application),
        seeds=lambda: [
            encode(_Record(process=Identity(pid=pid, started_ticks=9, boot_id="b"), digest=DIGEST_A))
            for pid in (1, 99_999, os.getpid())
        ],
        shape="json",
        expected=(MessageError,),
        covers=("device_agent.application.Application", "device_agent.processes.open_process"),
    ),
    Target(
        name="bitmap",
        make=plain(bitmap),
        seeds=lambda: [b"\x00\x08\x05", b"\x00\x09\xff\x01", b"\x02\x00" + b"\xff\x00" * 32, b"\x00\x10\xff\xff"],
        shape="bytes",
        covers=(
            "device_agent.window.Window",
            "device_agent.window.received_bytes",
            "device_agent.window.leading_bytes",
        ),
    ),
    Target(
        name="journal.rows",
        make=journal_rows,
        seeds=changes,
        shape="bytes",
        expected=(JournalError,),
        covers=("device_agent.journal.Journal",),
        words=(b"0", b"-1", b"{}", b"null", b'{"seq":1}', b"99999999999999999999", b"[]"),
        heavy=True,
    ),
    Target(
        name="journal.file",
        make=journal_file,
        seeds=lambda: [
            *(place.to_bytes(3, "big") + b"\xff\xff" for place in range(0, 60_000, 997)),
            b"SQLite format 3\x00",
        ],
        shape="bytes",
        expected=(JournalError, UserError),
        covers=("device_agent.journal_database.Database",),
        heavy=True,
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
