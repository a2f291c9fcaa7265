"""What became of releases: derived from the journals, so never negative, lost or doubled."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import insert

from cloud.models import AttemptRow, ComponentRow, DeviceRow, MembershipRow
from cloud.store.errors import NotFoundError
from cloud.store.store import Store
from cloud.values import ReleasePatch, ReleaseView
from protocol.identity import EVERYONE
from protocol.phases import Outcome, Phase, Reason
from protocol.values import Via
from tests.cloud.store.fleets import (
    ANN,
    HAPPY,
    MODEL,
    ON_SQLITE,
    PRODUCT,
    Device,
    channel,
    digest_of,
    image_of,
    join,
    manifest,
    publish,
    release,
)


def test_a_release_that_nobody_met_has_zeros(store: Store) -> None:
    made = release(store, "1.1.0")
    metrics = store.metrics.release(made.release_id)

    assert (metrics.group_devices, metrics.attempts, metrics.active_percent) == (0, 0, 0.0)
    assert (metrics.rollbacks, metrics.failures, metrics.cancellations) == ({}, {}, {})
    with pytest.raises(NotFoundError, match="no release 'rel-0'"):
        store.metrics.release("rel-0")


def test_each_device_is_counted_where_it_got_to(store: Store) -> None:
    made = release(store, "1.1.0")
    fleet = join(store, *(f"pi-{number}" for number in range(8)))
    source = made.release_id
    fleet[0].take("1.1.0", source)
    fleet[1].take("1.1.0", source)
    fleet[2].fail("1.1.0", source, Reason.HEALTH_FAILED)
    fleet[3].fail("1.1.0", source, Reason.START_FAILED)
    downloading = (Phase.DOWNLOADING,)
    fleet[4].report(*fleet[4].steps("1.1.0", source, *downloading))
    fleet[5].report(*fleet[5].steps("1.1.0", source, *HAPPY))
    fleet[6].report(
        *fleet[6].steps("1.1.0", source, *downloading, outcome=Outcome.FAILED, reason=Reason.DOWNLOAD_FAILED)
    )
    cancelled = fleet[6].steps("1.1.0", source, *downloading, outcome=Outcome.CANCELLED, reason=Reason.SUPERSEDED)
    fleet[6].report(*cancelled)

    metrics = store.metrics.release(source)

    assert (metrics.attempts, metrics.under_way, metrics.downloads) == (8, 2, 5)
    assert (metrics.installs, metrics.taken_back, metrics.active) == (2, 0, 2)
    assert (metrics.group_devices, metrics.active_percent) == (8, 25.0)
    assert metrics.rollbacks == {Reason.HEALTH_FAILED: 1, Reason.START_FAILED: 1}
    assert metrics.failures == {Reason.DOWNLOAD_FAILED: 1}
    assert metrics.cancellations == {Reason.SUPERSEDED: 1}
    assert store.metrics.channel(channel()) == {source: metrics}
    assert store.metrics.versions(PRODUCT, "app") == {"1.0.0": 6, "1.1.0": 2}


def test_a_report_that_comes_twice_counts_once(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    entries = device.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.SUCCEEDED)
    device.running = {"app": "1.1.0"}
    for part in (entries, entries[2:], entries):
        device.report(*part)
        device.tell()

    metrics = store.metrics.release(made.release_id)
    assert (metrics.attempts, metrics.downloads, metrics.installs, metrics.active) == (1, 1, 1, 1)


def active(store: Store, *releases: ReleaseView) -> tuple[int, ...]:
    return tuple(store.metrics.release(made.release_id).active for made in releases)


def test_what_runs_is_active_on_its_newest_label_as_soon_as_it_is_released_again(store: Store) -> None:
    first, other = release(store, "1.1.0"), release(store, "1.2.0")
    here, moved, never = join(store, "pi-1", "pi-2", "pi-3")
    here.take("1.1.0", first.release_id)
    moved.take("1.1.0", first.release_id)
    moved.take("1.2.0", other.release_id)
    assert active(store, first, other) == (1, 1)

    again = release(store, "1.1.0", percentage=1, target_range="9.x")
    assert active(store, first, other, again) == (0, 1, 1), "percentage and range do not count for who runs it"
    metrics = store.metrics.release(again.release_id)
    assert (metrics.installs, metrics.active_percent) == (0, 33.3), "nobody took it from there"
    never.take("1.1.0", again.release_id)
    assert active(store, first, other, again) == (0, 1, 2)

    store.releases.patch(again.release_id, ReleasePatch(enabled=False), by=ANN)
    assert active(store, first, other, again) == (2, 1, 0), "the label before decides for them again"
    store.releases.patch(first.release_id, ReleasePatch(enabled=False), by=ANN)
    assert active(store, first, other, again) == (1, 1, 1), "none decides: each where it took it"


def test_an_image_that_came_from_elsewhere_is_active_where_it_is_released(store: Store) -> None:
    publish(store, "1.1.1")
    factory, alone, failed = join(store, "pi-1", "pi-2", "pi-3")
    ota = store.devices.create_ota("pi-2", "app", "1.1.1", by=ANN)
    alone.take("1.1.1", ota.ota_id, via=Via.OTA)
    factory.running = {"app": "1.1.1"}
    factory.tell()
    made = release(store, "1.1.1")
    failed.fail("1.1.1", made.release_id)
    assert active(store, made) == (1,), "success is evidence: the factory's image is none, nor is a trial"


def test_the_group_that_decides_has_its_devices_active(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    tested, everywhere = join(store, "pi-1", "pi-2")
    store.catalog.add_to_group(PRODUCT, "test", ["pi-1"], by=ANN)
    trial = release(store, "1.1.0", "test")
    tested.take("1.1.0", trial.release_id)
    promoted = store.releases.promote(trial.release_id, EVERYONE, by=ANN)
    everywhere.take("1.1.0", promoted.release_id)
    assert active(store, trial, promoted) == (1, 1)

    store.catalog.add_to_group(PRODUCT, "test", ["pi-2"], by=ANN)
    assert active(store, trial, promoted) == (2, 0)
    store.catalog.remove_from_group(PRODUCT, "test", ["pi-1", "pi-2"], by=ANN)
    assert active(store, trial, promoted) == (0, 2)
    assert store.metrics.release(promoted.release_id).active_percent == 100.0


def test_of_one_image_for_two_models_each_device_is_active_on_its_own(store: Store) -> None:
    same = replace(manifest("1.1.0", 4, hardware=("pi5",)), version="1.1.1")
    size_bytes = len(image_of("app", "1.1.0"))
    store.catalog.add_firmware(
        same, digest=digest_of("1.1.0"), size_bytes=size_bytes, signer_keyids=("k",), published=True, by=ANN
    )
    older, newer = release(store, "1.1.0"), release(store, "1.1.1")
    four, five = (Device(store, f"pi-{model}", model=model) for model in ("pi4", "pi5"))
    for device, made in ((four, older), (five, newer)):
        device.hello()
        device.take("1.1.0", made.release_id)
    assert active(store, older, newer) == (1, 1)


def test_active_devices_are_those_of_the_newest_success(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    first, second = release(store, "1.1.0"), release(store, "1.2.0", "test")
    here, moved, elsewhere = join(store, "pi-1", "pi-2", "pi-3")
    store.catalog.add_to_group(PRODUCT, "test", ["pi-2", "pi-3"], by=ANN)
    here.take("1.1.0", first.release_id)
    moved.take("1.1.0", first.release_id)
    moved.take("1.2.0", second.release_id)
    elsewhere.take("1.1.0", first.release_id)
    back = release(store, "1.1.0", "test")
    moved.take("1.1.0", back.release_id)

    def counted(release_id: str) -> tuple[int, int, float]:
        metrics = store.metrics.release(release_id)
        return metrics.installs, metrics.active, metrics.active_percent

    assert counted(first.release_id) == (3, 1, 33.3)
    assert counted(second.release_id) == (1, 0, 0.0)
    assert counted(back.release_id) == (1, 2, 100.0), "it decides for the group's other device as well"


def test_taking_it_again_leaves_a_device_counted_once(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)
    device.running = {"app": "1.0.0"}
    device.tell()
    device.take("1.1.0", made.release_id)

    metrics = store.metrics.release(made.release_id)
    assert (metrics.attempts, metrics.installs, metrics.taken_back, metrics.active) == (2, 1, 1, 1)


def test_who_is_connected_is_counted_per_product(store: Store) -> None:
    store.catalog.create_product("lamp", hardware_models=[MODEL], by=ANN)
    join(store, "pi-1", "pi-2")[0].presence(online=False)

    assert store.metrics.online() == {PRODUCT: (1, 2)}


@ON_SQLITE
def test_the_metrics_of_a_hundred_thousand_devices_are_there_at_once(store: Store) -> None:
    """The rows are put in by hand, as their journals would have made them: 100 000 devices, 200 000 attempts."""
    first, second = release(store, "1.1.0"), release(store, "1.2.0")
    devices = [f"pi-{number:06}" for number in range(100_000)]
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    with store._database.changing() as change:
        change.session.execute(insert(DeviceRow), [_device(device_id) for device_id in devices])
        for made, version, count in ((first, "1.1.0", 100_000), (second, "1.2.0", 40_000)):
            rows = [_attempt(device_id, made.release_id, version) for device_id in devices[:count]]
            change.session.execute(insert(AttemptRow), rows)
        running = [_component(name, "1.2.0" if at < 40_000 else "1.1.0") for at, name in enumerate(devices)]
        change.session.execute(insert(ComponentRow), running)
        members = [{"device_id": name, "group_name": "test", "product": PRODUCT} for name in devices[:1000]]
        change.session.execute(insert(MembershipRow), members)

    started = time.monotonic()
    metrics = store.metrics.release(first.release_id)
    took_s = time.monotonic() - started

    assert (metrics.installs, metrics.active, metrics.active_percent) == (100_000, 60_000, 60.0)
    assert store.metrics.release(second.release_id).active == 40_000
    assert store.catalog.group(PRODUCT, "test").devices == 1000
    assert store.catalog.group(PRODUCT, EVERYONE).devices == 100_000
    # Generous: what this guards against is a query without an index, which takes minutes here.
    assert took_s < 10


def _device(device_id: str) -> dict[str, object]:
    return {
        "id": device_id,
        "product": PRODUCT,
        "hardware_model": MODEL,
        "agent_version": "0.1.0",
        "attributes": {},
        "encodings": [],
        "root_version": 1,
        "online": True,
        "session": 1,
        "state_seq": 1,
        "state": None,
        "has_pending": False,
        "registered_at_ms": 0,
        "journal_next": 1,
        "ack_through": 0,
        "desired_seq": 0,
    }


def _attempt(device_id: str, source_id: str, version: str) -> dict[str, object]:
    return {
        "device_id": device_id,
        "journal_id": "j1",
        "attempt_id": f"a-{version.replace('.', '-')}",
        "source_id": source_id,
        "via": "release",
        "component": "app",
        "version": version,
        "digest": digest_of(version),
        "phase": "proving",
        "downloaded": True,
        "outcome": "succeeded",
        "detail": "",
        "booted_digest": digest_of(version),
        "fetched_bytes": 1000,
        "forced": False,
        "started_at_ms": 0,
        "ended_at_ms": 1,
        "ended_seq": 4,
    }


def _component(device_id: str, version: str) -> dict[str, object]:
    return {
        "device_id": device_id,
        "component": "app",
        "version": version,
        "build": 1,
        "digest": digest_of(version),
    }
