"""Products, ranked groups, members, firmware, floors and tokens, on a real database."""

from __future__ import annotations

import pytest

from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.store.store import Store
from cloud.values import OutboxKind, ReleasePatch
from protocol.identity import EVERYONE
from protocol.values import MAX_COMPONENTS, MAX_GROUPS
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device, digest_of, join, manifest, publish, release


def told(store: Store) -> set[tuple[OutboxKind, str]]:
    """What is to be told since the last call."""
    items = store.outbox.take(limit=10_000)
    assert all(store.outbox.settle(item) for item in items)
    return {(item.kind, item.key) for item in items}


def ranks(store: Store) -> list[tuple[str, int]]:
    return [(view.group, view.rank) for view in store.catalog.groups(PRODUCT)]


def test_a_product_comes_with_its_group_everyone(store: Store) -> None:
    product = store.catalog.product(PRODUCT)

    assert (product.hardware_models, product.ota_enabled, product.devices) == ((MODEL,), True, 0)
    assert ranks(store) == [(EVERYONE, 1)]
    with pytest.raises(ConflictError, match="exists already"):
        store.catalog.create_product(PRODUCT, hardware_models=[MODEL], by=ANN)


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "a" * 65, "ä", "../x", "a b"])
def test_names_that_are_no_ids_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidError, match="nothing was changed"):
        store.catalog.create_product(name, hardware_models=[MODEL], by=ANN)
    with pytest.raises(InvalidError):
        store.catalog.create_group(PRODUCT, name, by=ANN)
    with pytest.raises(InvalidError):
        store.devices.register(name, product=PRODUCT, hardware_model=MODEL, by=ANN)


def test_a_product_needs_a_hardware_model(store: Store) -> None:
    with pytest.raises(InvalidError, match="1 to 64 hardware models"):
        store.catalog.create_product("other", hardware_models=[], by=ANN)
    assert [view.product for view in store.catalog.products()] == [PRODUCT]


def test_groups_are_ranked_and_everyone_stays_last(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "field", by=ANN)
    store.catalog.create_group(PRODUCT, "test", rank=1, by=ANN)
    store.catalog.create_group(PRODUCT, "late", by=ANN)
    assert ranks(store) == [("test", 1), ("field", 2), ("late", 3), (EVERYONE, 4)]

    store.catalog.set_rank(PRODUCT, "late", 1, by=ANN)
    assert ranks(store) == [("late", 1), ("test", 2), ("field", 3), (EVERYONE, 4)]

    store.catalog.delete_group(PRODUCT, "test", by=ANN)
    assert ranks(store) == [("late", 1), ("field", 2), (EVERYONE, 3)]
    with pytest.raises(InvalidError, match="a rank is a number from 1 to 3"):
        store.catalog.create_group(PRODUCT, "far", rank=9, by=ANN)
    with pytest.raises(ConflictError, match="always ranks last"):
        store.catalog.set_rank(PRODUCT, EVERYONE, 1, by=ANN)
    with pytest.raises(ConflictError, match="already"):
        store.catalog.create_group(PRODUCT, "late", by=ANN)
    with pytest.raises(ConflictError, match="already"):
        store.catalog.create_group(PRODUCT, EVERYONE, by=ANN)


def test_members_are_told_their_groups_in_rank_order(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "field", by=ANN)
    store.catalog.create_group(PRODUCT, "test", rank=1, by=ANN)
    (device,) = join(store, "pi-1")
    told(store)

    assert store.catalog.add_to_group(PRODUCT, "field", ["pi-1"], by=ANN) == 1
    assert store.catalog.add_to_group(PRODUCT, "test", ["pi-1", "pi-1"], by=ANN) == 1
    assert store.catalog.add_to_group(PRODUCT, "test", ["pi-1"], by=ANN) == 0
    assert told(store) == {(OutboxKind.DESIRED, "pi-1")}
    assert store.devices.desired_for("pi-1").groups == ("test", "field", EVERYONE)
    assert store.devices.device("pi-1").groups == ("test", "field", EVERYONE)
    assert store.catalog.members(PRODUCT, "test") == store.catalog.members(PRODUCT, EVERYONE) == ("pi-1",)

    store.catalog.set_rank(PRODUCT, "field", 1, by=ANN)
    assert told(store) == {(OutboxKind.DESIRED, "pi-1")}
    assert store.devices.desired_for("pi-1").groups == ("field", "test", EVERYONE)

    assert store.catalog.remove_from_group(PRODUCT, "field", ["pi-1"], by=ANN) == 1
    assert store.catalog.remove_from_group(PRODUCT, "field", ["pi-1"], by=ANN) == 0
    assert device.hello().desired.groups == ("test", EVERYONE)  # type: ignore[union-attr]


