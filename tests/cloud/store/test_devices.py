"""Lists of devices, pins, single-device OTAs and what the planner is told, on a real database."""

from __future__ import annotations

import pytest

from cloud.fleet import DeviceFilter, OtaStatus
from cloud.planner import HoldReason, plan
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.store import Store
from cloud.values import OutboxKind, ReleasePatch
from protocol.identity import EVERYONE
from protocol.phases import Reason, Wait
from protocol.selection import Rule, Verdict
from protocol.up import Availability, HoldInfo, Pending
from protocol.values import Scope, Urgency, Via
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device, digest_of, join, manifest, release


def ids(store: Store, **asked: object) -> list[str]:
    which = DeviceFilter(**asked)  # type: ignore[arg-type]
    assert store.devices.count(which) == len(store.devices.devices(which))
    return [view.device_id for view in store.devices.devices(which)]


def decided(store: Store, device_id: str) -> tuple[Verdict, str | None]:
    (decision,) = store.devices.decide(device_id)
    return decision.verdict, decision.wanted.source_id if decision.wanted else None


def settle_all(store: Store) -> None:
    for item in store.outbox.take():
        assert store.outbox.settle(item)


def told(store: Store) -> list[tuple[OutboxKind, str]]:
    return [(item.kind, item.key) for item in store.outbox.take()]


# Registration and lists


