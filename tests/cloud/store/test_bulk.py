"""One decision for many devices, on a real database: what changes, what does not, and what the record says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import pytest

from cloud.bulk import BulkOrder, Deed
from cloud.fleet import DeviceFilter, OtaStatus
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.store import Store
from cloud.values import OutboxKind
from tests.cloud.store.fleets import ANN, MODEL, ON_SQLITE, PRODUCT, Device, join, manifest

MANY = 1203
"""More than two transactions' worth."""


def told(store: Store, asked: BulkOrder, names: Sequence[str], **which: object) -> tuple[object, ...]:
    """What would come of it: told of the devices by name, and of those that a filter finds, alike."""
    would = store.bulk.check(asked, names)
    found = store.bulk.forecast(asked, DeviceFilter(**which))  # type: ignore[arg-type]
    assert found == would
    return would.devices, would.changed, would.unchanged, would.left_out, would.examples


def order(deed: Deed, **more: object) -> BulkOrder:
    return BulkOrder(product=PRODUCT, deed=deed, **more)  # type: ignore[arg-type]


def locked(version: str = "1.1.0") -> BulkOrder:
    return order(Deed.LOCK, component="app", version=version)


@ON_SQLITE
def test_many_devices_are_grouped_in_transactions_of_some_each_in_the_record(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "pilots", by=ANN)
    names = [f"pi-{number:04}" for number in range(MANY)]
    for name in names:
        store.devices.register(name, product=PRODUCT, hardware_model=MODEL, by=ANN)
    store.catalog.add_to_group(PRODUCT, "pilots", names[:3], by=ANN)
    add = order(Deed.ADD_TO_GROUP, group="pilots")

    assert told(store, add, names) == (MANY, MANY - 3, 3, {}, {})
    assert store.catalog.group(PRODUCT, "pilots").devices == 3, "nothing was done"

    made = store.bulk.do(add, names, by=ANN, chosen={"text": "pi"})
    assert (made.devices, made.changed, made.unchanged, made.left_out) == (MANY, MANY - 3, 3, {})
    assert set(store.catalog.members(PRODUCT, "pilots")) == set(names)
    rows = [
        json.loads(json.dumps(row.after))
        for row in store.audit.rows(subject=f"group/{PRODUCT}/pilots")
        if row.action == "group.added" and "bulk" in row.after
    ]
    assert [row["number"] for row in rows] == [497, 500, 203], "one row a transaction, and none is long"
    assert {row["bulk"] for row in rows} == {made.bulk_id}
    assert {row["of"] for row in rows} == {MANY}
    assert rows[0]["chosen"] == {"text": "pi"}
    assert [it for row in rows for it in row["devices"]] == names[3:]

    away = order(Deed.REMOVE_FROM_GROUP, group="pilots")
    assert told(store, away, names, group="pilots")[:3] == (MANY, MANY, 0)
    gone = store.bulk.do(away, names[:600], by=ANN)
    assert (gone.changed, store.catalog.group(PRODUCT, "pilots").devices) == (600, MANY - 600)


