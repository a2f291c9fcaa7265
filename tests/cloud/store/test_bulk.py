"""One decision for many devices, on a real database: what changes, what does not, and what the record says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import pytest

from cloud.bulk import BulkOrder, Deed
from cloud.fleet import DeviceFilter, OtaStatus
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.importing import KnownDevice
from cloud.store.store import Store
from cloud.values import OutboxKind
from protocol.values import Urgency
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device, join, manifest

MANY = 1203
"""More than are named in the audit."""


def told(store: Store, asked: BulkOrder, names: Sequence[str], **which: object) -> tuple[object, ...]:
    """What would come of it: told of the devices by name, and of those that a filter finds, alike."""
    would = store.bulk.forecast(asked, names)
    found = store.bulk.forecast(asked, DeviceFilter(**which))  # type: ignore[arg-type]
    assert found == would
    return would.devices, would.changed, would.unchanged, would.left_out, would.examples


def order(deed: Deed, **more: object) -> BulkOrder:
    return BulkOrder(product=PRODUCT, deed=deed, **more)  # type: ignore[arg-type]


def locked(version: str = "1.1.0") -> BulkOrder:
    return order(Deed.LOCK, component="app", version=version)


def test_many_devices_are_grouped_by_one_decision_and_each_can_tell_it(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "pilots", by=ANN)
    names = [f"pi-{number:04}" for number in range(MANY)]
    known = [KnownDevice(line=1, device_id=it, product=PRODUCT, hardware_model=MODEL) for it in names]
    assert store.importing.import_fleet(known, by=ANN).new == MANY
    store.catalog.add_to_group(PRODUCT, "pilots", names[:3], by=ANN)
    add = order(Deed.ADD_TO_GROUP, group="pilots")

    assert told(store, add, names) == (MANY, MANY - 3, 3, {}, {})
    assert store.catalog.group(PRODUCT, "pilots").devices == 3, "nothing was done"

    with pytest.raises(ConflictError, match=f"{MANY} devices are found now, and it was to be 7; nothing was changed"):
        store.bulk.do(add, DeviceFilter(text="pi"), count=7, by=ANN)
    made = store.bulk.do(add, DeviceFilter(text="pi"), count=MANY, by=ANN, chosen={"text": "pi"})
    assert (made.devices, made.changed, made.unchanged, made.left_out) == (MANY, MANY - 3, 3, {})
    assert set(store.catalog.members(PRODUCT, "pilots")) == set(names)
    row = store.audit.last(f"group/{PRODUCT}/pilots")
    assert row is not None
    assert row.number == made.decision
    digest = hashlib.sha256("".join(f"{it}\n" for it in names[3:]).encode()).hexdigest()
    said = {"number": MANY - 3, "of": MANY, "chosen": {"text": "pi"}, "devices_sha256": digest}
    assert (row.action, row.after) == ("group.added", said), "one row, and it is not long"
    assert store.devices.ids(DeviceFilter(decision=made.decision, limit=MANY)) == tuple(names[3:])
    again = store.bulk.do(add, DeviceFilter(text="pi"), count=MANY, by=ANN)
    assert (again.decision, again.changed, again.unchanged) == (None, 0, MANY), "never twice"
    assert store.audit.head().number == made.decision

    away = order(Deed.REMOVE_FROM_GROUP, group="pilots")
    assert told(store, away, names, group="pilots")[:3] == (MANY, MANY, 0)
    gone = store.bulk.do(away, names[:600], by="bob")
    assert (gone.changed, store.catalog.group(PRODUCT, "pilots").devices) == (600, MANY - 600)
    moments, ends = store.events.timeline("device/pi-0500")
    assert [(it.words, it.actor, it.decision) for it in moments[1:]] == [
        ("group pilots joined, with 1,199 others by one decision", ANN, made.decision),
        ("group pilots left, with 599 others by one decision", "bob", gone.decision),
    ]
    assert "pi-0499" not in str(moments), "who the others are is told elsewhere"
    assert store.events.timeline("device/pi-0500", after=ends) == ((), ends)
    first = [it.words for it in store.events.timeline("device/pi-0000")[0]]
    assert first[1] == "group pilots joined, with 2 others by one decision", "by hand, too"


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
    assert (again.changed, again.unchanged, len(store.devices.otas("pi-2"))) == (0, 1, 1), "the same again is no other"
    other = store.bulk.do(order(Deed.OTA, component="app", version="1.2.0"), ["pi-2"], by=ANN)
    assert (other.changed, len(store.devices.otas("pi-2"))) == (1, 2), "a later one takes the place of the first"
    assert [it.status for it in store.devices.otas("pi-2")] == [OtaStatus.OPEN, OtaStatus.SUPERSEDED]


def test_a_device_tells_each_decision_that_was_about_it(store: Store, clock: Clock) -> None:
    join(store, "pi-1", "pi-2", running="1.0.0")
    deeds = (
        order(Deed.OTA, component="app", version="1.1.0", urgency=Urgency.GRADUAL, forced=True),
        locked("1.2.0"),
        order(Deed.UNLOCK, component="app"),
        order(Deed.REVOKE, reason="stolen"),
    )
    for each in deeds:
        clock.now_s += 1
        store.bulk.do(each, ["pi-1", "pi-2"], by=ANN)
    clock.now_s += 1
    store.certificates.readmit_device("pi-1", by=ANN)
    store.devices.create_ota("pi-1", "app", "1.1.0", by=ANN)
    store.devices.pin("pi-1", "app", "1.2.0", by=ANN)
    store.devices.unpin("pi-1", "app", by=ANN)
    with_other = ", with 1 other by one decision"
    assert [it.words for it in store.events.timeline("device/pi-1")[0]][1:] == [
        f"single-device OTA to app 1.1.0 (gradual, forced){with_other}",
        f"locked to app 1.2.0{with_other}",
        f"unlocked: app{with_other}",
        f"revoked: reason stolen{with_other}",
        "readmitted",
        "single-device OTA to app 1.1.0",
        "single-device OTA superseded: the device was locked to 1.2.0",
        "locked to app 1.2.0",
        "unlocked: app",
    ]
    newest, _ = store.events.timeline("device/pi-1", limit=2)
    assert [it.words for it in newest] == ["locked to app 1.2.0", "unlocked: app"]


def test_updates_come_under_numbers_of_their_own_and_those_who_run_it_have_it(store: Store) -> None:
    join(store, "pi-1", "pi-2", "pi-3", running="1.0.0")
    Device(store, "pi-4", {"app": "1.2.0"}).hello()
    first = store.devices.create_ota("pi-3", "app", "1.1.0", by=ANN)
    made = store.bulk.do(order(Deed.OTA, component="app", version="1.2.0"), DeviceFilter(), by=ANN)
    otas = [store.devices.otas(f"pi-{number}")[0] for number in (1, 2, 3, 4)]
    assert [it.order for it in otas] == [first.order + number for number in (1, 2, 3, 4)]
    assert len({it.ota_id for it in otas}) == 4
    assert [it.status for it in otas] == [OtaStatus.OPEN] * 3 + [OtaStatus.SUCCEEDED]
    assert store.devices.ota(first.ota_id).detail == "a later OTA to 1.2.0 was decided"
    row = store.audit.rows(after=(made.decision or 0) - 1, limit=1)[0]
    assert row.after["superseded_otas"] == 1
    assert store.devices.create_ota("pi-1", "app", "1.1.0", by=ANN).order == first.order + 5


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
        for refuse in (partial(store.bulk.do, by=ANN), store.bulk.forecast):
            with pytest.raises(kind, match=said):
                refuse(wrong, devices)
    assert store.audit.head() == before