def test_a_device_is_registered_once_and_into_groups_that_exist(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    made = store.devices.register("pi-1", product=PRODUCT, hardware_model=MODEL, groups=["test", EVERYONE], by=ANN)
    assert (made.groups, made.online, made.last_seen_at_ms, made.journal_id) == (("test", EVERYONE), False, None, None)

    with pytest.raises(ConflictError, match="registered already"):
        store.devices.register("pi-1", product=PRODUCT, hardware_model=MODEL, by=ANN)
    with pytest.raises(NotFoundError, match="no group 'tset'"):
        store.devices.register("pi-2", product=PRODUCT, hardware_model=MODEL, groups=["tset"], by=ANN)
    with pytest.raises(NotFoundError, match="no product 'lamp'"):
        store.devices.register("pi-2", product="lamp", hardware_model=MODEL, by=ANN)
    assert ids(store) == ["pi-1"]


def test_devices_are_found_by_what_is_asked(store: Store) -> None:
    store.catalog.create_product("lamp", hardware_models=[MODEL], by=ANN)
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    first, second, _ = join(store, "pi-1", "pi-2", "pi-3")
    Device(store, "lamp-1", {"bulb": "1.0.0"}, product="lamp").hello()
    store.catalog.add_to_group(PRODUCT, "test", ["pi-2", "pi-3"], by=ANN)
    first.presence(online=False)
    second.running = {"app": "1.1.0"}
    waiting = Pending(
        component="app", version="1.2.0", digest=digest_of("1.2.0"), source_id="rel-1", why=Wait.NEXT_START
    )
    second.tell(pending=(waiting,))

    assert ids(store) == ["lamp-1", "pi-1", "pi-2", "pi-3"]
    assert ids(store, product=PRODUCT) == ids(store, product=PRODUCT, group=EVERYONE) == ["pi-1", "pi-2", "pi-3"]
    assert ids(store, group="test") == ["pi-2", "pi-3"]
    assert ids(store, group="test", online=True, version="1.0.0") == ["pi-3"]
    assert ids(store, online=False) == ["pi-1"]
    assert ids(store, component="app", version="1.1.0") == ["pi-2"]
    assert ids(store, component="bulb") == ["lamp-1"]
    assert ids(store, pending=True) == ["pi-2"]
    assert ids(store, product="toaster") == []


def test_devices_are_found_by_what_they_are_and_by_what_keeps_them(store: Store, clock: Clock) -> None:
    hold = HoldInfo(
        owner="surgery", why="a patient", scopes=(Scope.RESTART,), expires_at_ms=int(clock.now_s + 60) * 1000
    )
    fleet = {
        name: Device(store, name, model=model, attributes={"site": site, "floor": "2"})
        for name, model, site in (("north-1", "pi4", "oslo"), ("north-2", "pi5", "oslo"), ("south-1", "pi4", "rome"))
    }
    for device in fleet.values():
        device.hello()
    fleet["north-1"].tell(availability=Availability(holds=(hold,)))
    fleet["north-2"].tell(availability=Availability(enabled=False))
    store.devices.pin("south-1", "app", "1.0.0", by=ANN)

    assert ids(store, text="NORTH") == ["north-1", "north-2"]
    assert ids(store, text="h_") == [], "an underscore stands for itself"
    assert ids(store, text="%") == []
    assert ids(store, hardware_model="pi4") == ["north-1", "south-1"]
    assert ids(store, attributes=(("site", "oslo"), ("floor", "2"))) == ["north-1", "north-2"]
    assert ids(store, attributes=(("site", "rome"), ("floor", "1"))) == []
    assert ids(store, held=True) == ["north-1", "north-2"]
    assert ids(store, locked=True) == ["south-1"]
    assert ids(store, locked=False, hardware_model="pi4", text="1") == ["north-1"]
    clock.pass_s(61)
    assert ids(store, held=True) == ["north-2"], "the lease of the other has run out"
    assert ids(store, held=False) == ["north-1", "south-1"]
    fleet["north-2"].tell()
    assert ids(store, held=True) == []

    fleet["north-1"].attributes = {"site": "rome"}
    fleet["north-1"].session += 1
    fleet["north-1"].hello()
    assert ids(store, attributes=(("site", "rome"),)) == ["north-1", "south-1"]
    assert ids(store, attributes=(("floor", "2"),)) == ["north-2", "south-1"]
    after = DeviceFilter(attributes=(("site", "rome"),), after="north-1")
    assert store.devices.ids(after) == ("south-1",)
    assert store.devices.count(after) == 2, "those of the pages before are counted, too"


def test_devices_are_found_by_how_their_newest_attempt_ended(store: Store) -> None:
    made = release(store, "1.1.0")
    first, second, third = join(store, "pi-1", "pi-2", "pi-3")
    first.fail("1.1.0", made.release_id, Reason.HEALTH_FAILED)
    second.fail("1.1.0", made.release_id, Reason.WRONG_BOOT)
    third.fail("1.1.0", made.release_id, Reason.HEALTH_FAILED)
    assert ids(store, failed="any") == ["pi-1", "pi-2", "pi-3"]
    assert ids(store, failed="health_failed") == ["pi-1", "pi-3"]
    third.take("1.2.0", made.release_id)
    assert ids(store, failed="health_failed") == ["pi-1"]
    assert ids(store, failed="health_failed", online=False) == []


def test_devices_are_found_by_how_long_they_are_away(store: Store, clock: Clock) -> None:
    first, second, third = join(store, "pi-1", "pi-2", "pi-3")
    first.presence(online=False)
    clock.pass_s(3600)
    second.presence(online=False)
    clock.pass_s(60)
    assert ids(store, quiet_for_s=3600) == ["pi-1"]
    assert ids(store, quiet_for_s=30) == ["pi-1", "pi-2"]
    store.certificates.revoke_device("pi-1", "lost", by=ANN)
    assert ids(store, quiet_for_s=30) == ["pi-2"], "one that is shut out is not missed"
    assert ids(store, revoked=True) == ["pi-1"]
    assert ids(store, revoked=False) == ["pi-2", third.device_id]


def test_the_ids_next_to_one_are_told(store: Store) -> None:
    join(store, *(f"pi-{number}" for number in range(6)))
    assert store.devices.near("pi-2x", count=2) == ("pi-2", "pi-1", "pi-3", "pi-4")


def test_pages_follow_each_other(store: Store) -> None:
    join(store, *(f"pi-{number}" for number in range(7)))
    pages, after = [], None
    while page := store.devices.devices(DeviceFilter(product=PRODUCT, after=after, limit=3)):
        pages.append([view.device_id for view in page])
        after = page[-1].device_id

    assert pages == [["pi-0", "pi-1", "pi-2"], ["pi-3", "pi-4", "pi-5"], ["pi-6"]]
    assert store.devices.count(DeviceFilter(product=PRODUCT, limit=3)) == 7


# Pins


def test_a_pinned_device_stays_whatever_is_released(store: Store) -> None:
    join(store, "pi-1")
    settle_all(store)
    pinned = store.devices.pin("pi-1", "app", "1.0.0", by=ANN)
    assert (pinned.version, pinned.digest, pinned.pinned_by) == ("1.0.0", digest_of("1.0.0"), ANN)
    assert told(store) == [(OutboxKind.DESIRED, "pi-1")]
    release(store, "1.2.0", urgency=Urgency.IMMEDIATE)

    assert decided(store, "pi-1") == (Verdict.RUNS, "pin")
    assert store.devices.device("pi-1").pins == (pinned,)
    assert [ref.version for ref in store.devices.desired_for("pi-1").pins] == ["1.0.0"]

    assert store.devices.pin("pi-1", "app", "1.1.0", by=ANN).version == "1.1.0"
    store.devices.unpin("pi-1", "app", by=ANN)
    assert decided(store, "pi-1")[0] is Verdict.TAKE
    assert [row.action for row in store.audit.rows(subject="device/pi-1")] == [
        "device.registered",
        "device.pinned",
        "device.pinned",
        "device.unpinned",
    ]


def test_a_device_is_told_to_run_only_what_it_can(store: Store) -> None:
    join(store, "pi-1")
    for version, published, hardware in (("5.0.0", False, MODEL), ("6.0.0", True, "pi9")):
        store.catalog.add_firmware(
            manifest(version, 5, hardware=[hardware]),
            digest=digest_of(version),
            size_bytes=5,
            signer_keyids=(),
            published=published,
            by=ANN,
        )
    settle_all(store)

    for decide in (store.devices.pin, store.devices.create_ota):
        with pytest.raises(ConflictError, match="not published"):
            decide("pi-1", "app", "5.0.0", by=ANN)
        with pytest.raises(ConflictError, match="not for hardware model pi4"):
            decide("pi-1", "app", "6.0.0", by=ANN)
        with pytest.raises(NotFoundError, match=r"no firmware app 9\.0\.0"):
            decide("pi-1", "app", "9.0.0", by=ANN)
        with pytest.raises(NotFoundError, match="no device 'pi-9'"):
            decide("pi-9", "app", "1.0.0", by=ANN)
    with pytest.raises(NotFoundError, match="not locked"):
        store.devices.unpin("pi-1", "app", by=ANN)
    assert (told(store), store.devices.device("pi-1").pins, store.devices.otas("pi-1")) == ([], (), ())


# Single-device OTAs


def test_an_ota_is_for_one_device(store: Store) -> None:
    join(store, "pi-1", "pi-2")
    release(store, "1.1.0")
    settle_all(store)

    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN, forced=True)

    assert (ota.status, ota.in_force, ota.product, ota.urgency) == (OtaStatus.OPEN, True, PRODUCT, Urgency.IMMEDIATE)
    assert told(store) == [(OutboxKind.DESIRED, "pi-1")]
    (sent,) = store.devices.desired_for("pi-1").otas
    assert (sent.ota_id, sent.order, sent.firmware, sent.forced) == (ota.ota_id, ota.order, ota.firmware, True)
    assert decided(store, "pi-1") == (Verdict.TAKE, ota.ota_id)
    assert store.devices.desired_for("pi-2").otas == ()
    assert store.devices.device("pi-1").otas == store.devices.otas("pi-1") == (ota,)


