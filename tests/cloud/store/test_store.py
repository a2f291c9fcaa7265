"""What the store promises of its database: turns, snapshots, durability, the record of decisions, clear refusals."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import event

from cloud.fleet import AttemptFilter
from cloud.store.audit import row_hash
from cloud.store.engine import MIGRATIONS
from cloud.store.errors import NotFoundError, StoreError
from cloud.store.store import Store
from cloud.values import OutboxItem, OutboxKind
from protocol.phases import Outcome
from tests.cloud.store.fleets import ANN, HAPPY, ON_SQLITE, PRODUCT, Clock, Device, join, release
from tests.cloud.store.reporting import ATTEMPTS, DEVICES, entries_of

# Turns and snapshots


def test_threads_take_turns_and_lose_nothing(store: Store) -> None:
    """Eight devices report at once while two operators decide: every entry is applied, every decision recorded."""
    fleet = join(store, *(f"pi-{number}" for number in range(8)))
    stories = {device.device_id: device.steps("1.1.0", "rel-x", *HAPPY, outcome=Outcome.SUCCEEDED) for device in fleet}
    together, failures = threading.Barrier(10), []

    def tell(device: Device) -> None:
        for entry in stories[device.device_id]:
            device.report(entry)
            device.tell()

    def decide(name: str) -> None:
        for number in range(10):
            store.catalog.create_group(PRODUCT, f"{name}-{number}", by=name)
            store.devices.devices()

    def run(work: object, argument: object) -> None:
        together.wait()
        try:
            work(argument)  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(error)

    jobs = [(tell, device) for device in fleet] + [(decide, name) for name in ("bob", "eve")]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert {view.journal_through for view in store.devices.devices()} == {4}
    assert len(store.journal.attempts(AttemptFilter(outcome=Outcome.SUCCEEDED))) == 8
    assert [view.rank for view in store.catalog.groups(PRODUCT)] == list(range(1, 22))
    assert_unbroken(store)


def test_two_processes_on_one_database_take_turns_too(store: Store, url: str, clock: Clock) -> None:
    """Two stores share no lock but the database's own."""
    with Store.open(url, clock) as other:
        together = threading.Barrier(2)
        failures: list[Exception] = []

        def decide(mine: Store, name: str) -> None:
            together.wait()
            try:
                for number in range(40):
                    mine.catalog.create_group(PRODUCT, f"{name}-{number}", by=name)
            except StoreError as error:
                failures.append(error)

        threads = [threading.Thread(target=decide, args=job) for job in ((store, "bob"), (other, "eve"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
    assert [view.rank for view in store.catalog.groups(PRODUCT)] == list(range(1, 82))
    assert_unbroken(store)


def test_reads_do_not_wait_for_a_change_and_see_none_of_it(store: Store) -> None:
    with store._database.changing() as change:
        change.next_number("decision")
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.append(len(store.devices.devices())))
        reader.start()
        reader.join(timeout=10)
        assert seen == [0]


def test_a_change_that_fails_leaves_nothing_behind(store: Store) -> None:
    join(store, "pi-1")
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    before = (store.audit.rows(), store.outbox.take(), store.catalog.members(PRODUCT, "test"))

    with pytest.raises(NotFoundError):
        store.catalog.add_to_group(PRODUCT, "test", ["pi-1", "pi-9"], by=ANN)

    def die() -> None:
        with store._database.changing() as change:
            change.next_number("decision")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        die()

    assert (store.audit.rows(), store.outbox.take(), store.catalog.members(PRODUCT, "test")) == before
    with store._database.changing() as change:
        assert change.next_number("decision") == 1


# Durability


def test_all_is_there_when_the_store_is_opened_again(store: Store, url: str, clock: Clock) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    made = release(store, "1.1.0", "test")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)

    def everything(opened: Store) -> tuple[object, ...]:
        return (
            opened.catalog.products(),
            opened.catalog.groups(),
            opened.catalog.firmwares(),
            opened.releases.releases(),
            opened.releases.channel_notice(made.channel),
            opened.devices.devices(),
            opened.journal.history("pi-1"),
            opened.metrics.release(made.release_id),
            opened.outbox.take(),
            opened.audit.rows(),
        )

    before = everything(store)
    store.close()
    with Store.open(url, clock) as again:
        assert everything(again) == before


@ON_SQLITE
@pytest.mark.parametrize("reports_before_the_end", [1, 40, 101])
def test_a_kill_in_the_middle_of_reports_loses_nothing_and_doubles_nothing(
    store: Store, url: str, reports_before_the_end: int
) -> None:
    """SIGKILL while a child stores reports; what it was told is stored is there, and nothing is there twice."""
    join(store, *DEVICES)
    acknowledged = dict.fromkeys(DEVICES, 0)
    command = [sys.executable, "-m", "tests.cloud.store.reporting", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(reports_before_the_end):
            device_id, through = child.stdout.readline().split()
            acknowledged[device_id] = int(through)
        child.kill()
        rest = child.stdout.read().splitlines()
    for line in rest:
        device_id, through = line.split()
        acknowledged[device_id] = int(through)
    assert child.returncode == -9
    assert min(acknowledged.values()) < ATTEMPTS * 4

    for device_id in DEVICES:
        stored = store.devices.device(device_id).journal_through
        assert acknowledged[device_id] <= stored <= acknowledged[device_id] + 3
        attempts = store.journal.history(device_id, limit=1000)
        steps = sorted(step.seq for attempt in attempts for step in attempt.steps)
        assert steps == list(range(1, stored + 1))
        ended = [attempt for attempt in attempts if attempt.outcome is not None]
        assert len(ended) == stored // 4

        # The device sends all of it again, not knowing what arrived.
        device = Device(store, device_id)
        entries = entries_of(device)
        for at in range(0, len(entries), 32):
            device.report(*entries[at : at + 32])
        attempts = store.journal.history(device_id, limit=1000)
        assert len(attempts) == ATTEMPTS
        assert all(
            [step.seq for step in it.steps] == list(range(it.steps[0].seq, it.steps[0].seq + 4)) for it in attempts
        )
    assert_whole(url)


@ON_SQLITE
def test_a_full_disk_refuses_a_change_with_a_sentence_and_loses_nothing(store: Store) -> None:
    (device,) = join(store, "pi-1")
    entries = device.steps("1.1.0", "rel-x", *HAPPY)
    device.report(entries[0])
    pages = [1]

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")  # never below what the file has

    event.listen(store._database._engine, "connect", limit)
    store._database._engine.dispose()

    def fill() -> None:
        for number in range(1000):
            store.audit.record(ANN, "test.filled", f"disk/{number}", after="x" * 1000)

    with pytest.raises(StoreError, match="refused a change: database or disk is full; nothing was changed"):
        fill()
    assert store.devices.device("pi-1").journal_through == 1
    assert_unbroken(store)

    pages[0] = 1_000_000
    store._database._engine.dispose()
    assert device.report(*entries) == 3


def assert_whole(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


@ON_SQLITE
def test_sqlite_is_set_up_to_keep_what_it_was_given(store: Store) -> None:
    with store._database.reading() as session:
        settings = {
            name: session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


# The record of decisions


def assert_unbroken(store: Store) -> None:
    prev_hash, expected = "0" * 64, 1
    for row in store.audit.rows(limit=100_000):
        covered = {
            "number": row.number,
            "at_ms": row.at_ms,
            "actor": row.actor,
            "action": row.action,
            "subject": row.subject,
            "before": row.before,
            "after": row.after,
            "prev_hash": row.prev_hash,
        }
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert (row.number, row.prev_hash) == (expected, prev_hash)
        assert row.hash == hashlib.sha256(text.encode()).hexdigest() == row_hash(row)
        prev_hash, expected = row.hash, expected + 1


def test_each_decision_is_recorded_with_who_and_what_and_chained(store: Store, clock: Clock) -> None:
    clock.pass_s(7)
    store.catalog.create_group(PRODUCT, "test", by="zoë")
    made = release(store, "1.1.0", "test", description='"quoted" ünïcode')

    rows = store.audit.rows()
    assert [row.action for row in rows] == [
        "product.created",
        *["firmware.added"] * 3,
        "group.created",
        "release.created",
    ]
    assert (rows[4].actor, rows[4].at_ms, rows[4].before) == ("zoë", int(clock() * 1000), None)
    assert rows[5].subject == f"release/{made.release_id}"
    assert rows[5].after["description"] == '"quoted" ünïcode'
    assert store.audit.rows(after=4) == rows[4:]
    assert store.audit.rows(limit=2) == rows[:2]
    assert_unbroken(store)


@ON_SQLITE
def test_a_row_that_was_changed_shows(store: Store, url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    with connection:
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE number = 2")
    connection.close()

    assert [row_hash(row) == row.hash for row in store.audit.rows()] == [True, False, True, True]


def test_what_changes_no_row_is_recorded_too(store: Store) -> None:
    recorded = store.audit.record("bob", "root.accepted", "root/2", before=1, after={"version": 2})

    assert store.audit.rows(subject="root/2") == (recorded,)
    assert_unbroken(store)


# The outbox


def test_what_changes_while_it_is_told_is_told_again(store: Store) -> None:
    for item in store.outbox.take():
        store.outbox.settle(item)
    store.outbox.mark(OutboxKind.BUNDLE, PRODUCT)
    (item,) = store.outbox.take()

    store.outbox.mark(OutboxKind.BUNDLE, PRODUCT)
    assert store.outbox.settle(item) is False
    (again,) = store.outbox.take()
    assert (again.kind, again.key) == (item.kind, item.key)
    assert store.outbox.settle(again) is True
    assert store.outbox.settle(again) is False

    # Not even an item from long ago settles a later one, though it was settled in between.
    store.outbox.mark(OutboxKind.BUNDLE, PRODUCT)
    assert store.outbox.settle(again) is False
    assert len(store.outbox.take()) == 1


def test_the_outbox_gives_the_oldest_first(store: Store) -> None:
    for item in store.outbox.take():
        store.outbox.settle(item)
    for key in ("b", "a", "c", "b"):
        store.outbox.mark(OutboxKind.DESIRED, key)

    assert [item.key for item in store.outbox.take()] == ["a", "c", "b"]
    assert [item.key for item in store.outbox.take(limit=1)] == ["a"]
    assert store.outbox.settle(OutboxItem(OutboxKind.DESIRED, "nobody", 1)) is False


# Opening


@ON_SQLITE
def test_a_database_of_a_newer_version_is_refused_and_left_alone(store: Store, url: str, clock: Clock) -> None:
    store.close()
    path = Path(url.removeprefix("sqlite:///"))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    dump = list(connection.iterdump())

    with pytest.raises(StoreError) as refused:
        Store.open(url, clock)

    said = str(refused.value)
    newest = max(it.stem[1:5] for it in MIGRATIONS.glob("versions/v*.py"))
    assert f"was written by a newer version of Fleetlift (schema 9999; this one knows up to {newest})" in said
    assert "Nothing was changed. Start the newer version, or restore a backup" in said
    assert list(connection.iterdump()) == dump
    connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "a store in memory would forget everything"),
        ("no url", "the database URL cannot be read"),
        ("sqlite:////nonexistent/dir/x.db", "No such file or directory: /nonexistent/dir/x.db"),
        ("mysql://ann@localhost/fleetlift", "'mysql' is no database that is known here"),
        ("postgresql+psycopg2://ann@/fleetlift", r"'postgresql\+psycopg2' is not spoken here"),
        ("postgresql://ann@/fleetlift?password=secret", "is shown in logs; name a file"),
        ("postgresql://ann@db.example/fleetlift", "only over TLS, with its certificate checked"),
        ("postgresql://ann@db.example/fleetlift?sslmode=require", "add .sslmode=verify-full&sslrootcert="),
        ("postgresql://ann@/fleetlift?host=/run/x&host=db.example:5432", "only over TLS"),
        ("postgresql://ann@/fleetlift?host=127.0.0.1,db.example", "only over TLS"),
        ("postgresql://ann@/fleetlift?service=fleet", "only over TLS"),
    ],
)
def test_what_is_no_database_is_refused_with_a_sentence(url: str, said: str, clock: Clock) -> None:
    with pytest.raises(StoreError, match=said):
        Store.open(url, clock)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 1000)

    with pytest.raises(StoreError, match="file is not a database"):
        Store.open(f"sqlite:///{path}", clock)
    assert path.read_text() == "not a database\n" * 1000


@ON_SQLITE
def test_the_database_is_for_its_owner_alone(store: Store, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    for file in (path, *path.parent.glob(f"{path.name}-*")):
        assert file.stat().st_mode & 0o777 == 0o600, file
