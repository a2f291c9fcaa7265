"""A release costs as many rows and messages as it has channels, however many devices follow it."""

from __future__ import annotations

import pytest
from sqlalchemy import func, inspect
from sqlmodel import col, insert, select

from cloud.models import DeviceRow, Row
from cloud.store.store import Store
from cloud.values import OutboxItem, OutboxKind
from protocol.schedule import Ramp, Terms
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, START_S, channel, publish, release

NOW_MS = int(START_S * 1000)


def people(store: Store, devices: int) -> None:
    """Put this many devices into the store: half of them online."""
    rows = [
        {
            "id": f"pi-{number:05d}",
            "product": PRODUCT,
            "hardware_model": MODEL,
            "attributes": {},
            "encodings": [],
            "online": number % 2 == 0,
            "registered_at_ms": NOW_MS,
        }
        for number in range(devices)
    ]
    with store._database.changing() as change:
        change.session.execute(insert(DeviceRow), rows)


def counts(store: Store) -> dict[str, int]:
    """How many rows each table holds."""
    tables = Row.metadata.sorted_tables
    with store._database.reading() as session:
        there = set(inspect(session.connection()).get_table_names())
        return {
            it.name: session.connection().execute(select(func.count()).select_from(it)).scalar_one()
            for it in tables
            if it.name in there
        }


def told(store: Store) -> list[OutboxItem]:
    """What is to be told; settled at once."""
    found = list(store.outbox.take(1000))
    for item in found:
        store.outbox.settle(item)
    return found


@pytest.mark.parametrize("devices", [2, 3000])
def test_a_release_writes_a_row_of_each_kind_and_tells_one_notice(store: Store, devices: int) -> None:
    people(store, devices)
    release(store, "1.0.0")
    told(store)
    before = counts(store)

    ramp = Ramp(from_percentage=0, starts_at_ms=NOW_MS, ends_at_ms=NOW_MS + 3_600_000)
    made = release(store, "1.1.0", terms=Terms(ramp=ramp))

    after = counts(store)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {"release": 1, "audit": 1, "event": 1, "outbox": 1}
    assert [(item.kind, item.key) for item in told(store)] == [(OutboxKind.NOTICE, str(channel()))]
    notice = store.releases.channel_notice(channel())
    assert notice.releases[0].release_id == made.release_id


def test_releases_to_several_groups_tell_a_notice_for_each(store: Store) -> None:
    people(store, 500)
    groups = [f"site-{number}" for number in range(5)]
    for number, group in enumerate(groups):
        store.catalog.create_group(PRODUCT, group, by=ANN)
        with store._database.reading() as session:
            ids = session.exec(select(DeviceRow.id).where(col(DeviceRow.id).like(f"%{number}"))).all()
        store.catalog.add_to_group(PRODUCT, group, ids, by=ANN)
    publish(store, "2.0.0")
    while told(store):
        pass

    for group in groups:
        release(store, "2.0.0", group)

    assert sorted(item.key for item in told(store)) == sorted(str(channel(group)) for group in groups)
