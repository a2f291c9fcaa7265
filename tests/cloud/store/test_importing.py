"""Fleets from files, in the database: a batch whole or not at all, idempotent, and devices' own words go first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloud.store.importing import UNKNOWN_DIGEST, ImportOutcome, KnownDevice, KnownImage
from cloud.store.store import Store
from cloud.values import ReleaseDraft
from protocol.identity import EVERYONE
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Device, channel, digest_of, join, release

KIOSK = KnownDevice(
    line=2,
    device_id="kiosk-1",
    product=PRODUCT,
    hardware_model=MODEL,
    groups=("berlin", "test"),
    attributes={"site": "berlin"},
    installed={"app": KnownImage("1.0.0"), "os": KnownImage("2.0.0", build=4, digest="ab" * 32)},
)


def counted(outcome: ImportOutcome) -> tuple[int, int, int]:
    return outcome.new, outcome.changed, outcome.unchanged


def take(store: Store, *devices: KnownDevice, dry_run: bool = False) -> ImportOutcome:
    return store.importing.import_fleet(devices, dry_run=dry_run, by=ANN)


def test_a_device_comes_with_groups_attributes_and_what_is_installed(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    outcome = take(store, KIOSK)
    assert counted(outcome) == (1, 0, 0)
    assert outcome.groups_made == [f"{PRODUCT}/berlin"]
    view = store.devices.device("kiosk-1")
    assert (view.groups, view.attributes) == (("test", "berlin", EVERYONE), {"site": "berlin"})
    assert [(it.component, it.version, it.build, it.digest) for it in view.components] == [
        ("app", "1.0.0", 1, digest_of("1.0.0")),
        ("os", "2.0.0", 4, "ab" * 32),
    ]
    last = store.audit.last("fleet/import")
    assert last is not None
    assert last.after == {"new": 1, "changed": 0, "groups": [f"{PRODUCT}/berlin"]}


def test_the_same_again_changes_nothing(store: Store) -> None:
    take(store, KIOSK)
    rows = len(store.audit.rows())
    assert counted(take(store, KIOSK)) == (0, 0, 1)
    assert len(store.audit.rows()) == rows


def test_another_file_changes_what_it_says_and_leaves_the_rest(store: Store) -> None:
    take(store, KIOSK)
    later = replace(KIOSK, groups=("late",), attributes=None, installed={"app": KnownImage("1.1.0")})
    assert counted(take(store, later)) == (0, 1, 0)
    view = store.devices.device("kiosk-1")
    assert view.groups == ("berlin", "test", "late", EVERYONE)
    assert view.attributes == {"site": "berlin"}
    assert [(it.component, it.version) for it in view.components] == [("app", "1.1.0")]


def test_one_wrong_line_keeps_all_of_them_out_and_each_is_named(store: Store) -> None:
    join(store, "known-1")
    store.catalog.create_group(PRODUCT, "hall", query='attributes.site == "hall"', by=ANN)
    wrong = [
        (replace(KIOSK, line=3, device_id="k 1"), "is not an id"),
        (replace(KIOSK, line=4, device_id="k-4", product="lamp"), "no product 'lamp'"),
        (replace(KIOSK, line=5, device_id="k-5", hardware_model="pi9"), "no hardware model 'pi9'"),
        (replace(KIOSK, line=6, device_id="k-6", groups=("hall",)), "follow from a query"),
        (replace(KIOSK, line=7, device_id="k-7", installed={"app": KnownImage("1.0")}), "not a semantic version"),
        (
            replace(KIOSK, line=8, device_id="k-8", installed={"app": KnownImage("1.0.0", digest="0" * 64)}),
            "has digest",
        ),
        (replace(KIOSK, line=9, device_id="k-9", installed={"app": KnownImage("1.0.0", build=9)}), "is build 1"),
    ]
    outcome = take(store, KIOSK, *(device for device, _ in wrong))
    assert [note.line for note in outcome.wrong] == [device.line for device, _ in wrong]
    for note, (_, why) in zip(outcome.wrong, wrong, strict=True):
        assert why in note.why
        assert "nothing was changed" not in note.why
    assert [it.device_id for it in store.devices.devices()] == ["known-1"]
    assert {it.group for it in store.catalog.groups(PRODUCT)} == {"hall", EVERYONE}
    assert store.audit.last("fleet/import") is None


def test_a_dry_run_says_what_would_be_and_changes_nothing(store: Store) -> None:
    outcome = take(store, KIOSK, dry_run=True)
    assert (counted(outcome), outcome.groups_made) == ((1, 0, 0), [f"{PRODUCT}/berlin", f"{PRODUCT}/test"])
    assert store.devices.devices() == ()
    assert store.audit.last("fleet/import") is None


def test_what_a_device_says_goes_before_what_a_file_says(store: Store) -> None:
    take(store, replace(KIOSK, attributes={"site": "berlin", "room": "3"}))
    device = Device(store, "kiosk-1", {"app": "1.1.0"}, attributes={"site": "hall"})
    device.hello()
    view = store.devices.device("kiosk-1")
    assert view.attributes == {"site": "hall", "room": "3"}
    assert [(it.component, it.version) for it in view.components] == [("app", "1.1.0")]
    outcome = take(store, replace(KIOSK, attributes={"site": "berlin", "room": "4"}))
    assert counted(outcome) == (0, 1, 0)
    view = store.devices.device("kiosk-1")
    assert view.attributes == {"site": "hall", "room": "4"}
    assert [(it.component, it.version) for it in view.components] == [("app", "1.1.0")]
    assert take(store, replace(KIOSK, hardware_model="other")).wrong


def test_groups_by_a_query_see_what_was_imported(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "berliners", query='attributes.site == "berlin" and os >= "2.0.0"', by=ANN)
    take(store, KIOSK)
    assert store.catalog.members(PRODUCT, "berliners") == ("kiosk-1",)


def test_a_forecast_counts_on_what_was_imported(store: Store) -> None:
    take(store, KIOSK, replace(KIOSK, line=3, device_id="kiosk-2", installed={"app": KnownImage("0.9.0")}))
    draft = ReleaseDraft(channel=channel(), version="1.1.0", target_range=">=1.0.0")
    assert store.releases.forecast(draft).takes == ("kiosk-1",)
    release(store, "1.0.0")
    found = {it.device_id: it.components[0].digest for it in store.devices.devices()}
    assert found == {"kiosk-1": digest_of("1.0.0"), "kiosk-2": UNKNOWN_DIGEST}


def test_images_that_nobody_knows_are_counted(store: Store) -> None:
    two = replace(KIOSK, line=3, device_id="kiosk-2", installed={"app": KnownImage("0.9.0")})
    outcome = take(store, KIOSK, two, replace(two, device_id="kiosk-3"))
    assert outcome.unknown_images == {f"{PRODUCT}/app 0.9.0": 2}


@pytest.mark.parametrize("model", [None, MODEL])
def test_the_only_hardware_model_need_not_be_named(store: Store, model: str | None) -> None:
    assert counted(take(store, replace(KIOSK, hardware_model=model))) == (1, 0, 0)
    assert store.devices.device("kiosk-1").hardware_model == MODEL
