"""Who needs somebody and why: each trouble comes and goes by what devices say, and is counted for each product."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from cloud.attention import MAX_NAMED, Need, Trouble
from cloud.models import CertificateRow
from cloud.store.store import Store
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.up import Pending
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device, digest_of, join, release

HOUR_S = 3600
DAY_S = 24 * HOUR_S
DAY_MS = DAY_S * 1000


def needs(store: Store) -> tuple[Need, ...]:
    return store.attention.needs(quiet_after_ms=DAY_MS)


def told(store: Store) -> dict[Trouble, list[str]]:
    return {need.trouble: [it.device_id for it in need.devices] for need in needs(store)}


def waits(device: Device, why: Wait, source_id: str, detail: str = "") -> None:
    item = Pending(
        component="app",
        version="1.1.0",
        digest=digest_of("1.1.0"),
        source_id=source_id,
        why=why,
        detail=detail,
    )
    device.tell(pending=(item,))


def test_a_fleet_that_is_well_needs_nobody(store: Store) -> None:
    made = release(store, "1.1.0")
    for device in join(store, "pi-1", "pi-2"):
        device.take("1.1.0", made.release_id)
    assert needs(store) == ()
    assert store.attention.failures() == {}


def test_what_failed_last_counts_until_the_next_attempt_ends(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    bad, worse, good = join(store, "pi-1", "pi-2", "pi-3")
    bad.fail("1.1.0", made.release_id, Reason.HEALTH_FAILED)
    clock.pass_s(60)
    worse.report(
        *worse.steps("1.1.0", made.release_id, Phase.DOWNLOADING, outcome=Outcome.FAILED, reason=Reason.STORAGE_FAILED)
    )
    good.take("1.1.0", made.release_id)
    assert told(store) == {Trouble.FAILED: ["pi-2"], Trouble.ROLLED_BACK: ["pi-1"]}
    failed = needs(store)[0].devices[0]
    assert failed.detail.startswith("app 1.1.0: storage failed")
    assert failed.at_ms == int(clock() * 1000)
    assert store.attention.failures() == {PRODUCT: {"health_failed": 1, "storage_failed": 1}}
    bad.take("1.2.0", release(store, "1.2.0").release_id)
    assert told(store) == {Trouble.FAILED: ["pi-2"]}
    store.certificates.revoke_device("pi-2", "stolen", by=ANN)
    assert told(store) == {}
    assert store.attention.failures() == {}


def test_a_success_that_the_device_contradicts(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.report(
        *device.steps("1.1.0", made.release_id, Phase.PROVING, outcome=Outcome.SUCCEEDED, booted=digest_of("1.0.0"))
    )
    assert told(store) == {Trouble.TAKEN_BACK: ["pi-1"]}


def test_who_has_been_away_for_long(store: Store, clock: Clock) -> None:
    away, here = join(store, "pi-1", "pi-2")
    away.presence(online=False)
    clock.pass_s(DAY_S - 1)
    assert told(store) == {}
    clock.pass_s(1)
    assert told(store) == {Trouble.QUIET: ["pi-1"]}
    away.presence(online=True)
    assert told(store) == {}
    assert here.device_id == "pi-2"


def test_what_is_held_for_long_and_what_is_blocked(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    held, blocked, calm, later = join(store, "pi-1", "pi-2", "pi-3", "pi-4")
    waits(held, Wait.HELD, made.release_id, "a patient is connected")
    waits(blocked, Wait.REQUIREMENT, made.release_id, "os is 1.0, needs >=2")
    waits(calm, Wait.NEXT_SESSION, made.release_id)
    assert told(store) == {Trouble.BLOCKED: ["pi-2"]}
    clock.pass_s(DAY_S)
    waits(later, Wait.DISABLED, release(store, "1.2.0").release_id)
    assert told(store) == {Trouble.BLOCKED: ["pi-2"], Trouble.HELD: ["pi-1"]}
    blocked_need, held_need = needs(store)
    assert blocked_need.devices[0].detail == "app 1.1.0: os is 1.0, needs >=2"
    assert held_need.devices[0].detail == "app 1.1.0: a patient is connected"
    assert held_need.devices[0].at_ms == made.created_at_ms
    held.tell()
    blocked.tell()
    assert told(store) == {}


def test_a_certificate_that_nobody_renewed(store: Store, clock: Clock) -> None:
    join(store, "pi-1", "pi-2", "pi-3", "pi-4")
    now = datetime.fromtimestamp(clock(), UTC)
    ends = {"pi-1": timedelta(days=13), "pi-2": timedelta(days=15), "pi-3": timedelta(days=-1), "pi-4": timedelta(0)}
    with store._database.changing() as change:
        for serial, (device_id, left) in enumerate(ends.items()):
            change.session.add(
                CertificateRow(
                    serial=str(serial),
                    device_id=device_id,
                    authority="a",
                    key_sha256=str(serial),
                    pem="",
                    not_before_ms=0,
                    not_after_ms=int((now + left).timestamp() * 1000),
                    issued_at_ms=0,
                    superseded_at_ms=1 if device_id == "pi-4" else None,
                )
            )
    (need,) = needs(store)
    assert need.trouble is Trouble.CERTIFICATE
    assert [(it.device_id, it.detail) for it in need.devices] == [
        ("pi-3", "has expired"),
        ("pi-1", "expires, and is not renewed"),
    ]


def test_who_waits_for_a_turn(store: Store) -> None:
    made = release(store, "1.1.0")
    first, second = join(store, "pi-1", "pi-2")
    store.redundancy.create_set("pair", by=ANN)
    store.redundancy.add_to_set("pair", ["pi-1", "pi-2"], by=ANN)
    for device in (first, second):
        device.presence(online=True)
        device.report(*device.steps("1.1.0", made.release_id, Phase.DOWNLOADING))
        device.tell(waits_for_turn="a-1")
    (need,) = needs(store)
    assert (need.trouble, [it.device_id for it in need.devices]) == (Trouble.TURN, ["pi-2"])
    assert need.devices[0].at_ms is None


def test_all_are_counted_and_some_are_named_for_each_product(store: Store, clock: Clock) -> None:
    store.catalog.create_product("pump", hardware_models=[MODEL], by=ANN)
    devices: Sequence[Device] = [Device(store, f"pi-{number:03}") for number in range(MAX_NAMED + 5)]
    other = Device(store, "pump-1", product="pump")
    made = release(store, "1.1.0")
    for device in (*devices, other):
        device.hello()
        waits(device, Wait.BREAKS, made.release_id, f"detail {device.device_id[-1]}")
        device.presence(online=False)
    clock.pass_s(DAY_S)
    found = {(it.trouble, it.product): it for it in needs(store)}
    assert {key: it.count for key, it in found.items()} == {
        (Trouble.BLOCKED, PRODUCT): MAX_NAMED + 5,
        (Trouble.BLOCKED, "pump"): 1,
        (Trouble.QUIET, PRODUCT): MAX_NAMED + 5,
        (Trouble.QUIET, "pump"): 1,
    }
    assert all(len(it.devices) == min(it.count, MAX_NAMED) for it in found.values())


@pytest.mark.parametrize("count", [0, 3])
def test_products_of_devices(store: Store, count: int) -> None:
    ids = [f"pi-{number}" for number in range(count)]
    join(store, *ids)
    assert store.attention.products_of([*ids, "nobody"]) == dict.fromkeys(ids, PRODUCT)