def test_devices_are_locked_and_unlocked_and_told_so(store: Store) -> None:
    store.catalog.add_firmware(
        manifest("3.0.0", 9, hardware=("pi9",)),
        digest="9" * 64,
        size_bytes=1,
        signer_keyids=("k",),
        published=True,
        by=ANN,
    )
    join(store, "pi-1", "pi-2", "pi-3")
    Device(store, "pi-9", model="pi9").hello()
    store.devices.pin("pi-2", "app", "1.1.0", by=ANN)
    for item in store.outbox.take():
        store.outbox.settle(item)

    left_out = "hardware model pi9, which the firmware is not for"
    all_of_them = ["pi-1", "pi-2", "pi-3", "pi-9"]
    assert told(store, locked(), all_of_them) == (4, 2, 1, {left_out: 1}, {left_out: ["pi-9"]})
    update = order(Deed.OTA, component="app", version="1.2.0")
    assert told(store, update, all_of_them)[1:4] == (2, 0, {left_out: 1, "locked to a version of app": 1})
    assert told(store, order(Deed.UNLOCK, component="app"), all_of_them)[1:4] == (1, 3, {})
    assert told(store, order(Deed.REVOKE), ["pi-2"], text="2")[:3] == (1, 1, 0)

    made = store.bulk.do(locked(), all_of_them, by=ANN)
    assert (made.changed, made.unchanged) == (2, 1)
    assert made.left_out == {left_out: 1}
    assert made.examples == {left_out: ["pi-9"]}
    assert [view.pins[0].version for view in store.devices.devices(DeviceFilter(locked=True))] == ["1.1.0"] * 3
    assert [(it.kind, it.key) for it in store.outbox.take()] == [(OutboxKind.DESIRED, it) for it in ("pi-1", "pi-3")]
    (row,) = [it for it in store.audit.rows(subject=f"product/{PRODUCT}") if it.action == "devices.pinned"]
    assert (row.actor, row.after["number"], row.after["app"], row.after["devices"]) == (
        ANN,
        2,
        "1.1.0",
        ["pi-1", "pi-3"],
    )

    assert store.bulk.do(locked("1.2.0"), ["pi-1"], by=ANN).changed == 1, "to another version"
    gone = store.bulk.do(order(Deed.UNLOCK, component="app"), ["pi-1", "pi-2", "pi-9"], by=ANN)
    assert (gone.changed, gone.unchanged) == (2, 1)
    assert store.devices.ids(DeviceFilter(locked=True)) == ("pi-3",)


def test_a_lock_supersedes_updates_and_a_locked_device_gets_none(store: Store) -> None:
    join(store, "pi-1", "pi-2", running="1.0.0")
    ota = order(Deed.OTA, component="app", version="1.2.0", forced=True)
    made = store.bulk.do(ota, ["pi-1", "pi-2"], by=ANN)
    assert made.changed == 2
    first = store.devices.device("pi-1").otas[0]
    assert (first.status, first.forced, first.created_by) == (OtaStatus.OPEN, True, ANN)

    store.bulk.do(locked(), ["pi-1"], by=ANN)
    assert store.devices.ota(first.ota_id).status is OtaStatus.SUPERSEDED
    again = store.bulk.do(ota, ["pi-1", "pi-2"], by=ANN)
    assert again.left_out == {"locked to a version of app": 1}
    assert len(store.devices.otas("pi-2")) == 2, "a later one takes the place of the first"


def test_devices_are_shut_out_once(store: Store) -> None:
    join(store, "pi-1", "pi-2", "pi-3")
    store.certificates.revoke_device("pi-3", "before", by=ANN)
    made = store.bulk.do(order(Deed.REVOKE, reason="stolen"), ["pi-1", "pi-3"], by=ANN)
    assert (made.changed, made.unchanged) == (1, 1)
    assert store.devices.ids(DeviceFilter(revoked=True)) == ("pi-1", "pi-3")
    assert store.certificates.revocations().device_ids == ("pi-1", "pi-3")
    (row,) = [it for it in store.audit.rows() if it.action == "devices.revoked"]
    assert row.after["reason"] == "stolen"


def test_what_cannot_be_is_refused_before_anything_is_done(store: Store) -> None:
    store.catalog.create_product("lamp", hardware_models=[MODEL], by=ANN)
    store.catalog.create_group(PRODUCT, "found", query='hardware_model == "pi4"', by=ANN)
    join(store, "pi-1")
    Device(store, "lamp-1", {}, product="lamp").hello()
    before = store.audit.head()
    for wrong, devices, kind, said in (
        (locked("9.9.9"), ["pi-1"], NotFoundError, "no firmware app 9.9.9"),
        (locked(), ["pi-1", "pi-x"], NotFoundError, "has no device 'pi-x'"),
        (locked(), ["lamp-1", "pi-1"], NotFoundError, "has no device 'lamp-1'"),
        (order(Deed.ADD_TO_GROUP, group="none"), ["pi-1"], NotFoundError, "no group 'none'"),
        (order(Deed.ADD_TO_GROUP, group="everyone"), ["pi-1"], ConflictError, "every device is in group"),
        (order(Deed.REMOVE_FROM_GROUP, group="found"), ["pi-1"], ConflictError, "taken out by hand"),
    ):
        for refuse in (partial(store.bulk.do, by=ANN), store.bulk.check):
            with pytest.raises(kind, match=said):
                refuse(wrong, devices)
    assert store.audit.head() == before
