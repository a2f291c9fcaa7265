"""The cloud decides from its database as the device does from what it was told, step by step, over random fleets."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.models import ProductRow
from cloud.planner import components_of
from cloud.store.errors import ConflictError
from cloud.store.store import Store
from device_agent.told import Told
from protocol.codec import decode, encode
from protocol.explaining import explain
from protocol.facts import DeviceFacts
from protocol.phases import Outcome, Phase, Reason
from protocol.schedule import Ramp, Stratum, Terms, Window
from protocol.selection import Rule, Verdict, select
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Signature, seal
from protocol.topics import NoticeTopic
from protocol.up import AttemptEntry, DeviceState, Entry, Hello, Report
from protocol.values import ComponentState, FirmwareRef
from tests.cloud.store.fleets import (
    ANN,
    MODEL,
    PRODUCT,
    START_S,
    Clock,
    Device,
    channel,
    digest_of,
    join,
    manifest,
    release,
)

NOW_MS: Final = int(START_S * 1000)
VERSIONS: Final = ("1.0.0", "1.1.0", "1.2.0", "2.0.0")
GROUPS: Final = ("pilot", "field", "everyone")
MODELS: Final = (MODEL, "pi5")
COMPONENTS: Final = ("app", "os")
RANGES: Final = ("*", "1.x", ">=1.1.0", "1.0.0 || 2.x", "os:>=1.1.0", "build>=2")
NEAR_MS: Final = st.integers(NOW_MS - 50_000, NOW_MS + 50_000)

ramps = st.builds(
    lambda first, starts, span: Ramp(from_percentage=first, starts_at_ms=starts, ends_at_ms=starts + span),
    st.integers(0, 100),
    NEAR_MS,
    st.integers(1, 100_000),
)
strata = st.builds(
    Stratum, hardware_model=st.none() | st.sampled_from(MODELS), from_version=st.none() | st.sampled_from(VERSIONS)
)
terms = st.builds(
    Terms,
    canaries=st.sampled_from(((), (), ("pilot",), ("field", "pilot"))),
    ramp=st.none() | ramps,
    paused=st.sampled_from((False, False, False, True)),
    stopped=st.lists(strata, max_size=1).map(tuple),
    not_before_ms=st.just(0) | NEAR_MS,
    windows=st.sampled_from(((), (Window(start_minute=0, duration_minutes=60),))),
    base_first=st.booleans(),
    retried_at=st.sampled_from((0, 0, 3, 40)),
)
releases = st.tuples(
    st.sampled_from(GROUPS),
    st.sampled_from(COMPONENTS),
    st.sampled_from(VERSIONS),
    st.sampled_from(RANGES),
    st.sampled_from((1, 20, 60, 100, 100)),
    terms,
)


@st.composite
def devices(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "model": draw(st.sampled_from(MODELS)),
        "groups": draw(st.sampled_from(((), ("pilot",), ("field",), ("field", "pilot")))),
        "running": draw(st.dictionaries(st.sampled_from(COMPONENTS), st.sampled_from(VERSIONS))),
        "needs": draw(st.sampled_from(({}, {}, {"os": ">=1.1.0"}))),
        "schema": draw(st.sampled_from((0, 0, 3))),
        "fails": draw(st.sampled_from((False, False, True))),
        "declines": draw(st.sampled_from((False, False, True))),
        "pin": draw(st.sampled_from((None, None, None, *VERSIONS))),
        "ota": draw(st.sampled_from((None, None, *VERSIONS))),
    }


worlds = st.fixed_dictionaries(
    {
        "releases": st.lists(releases, min_size=1, max_size=6),
        "late": st.lists(releases, max_size=2),
        "devices": st.lists(devices(), min_size=1, max_size=3),
        "floor": st.sampled_from((0, 0, 2)),
        "ota_enabled": st.sampled_from((True, True, True, True, False)),
        "base_only": st.sampled_from((False, False, False, True)),
        "later_ms": st.integers(0, 60_000),
    }
)


class Keeper:
    """What a device keeps, for as long as the test."""

    def all_seen(self) -> dict[str, object]:
        return {}

    def keep_seen(self, channel: str, seq: int, payload: bytes) -> None:
        pass


def sign(_covered: bytes) -> tuple[Signature, ...]:
    return (Signature(keyid="0" * 64, sig="00"),)


def told_by(store: Store, device_id: str) -> Told:
    """What the device knows when it has heard its Desired and every notice, each from its very bytes."""
    told = Told(device_id, PRODUCT, COMPONENTS, keeper=Keeper())  # type: ignore[arg-type]
    told.accept_desired(seal(store.devices.desired_for(device_id), DESIRED_TYPE, sign), lambda *_: None)
    for key in store.releases.channels(PRODUCT):
        topic = NoticeTopic(key.product, key.group, key.component)
        told.accept_notice(topic, seal(store.releases.channel_notice(key), NOTICE_TYPE, sign), lambda *_: None)
    assert told.missing() == ()
    return told


def make_releases(store: Store, wanted: list[tuple[Any, ...]]) -> list[str]:
    made = []
    for group, component, version, target_range, percentage, on_terms in wanted:
        draft = {"percentage": percentage, "target_range": target_range, "terms": on_terms}
        try:
            view = release(store, version, channel=channel(group, component), **draft)
        except ConflictError:  # below the floor, or more than a notice carries
            continue
        made.append(view.release_id)
    return made


def furnish(store: Store) -> None:
    store.catalog.create_product(PRODUCT, hardware_models=list(MODELS), by=ANN)
    for component in COMPONENTS:
        for seq, version in enumerate(VERSIONS, start=1):
            hardware = ("*",) if seq != 2 else (MODEL,)
            needs = ">=1.1.0" if (component, version) == ("app", "1.2.0") else None
            said = manifest(version, seq, component=component, hardware=hardware, needs=needs)
            said = replace(said, data_schema=seq // 3, reads_schemas=(0,) if seq == 3 else ())
            store.catalog.add_firmware(
                said, digest=digest_of(version, component), size_bytes=9, signer_keyids=(), published=True, by=ANN
            )
    for group in GROUPS[:-1]:
        store.catalog.create_group(PRODUCT, group, by=ANN)


def state_of(made: Device, said: dict[str, Any], failed: dict[str, int], declined: tuple[str, ...]) -> DeviceState:
    running = made.running
    components = tuple(
        ComponentState(
            component=name,
            version=version,
            build=VERSIONS.index(version) + 1,
            digest=digest_of(version, name),
            requires=said["needs"] if name == "app" else {},
            data_schema=said["schema"] if name == "app" else 0,
        )
        for name, version in running.items()
    )
    return decode(encode(made.state(components=components, failed=tuple(failed), declined=declined)), DeviceState)


def act(store: Store, device_id: str, said: dict[str, Any], made: list[str]) -> DeviceFacts:
    """Have one device join, fail and decline; return what it itself knows of that."""
    device = Device(store, device_id, said["running"], model=said["model"])
    failed: dict[str, int] = {}
    store.journal.receive_hello(device_id, decode(encode(device.greeting()), Hello))
    for group in said["groups"]:
        store.catalog.add_to_group(PRODUCT, group, [device_id], by=ANN)
    if said["fails"] and made:
        view = store.releases.release(made[-1])
        order = max(view.order, view.terms.retried_at)
        ended = {"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED}
        entries = device.steps(view.firmware.version, made[-1], Phase.PROVING, **ended)  # type: ignore[arg-type]
        said_so = [replace(it, attempt=_of(it, view.firmware, order)) for it in entries]
        report = Report(journal_id=device.journal_id, entries=tuple(said_so))
        assert store.journal.receive_report(device_id, decode(encode(report), Report)) is not None
        failed[view.firmware.digest] = order
    declined = (made[0],) if said["declines"] and made else ()
    state = state_of(device, said, failed, declined)
    assert store.journal.receive_state(device_id, state)
    return DeviceFacts(
        device_id=device_id,
        hardware_model=said["model"],
        agent_version=device.greeting().agent_version,
        components={it.component: it for it in state.components},
        failed=failed,
        declined=frozenset(declined),
    )


def _of(entry: Entry, firmware: FirmwareRef, order: int) -> AttemptEntry:
    assert entry.attempt is not None
    return replace(entry.attempt, component=firmware.component, digest=firmware.digest, order=order)


def decide_for(store: Store, device_id: str, said: dict[str, Any]) -> None:
    """Lock the device, or decide an OTA for it, where the firmware admits it."""
    for decide, version in ((store.devices.pin, said["pin"]), (store.devices.create_ota, said["ota"])):
        if version is not None:
            try:
                decide(device_id, "app", version, by=ANN)
            except ConflictError:
                continue


def test_the_cloud_decides_from_its_rows_what_the_device_decides_from_what_it_was_told(
    bare: Path, tmp_path: Path
) -> None:
    seen: set[object] = set()

    @settings(max_examples=40, deadline=None)
    @given(world=worlds)
    def decide_alike(world: dict[str, Any]) -> None:
        for leftover in tmp_path.glob("fleetlift.db*"):
            leftover.unlink()
        shutil.copy(bare, tmp_path / "fleetlift.db")
        clock = Clock()
        with Store.open(f"sqlite:///{tmp_path / 'fleetlift.db'}", clock) as store:
            for facts in live(store, world, clock):
                seen.update(compare(store, facts, int(clock() * 1000)))

    decide_alike()
    assert set(Verdict) <= seen
    assert {Rule.PERCENTAGE, Rule.CANARY, Rule.PAUSED, Rule.STRATUM, Rule.NOT_BEFORE, Rule.SINGLE_DEVICE} <= seen


def live(store: Store, world: dict[str, Any], clock: Clock) -> list[DeviceFacts]:
    """Have a world happen; return what its devices know of themselves."""
    made = make_releases(store, world["releases"])
    facts = [act(store, f"pi-{number}", said, made) for number, said in enumerate(world["devices"])]
    for of, said in zip(facts, world["devices"], strict=True):
        decide_for(store, of.device_id, said)
    floors = {"app": world["floor"]} if world["floor"] else {}
    if floors:
        store.catalog.set_floors(PRODUCT, floors, by=ANN)
    make_releases(store, world["late"])
    with store._database.changing() as change:
        row = change.session.get_one(ProductRow, PRODUCT)
        row.ota_enabled, row.base_only = world["ota_enabled"], world["base_only"]
        change.session.add(row)
    clock.pass_s(world["later_ms"] / 1000)
    return [replace(of, floors=floors) for of in facts]


def compare(store: Store, at_the_device: DeviceFacts, now_ms: int) -> set[object]:
    told = told_by(store, at_the_device.device_id)
    assignment = told.assignment
    assert assignment is not None
    by_the_cloud = {it.component: it for it in store.devices.decide(at_the_device.device_id)}
    by_the_device = {
        name: select(at_the_device, assignment, told.channels, name, now_ms=now_ms) for name in by_the_cloud
    }
    for name, cloud in by_the_cloud.items():
        device = by_the_device[name]
        assert (device.verdict, device.blocked_by, device.trace) == (cloud.verdict, cloud.blocked_by, cloud.trace)
        assert device.wanted == cloud.wanted
        assert explain(device) == explain(cloud)
    left_out = set(COMPONENTS) - set(by_the_cloud)
    idle = (select(at_the_device, assignment, told.channels, name, now_ms=now_ms) for name in left_out)
    assert all(it.wanted is None for it in idle), "the cloud passes over a component that the device would take"
    return {fact for it in by_the_device.values() for fact in (it.verdict, it.blocked_by, *(s.rule for s in it.trace))}


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with firmware and groups, and nothing decided; each example has a copy."""
    path = tmp_path_factory.mktemp("bare") / "fleetlift.db"
    with Store.open(f"sqlite:///{path}", Clock()) as opened:
        furnish(opened)
    return path


def test_one_device_is_explained_in_the_same_words_on_both_sides(store: Store) -> None:
    join(store, "pi-1")
    release(store, "1.1.0", percentage=1)
    view = store.devices.alone("pi-1")
    told = told_by(store, "pi-1")
    (device,) = view.devices
    assert told.assignment is not None
    assert components_of(view.channels, device) == ["app"]
    (decision,) = store.devices.decide("pi-1")
    there = select(device.facts, told.assignment, told.channels, "app", now_ms=view.now_ms)
    assert explain(there) == explain(decision)