def test_a_device_of_another_product_refuses_the_whole_addition(store: Store) -> None:
    store.catalog.create_product("lamp", hardware_models=[MODEL], by=ANN)
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    join(store, "pi-1")
    Device(store, "lamp-1", product="lamp").hello()

    with pytest.raises(ConflictError, match="lamp-1 is of product lamp"):
        store.catalog.add_to_group(PRODUCT, "test", ["pi-1", "lamp-1"], by=ANN)
    with pytest.raises(NotFoundError, match="no device 'pi-9'"):
        store.catalog.add_to_group(PRODUCT, "test", ["pi-1", "pi-9"], by=ANN)
    with pytest.raises(NotFoundError, match="no group 'tset'"):
        store.catalog.add_to_group(PRODUCT, "tset", ["pi-1"], by=ANN)
    with pytest.raises(ConflictError, match="every device is in"):
        store.catalog.add_to_group(PRODUCT, EVERYONE, ["pi-1"], by=ANN)
    assert store.catalog.members(PRODUCT, "test") == ()


def test_a_device_is_in_no_more_groups_than_a_message_can_name(store: Store) -> None:
    join(store, "pi-1")
    for number in range(MAX_GROUPS - 1):
        store.catalog.create_group(PRODUCT, f"g{number}", by=ANN)
        store.catalog.add_to_group(PRODUCT, f"g{number}", ["pi-1"], by=ANN)
    store.catalog.create_group(PRODUCT, "more", by=ANN)

    with pytest.raises(ConflictError, match="in 63 groups"):
        store.catalog.add_to_group(PRODUCT, "more", ["pi-1"], by=ANN)
    assert len(store.devices.desired_for("pi-1").groups) == MAX_GROUPS