def test_an_ota_that_succeeded_holds_its_device_until_a_later_release_reaches_it(store: Store) -> None:
    release(store, "1.1.0")
    (device,) = join(store, "pi-1", running="1.1.0")
    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    device.take("1.2.0", ota.ota_id, via=Via.OTA)
    assert decided(store, "pi-1") == (Verdict.RUNS, ota.ota_id)

    store.catalog.create_group(PRODUCT, "test", by=ANN)
    release(store, "1.0.0", "test")
    release(store, "1.0.0", target_range="7.x")
    assert store.devices.ota(ota.ota_id).in_force

    later = release(store, "1.1.0")
    closed = store.devices.ota(ota.ota_id)
    assert (closed.status, closed.in_force) == (OtaStatus.SUCCEEDED, False)
    # It is not wanted again when that release is disabled.
    store.releases.patch(later.release_id, ReleasePatch(enabled=False), by=ANN)
    assert decided(store, "pi-1")[1] != ota.ota_id


def test_an_open_ota_is_superseded_by_what_is_decided_later(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    join(store, "pi-1", "pi-2", "pi-3", "pi-4")
    otas = [store.devices.create_ota(f"pi-{number}", "app", "1.1.0", by=ANN) for number in (1, 2, 3, 4)]

    store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    store.devices.pin("pi-2", "app", "1.0.0", by=ANN)
    release(store, "1.2.0", "test")
    assert store.devices.ota(otas[2].ota_id).status is OtaStatus.OPEN
    store.catalog.add_to_group(PRODUCT, "test", ["pi-3"], by=ANN)

    shown = [store.devices.ota(ota.ota_id) for ota in otas]
    assert [ota.status for ota in shown] == [OtaStatus.SUPERSEDED] * 3 + [OtaStatus.OPEN]
    assert [ota.detail for ota in shown[:3]] == [
        "a later OTA to 1.2.0 was decided",
        "the device was locked to 1.0.0",
        "a later release reaches the device",
    ]
    assert len(store.devices.desired_for("pi-1").otas) == 1
    assert store.devices.desired_for("pi-2").otas == ()


def test_a_release_that_reaches_the_device_by_its_next_version_supersedes_then(store: Store) -> None:
    (device,) = join(store, "pi-1")
    ota = store.devices.create_ota("pi-1", "app", "1.1.0", by=ANN)
    release(store, "1.2.0", target_range="1.1.0")
    assert store.devices.ota(ota.ota_id).in_force

    device.take("1.1.0", ota.ota_id, via=Via.OTA)

    assert not store.devices.ota(ota.ota_id).in_force
    assert decided(store, "pi-1")[0] is Verdict.TAKE


def test_an_ota_to_what_runs_already_has_succeeded(store: Store) -> None:
    join(store, "pi-1")
    ota = store.devices.create_ota("pi-1", "app", "1.0.0", by=ANN)

    assert (ota.status, ota.in_force, ota.detail) == (OtaStatus.SUCCEEDED, True, "the device runs it already")


def test_an_ota_is_cancelled_once_and_not_for_a_pinned_device(store: Store) -> None:
    join(store, "pi-1")
    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    cancelled = store.devices.cancel_ota(ota.ota_id, by="bob")
    assert (cancelled.status, cancelled.in_force, cancelled.detail) == (OtaStatus.CANCELLED, False, "cancelled by bob")
    with pytest.raises(ConflictError, match="is cancelled and not in force any more"):
        store.devices.cancel_ota(ota.ota_id, by=ANN)
    with pytest.raises(NotFoundError, match="no single-device OTA 'ota-0'"):
        store.devices.cancel_ota("ota-0", by=ANN)

    store.devices.pin("pi-1", "app", "1.0.0", by=ANN)
    with pytest.raises(ConflictError, match="is locked to a version of app; unlock it first"):
        store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    assert [row.actor for row in store.audit.rows(subject=f"ota/{ota.ota_id}")] == [ANN, "bob"]


def test_an_ota_decided_after_a_failure_tries_that_digest_again(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.fail("1.1.0", made.release_id)
    (decision,) = store.devices.decide("pi-1")
    assert (decision.verdict, decision.blocked_by) == (Verdict.BLOCKED, Rule.FAILED_BEFORE)

    again = store.devices.create_ota("pi-1", "app", "1.1.0", by=ANN)
    assert decided(store, "pi-1") == (Verdict.TAKE, again.ota_id)

    device.fail("1.1.0", again.ota_id, Reason.START_FAILED, via=Via.OTA)
    assert store.devices.ota(again.ota_id).status is OtaStatus.ROLLED_BACK
    assert decided(store, "pi-1") == (Verdict.BLOCKED, made.release_id)


def test_a_device_that_is_away_is_told_when_it_returns(store: Store) -> None:
    (device,) = join(store, "pi-1")
    device.presence(online=False)
    settle_all(store)

    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)

    assert told(store) == []
    device.session += 1
    assert [each.ota_id for each in device.hello().desired.otas] == [ota.ota_id]  # type: ignore[union-attr]


# What the planner is told


def test_the_planner_sees_what_devices_told_and_operators_decided(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    join(store, "pi-1", "pi-2", "pi-3", "pi-4")[3].presence(online=False)
    store.catalog.add_to_group(PRODUCT, "test", ["pi-2"], by=ANN)
    store.devices.pin("pi-3", "app", "1.0.0", by=ANN)
    everyone = release(store, "1.1.0", urgency=Urgency.IMMEDIATE)
    release(store, "1.2.0", "test")

    made = plan(store.devices.fleet(PRODUCT), 0)

    assert [(move.device_id, move.source_id) for move in made.actions] == [("pi-1", everyone.release_id)]
    assert [(hold.device_id, hold.reason) for hold in made.holds] == [
        ("pi-2", HoldReason.NEXT_SESSION),
        ("pi-3", HoldReason.UP_TO_DATE),
        ("pi-4", HoldReason.OFFLINE),
    ]
    assert [it.device_id for it in store.devices.fleet(PRODUCT, "test").devices] == ["pi-2"]
    with pytest.raises(NotFoundError, match="no group 'tset'"):
        store.devices.fleet(PRODUCT, "tset")
