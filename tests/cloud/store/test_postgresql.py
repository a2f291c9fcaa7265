"""What is PostgreSQL's own: turns among several servers, what is stored where, connections that are lost, addresses."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlmodel import select

from cloud.models import OtaRow
from cloud.store.audit import audit, row_hash
from cloud.store.errors import ConflictError, StoreError, UnavailableError
from cloud.store.postgresql import WRITER_LOCK
from cloud.store.store import Store
from protocol.phases import Outcome, Reason
from tests.cloud.store.fleets import ANN, HAPPY, ON_POSTGRESQL, PRODUCT, Clock, Device, join
from tests.cloud.store.reporting import DEVICES, entries_of
from tests.support.postgres import Cluster

pytestmark = [ON_POSTGRESQL, pytest.mark.postgresql]


def database_of(url: str) -> str:
    return str(sa.make_url(url).database)


# Turns


def test_several_servers_number_without_gaps_and_in_the_order_of_time(url: str) -> None:
    """Each a store of its own: they share no lock but the database's. What is refused leaves no gap."""
    stores = [Store.open(url, time.time) for _ in range(3)]
    together, refused = threading.Barrier(6), itertools.count()
    join(stores[0], *(f"pi-{number}" for number in range(6)))

    def decide(store: Store, number: int) -> None:
        together.wait()
        for count in range(8):
            store.devices.create_ota(f"pi-{number}", "app", ("1.1.0", "1.2.0")[count % 2], by=ANN)
            try:
                store.catalog.create_product(PRODUCT, hardware_models=["pi4"], by=ANN)
            except ConflictError:
                next(refused)

    threads = [threading.Thread(target=decide, args=(stores[number % 3], number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = stores[0].audit.rows()
    with stores[1]._database.reading() as session:
        decisions = sorted(session.exec(select(OtaRow.decision)))
    for store in stores:
        store.close()
    assert next(refused) == 48
    assert decisions == list(range(1, 49))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.prev_hash for row in rows[1:]] == [row.hash for row in rows[:-1]]
    assert all(row_hash(row) == row.hash for row in rows)
    times = [row.at_ms for row in rows if row.action.startswith("ota.")]
    assert times == sorted(times)


def test_who_waits_too_long_for_a_turn_is_told_so_and_has_changed_nothing(
    url: str, clock: Clock, postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.store.postgresql.LOCK_TIMEOUT_MS", 100)
    with Store.open(url, clock) as store, postgresql.connect(database_of(url)) as other:
        other.execute(f"SELECT pg_advisory_lock({WRITER_LOCK})".encode())
        with pytest.raises(StoreError, match="refused a change: canceling statement due to lock timeout; nothing was"):
            store.catalog.create_group(PRODUCT, "late", by=ANN)
        assert [group.group for group in store.catalog.groups(PRODUCT)] == ["everyone"], "reading waits for nobody"
        other.execute(f"SELECT pg_advisory_unlock({WRITER_LOCK})".encode())
        store.catalog.create_group(PRODUCT, "late", by=ANN)


def test_a_reader_sees_one_moment_and_changes_nothing(store: Store) -> None:
    count = sa.text("SELECT count(*) FROM device_group")
    with store._database.reading() as session:
        before = session.connection().execute(count).scalar()
        store.catalog.create_group(PRODUCT, "new", by=ANN)
        assert session.connection().execute(count).scalar() == before
    with pytest.raises(StoreError, match="read-only transaction"), store._database.reading() as session:
        session.connection().execute(sa.text("DELETE FROM counter"))


# Durability


def test_what_is_stored_is_on_the_disk_whatever_the_servers_default(store: Store, postgresql: Cluster) -> None:
    assert postgresql.run("SHOW synchronous_commit") == [{"synchronous_commit": "off"}]
    with store._database.changing() as change:
        assert change.session.connection().exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_kill_in_the_middle_of_reports_loses_nothing_and_doubles_nothing(store: Store, url: str) -> None:
    join(store, *DEVICES)
    acknowledged = dict.fromkeys(DEVICES, 0)
    command = [sys.executable, "-m", "tests.cloud.store.reporting", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for number in itertools.count(1):
            line = child.stdout.readline()
            if not line:
                break
            if number == 10:
                child.kill()
            device_id, through = line.split()
            acknowledged[device_id] = int(through)
    assert child.returncode == -9
    for device_id in DEVICES:
        stored = store.devices.device(device_id).journal_through
        assert acknowledged[device_id] <= stored <= acknowledged[device_id] + 3
        device = Device(store, device_id)
        entries = entries_of(device)[: stored + 8]
        for at in range(0, len(entries), 32):
            device.report(*entries[at : at + 32])
        steps = sorted(it.seq for attempt in store.journal.history(device_id, limit=1000) for it in attempt.steps)
        assert steps == list(range(1, stored + 9))


def test_connections_that_were_broken_are_made_anew(store: Store, url: str, postgresql: Cluster) -> None:
    store.catalog.create_group(PRODUCT, "one", by=ANN)
    break_connections(postgresql, url)
    store.catalog.create_group(PRODUCT, "two", by=ANN)
    break_connections(postgresql, url)
    assert [group.group for group in store.catalog.groups(PRODUCT)] == ["one", "two", "everyone"]


def test_a_connection_that_is_lost_in_a_change_undoes_it(store: Store, url: str, postgresql: Cluster) -> None:
    def change() -> None:
        with store._database.changing() as it:
            audit(it, ANN, "test.lost", "x/1")
            break_connections(postgresql, url)
            audit(it, ANN, "test.lost", "x/2")

    with pytest.raises(UnavailableError, match=r"not reached for a change: .*; nothing was changed"):
        change()
    assert not [row for row in store.audit.rows() if row.action == "test.lost"]


def test_a_connection_that_is_lost_in_a_commit_leaves_it_open_what_became_of_it(
    store: Store, url: str, postgresql: Cluster
) -> None:
    def change() -> None:
        with store._database.changing() as it:
            audit(it, ANN, "test.lost", "x/1")
            break_connections(postgresql, url)

    with pytest.raises(UnavailableError, match="look whether it was made before trying again"):
        change()


def break_connections(cluster: Cluster, url: str) -> None:
    cluster.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", database_of(url))


# What devices say


def test_a_character_that_it_cannot_store_is_replaced_and_the_rest_is_kept(store: Store) -> None:
    (device,) = join(store, "pi-1")
    device.attributes = {"site": "hall\0"}
    device.store.journal.receive_hello("pi-1", replace(device.greeting(), timezone="a\0b"))
    *entries, last = device.steps("1.1.0", "rel-x", *HAPPY, outcome=Outcome.FAILED, reason=Reason.HEALTH_FAILED)
    assert last.attempt is not None
    last = replace(last, attempt=replace(last.attempt, detail="half\0read"))
    assert device.report(*entries, last) == last.seq
    assert store.journal.history("pi-1")[0].detail == "half\ufffdread"
    assert store.devices.device("pi-1").attributes == {"site": "hall\0"}


# Addresses


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str, clock: Clock, postgresql: Cluster) -> None:
    postgresql.run("UPDATE alembic_version SET version_num = '9999'", database=database_of(url))
    with pytest.raises(StoreError, match=r"by a newer version of Fleetlift \(schema 9999; .*Nothing was changed"):
        Store.open(url, clock)


def test_one_that_cannot_hold_every_text_is_refused(postgresql: Cluster, clock: Clock, url: str) -> None:
    postgresql.run("CREATE DATABASE latin ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="encoding is LATIN1, not UTF8; nothing was changed"):
        Store.open(postgresql.url("latin"), clock)
    postgresql.drop("latin")


def test_one_that_does_not_answer_is_a_sentence(postgresql: Cluster, clock: Clock, url: str) -> None:
    with pytest.raises(StoreError, match=r'cannot be opened: .*database "nowhere" does not exist'):
        Store.open(postgresql.url("nowhere"), clock)