def test_a_group_with_enabled_releases_is_not_deleted_and_its_labels_go_on(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    (device,) = join(store, "pi-1")
    store.catalog.add_to_group(PRODUCT, "test", ["pi-1"], by=ANN)
    made = release(store, "1.1.0", "test")

    with pytest.raises(ConflictError, match="1 enabled releases; disable them first"):
        store.catalog.delete_group(PRODUCT, "test", by=ANN)
    with pytest.raises(ConflictError, match="cannot be deleted"):
        store.catalog.delete_group(PRODUCT, EVERYONE, by=ANN)

    store.releases.patch(made.release_id, ReleasePatch(enabled=False), by=ANN)
    store.catalog.delete_group(PRODUCT, "test", by=ANN)
    assert device.hello().desired.groups == (EVERYONE,)  # type: ignore[union-attr]
    with pytest.raises(NotFoundError, match="no group 'test'"):
        release(store, "1.1.0", "test")
    with pytest.raises(NotFoundError, match="no group 'test'"):
        store.releases.patch(made.release_id, ReleasePatch(enabled=True), by=ANN)

    store.catalog.create_group(PRODUCT, "test", by=ANN)
    assert release(store, "1.1.0", "test").label == 2


def test_a_switched_off_product_tells_its_connected_devices(store: Store) -> None:
    here, away = join(store, "pi-1", "pi-2")
    away.presence(online=False)
    told(store)

    assert store.catalog.set_policy(PRODUCT, ota_enabled=False, by=ANN).ota_enabled is False
    store.catalog.set_policy(PRODUCT, ota_enabled=False, by=ANN)

    assert told(store) == {(OutboxKind.DESIRED, "pi-1")}
    assert store.devices.desired_for(here.device_id).ota_enabled is False
    assert [row.action for row in store.audit.rows(subject=f"product/{PRODUCT}")] == [
        "product.created",
        "product.patched",
    ]


def test_firmware_never_changes(store: Store) -> None:
    before = store.catalog.firmware(PRODUCT, "app", "1.1.0")
    audited = len(store.audit.rows())

    for digest in (before.digest, digest_of("other")):
        with pytest.raises(ConflictError, match="exists already"):
            store.catalog.add_firmware(
                manifest("1.1.0", 9), digest=digest, size_bytes=5, signer_keyids=(), published=True, by=ANN
            )

    assert store.catalog.firmware(PRODUCT, "app", "1.1.0") == before
    assert len(store.audit.rows()) == audited


def test_firmware_comes_back_as_it_was_signed(store: Store) -> None:
    signed = manifest("3.0.0", 7, hardware=("pi4", "pi5"), needs=">=2.0.0")

    added = store.catalog.add_firmware(
        signed, digest=digest_of("3.0.0"), size_bytes=24, signer_keyids=("a", "b"), published=False, by=ANN
    )

    assert added == store.catalog.firmware(PRODUCT, "app", "3.0.0")
    assert (added.blobs, added.requires, added.notes) == (signed.blobs, signed.requires, signed.notes)
    assert (added.seq, added.hardware_models, added.signer_keyids) == (7, ("pi4", "pi5"), ("a", "b"))
    assert [view.version for view in store.catalog.firmwares(PRODUCT)] == ["3.0.0", "1.2.0", "1.1.0", "1.0.0"]
    with pytest.raises(NotFoundError, match=r"no firmware app 9\.0\.0"):
        store.catalog.firmware(PRODUCT, "app", "9.0.0")
    with pytest.raises(NotFoundError, match="no product 'lamp'"):
        store.catalog.firmware("lamp", "app", "1.0.0")


def test_firmware_is_released_only_once_it_is_published(store: Store, clock: Clock) -> None:
    store.catalog.add_firmware(
        manifest("1.3.0", 4), digest=digest_of("1.3.0"), size_bytes=5, signer_keyids=(), published=False, by=ANN
    )
    with pytest.raises(ConflictError, match="not published"):
        release(store, "1.3.0")
    assert store.releases.releases() == ()

    clock.pass_s(5)
    assert store.catalog.publish_firmware(PRODUCT, "app", "1.3.0", by=ANN).published
    assert store.catalog.publish_firmware(PRODUCT, "app", "1.3.0", by=ANN).published_at_ms == int(clock() * 1000)
    assert release(store, "1.3.0").label == 1


def test_a_product_has_no_more_components_than_a_device_can_report(store: Store) -> None:
    for number in range(MAX_COMPONENTS - 1):
        publish(store, "1.0.0", component=f"c{number}")

    with pytest.raises(ConflictError, match="16 components"):
        publish(store, "1.0.0", component="more")


def test_floors_only_rise_and_keep_older_firmware_from_being_released(store: Store) -> None:
    assert store.catalog.set_floors(PRODUCT, {"app": 2}, by=ANN).floors == {"app": 2}
    assert store.catalog.set_floors(PRODUCT, {"app": 1, "os": 3}, by=ANN).floors == {"app": 2, "os": 3}
    join(store, "pi-1")

    with pytest.raises(ConflictError, match="below the signed floor 2"):
        release(store, "1.0.0")
    with pytest.raises(ConflictError, match="below the signed floor"):
        store.devices.pin("pi-1", "app", "1.0.0", by=ANN)
    with pytest.raises(ConflictError, match="below the signed floor"):
        store.devices.create_ota("pi-1", "app", "1.0.0", by=ANN)
    with pytest.raises(InvalidError):
        store.catalog.set_floors(PRODUCT, {"app": -1}, by=ANN)
    assert release(store, "1.1.0").label == 1


def test_tokens_are_found_until_they_are_revoked(store: Store) -> None:
    store.people.add(ANN, {}, by="init")
    store.tokens.add("ci", "a" * 64, person=ANN, by=ANN)
    with pytest.raises(ConflictError, match="exists already"):
        store.tokens.add("ci", "b" * 64, person=ANN, by=ANN)
    with pytest.raises(InvalidError):
        store.tokens.add("laptop", "not a digest", person=ANN, by=ANN)

    assert store.tokens.find("a" * 64) == store.tokens.tokens()[0]
    store.tokens.revoke("ci", by=ANN)
    assert store.tokens.find("a" * 64) is None
    assert store.tokens.tokens()[0].revoked_at_ms is not None
    with pytest.raises(NotFoundError):
        store.tokens.revoke("laptop", by=ANN)
