"""`python -m tests.console.stage`: the console over a fleet that was made up: none, a small one, or a huge one.

The small one has three weeks behind it: releases that went well and one that its gates stopped, devices that failed,
went away, are held, locked, and wait. Nothing is connected: it is for looking at pages, and for measuring them.
"""

import argparse
import contextlib
import math
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from cloud.access.passwords import hash_password
from cloud.access.roles import EVERYTHING, Role
from cloud.cli.initialise import database_url
from cloud.config import Home
from cloud.device_models import DeviceAttributeRow, DevicePendingRow
from cloud.guard.policy import Gates, Phase, Policy, SilenceGate
from cloud.models import AttemptRow, CertificateRow, ComponentRow, DeviceRow, MembershipRow, Row
from cloud.people_models import SampleRow
from cloud.store.store import Store
from cloud.values import ChannelKey, ReleaseDraft, ReleasePatch, ReleaseView
from protocol.codec import to_plain
from protocol.phases import Phase as Phases
from protocol.phases import Reason, Wait
from protocol.up import Availability, DeviceState, HoldInfo, Pending
from protocol.values import Scope
from tests.cloud.console.visits import PASSWORD
from tests.cloud.homes import MODEL, PRODUCT, OpenHome, open_home, serve_api
from tests.cloud.store.fleets import HAPPY, Clock, Device, digest_of, image_of

DAY_S = 86_400
SAMPLED_S = 1200
BATCH = 5000
SITES = tuple(f"site-{number:02}" for number in range(1, 13))
ANN, BEN, CAT = "ann", "ben", "cat"
VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "2.0.0")
EVERYONE = ChannelKey(PRODUCT, "everyone", "app")


@contextlib.contextmanager
def staged(directory: Path, kind: str, *, devices: int = 100_000) -> Iterator[OpenHome]:
    """Open a home whose fleet is `empty`, `small` or `huge`; the people ann (admin), ben (operator), cat (viewer)."""
    with open_home(directory) as home:
        _people(home)
        if kind != "empty":
            for version in VERSIONS:
                home.publish(version, image_of("app", version), notes=f"What is new in {version}.")
        now_s = time.time()
        with _at(home.home, home, SamplingClock(now_s - 21 * DAY_S)) as (store, clock):
            clock.store = store
            if kind == "small":
                _small(store, clock, now_s)
            elif kind == "huge":
                _huge(store, clock, devices)
        yield home


class SamplingClock(Clock):
    """A clock with which a store's fleet is sampled as time passes."""

    def __init__(self, now_s: float) -> None:
        super().__init__(now_s)
        self.store: Store | None = None
        self.sampled_at_s = 0.0

    def pass_s(self, seconds: float) -> None:
        super().pass_s(seconds)
        if self.store is not None and self.now_s - self.sampled_at_s >= SAMPLED_S:
            self.sampled_at_s = self.now_s
            self.store.samples.take()


@contextlib.contextmanager
def _at(where: Home, home: OpenHome, clock: SamplingClock) -> Iterator[tuple[Store, SamplingClock]]:
    with Store.open(database_url(where, home.settings), clock) as store:
        yield store, clock


def _people(home: OpenHome) -> None:
    for name, role in ((ANN, Role.ADMIN), (BEN, Role.OPERATOR), (CAT, Role.VIEWER)):
        home.store.people.add(name, {EVERYTHING: role}, by="console")
        home.store.people.set_password(name, hash_password(PASSWORD), by="console")


def _small(store: Store, clock: Clock, now_s: float) -> None:
    chance = random.Random(7)
    catalog = store.catalog
    catalog.create_group(PRODUCT, "test-bench", by=ANN)
    catalog.create_group(PRODUCT, "field-north", by=ANN)
    fleet = [
        Device(store, f"{site}-{number:02}", {"app": "1.0.0"}, model=MODEL, attributes={"site": site})
        for site, count in (("bench", 4), ("north", 16), ("south", 20))
        for number in range(1, count + 1)
    ]
    for device in fleet:
        clock.pass_s(chance.uniform(10, 900))
        device.hello()
        device.presence(online=True)
    catalog.add_to_group(PRODUCT, "test-bench", [it.device_id for it in fleet[:4]], by=ANN)
    catalog.add_to_group(PRODUCT, "field-north", [it.device_id for it in fleet[4:20]], by=ANN)
    _good(store, clock, fleet, "1.1.0", chance, failing=1)
    clock.pass_s(3 * DAY_S)
    _good(store, clock, fleet, "1.2.0", chance, failing=2)
    clock.pass_s(4 * DAY_S)
    _stopped(store, clock, fleet, "1.3.0")
    clock.now_s = max(clock.now_s, now_s - 2 * DAY_S)
    _under_way(store, clock, fleet, "2.0.0", chance)
    fleet[-4].presence(online=False)
    _waits(fleet[12], Wait.HELD, "a patient is connected", store)
    _waits(fleet[14], Wait.REQUIREMENT, "os is not installed, and >=2.0 is needed", store)
    clock.now_s = max(clock.now_s, now_s - 1800)
    for device in fleet[-3:]:
        device.presence(online=False)
    until_ms = int((now_s + 3600) * 1000)
    hold = HoldInfo(owner="surgery", why="a patient is connected", scopes=(Scope.RESTART,), expires_at_ms=until_ms)
    fleet[6].tell(availability=Availability(holds=(hold,)))
    store.devices.pin(fleet[8].device_id, "app", "1.2.0", by=BEN)


def _waits(device: Device, why: Wait, detail: str, store: Store) -> None:
    newest = store.releases.releases(product=PRODUCT)[0]
    item = Pending(
        component="app",
        version=newest.firmware.version,
        digest=newest.firmware.digest,
        source_id=newest.release_id,
        why=why,
        detail=detail,
    )
    device.tell(pending=(item,))


def _good(
    store: Store, clock: Clock, fleet: list[Device], version: str, chance: random.Random, *, failing: int
) -> None:
    made = store.releases.create(
        ReleaseDraft(channel=EVERYONE, version=version, description=f"Routine update to {version}"), by=ANN
    )
    for number, device in enumerate(fleet):
        clock.pass_s(chance.uniform(60, 1200))
        if number < failing:
            device.fail(version, made.release_id)
            clock.pass_s(60)
        else:
            device.take(version, made.release_id)


def _stopped(store: Store, clock: Clock, fleet: list[Device], version: str) -> None:
    policy = Policy(
        phases=(Phase(group="test-bench", soak_s=600), Phase(percentage=25, soak_s=3600), Phase(percentage=100))
    )
    made = store.releases.create(
        ReleaseDraft(channel=EVERYONE, version=version, description="Faster heating curve"), by=ANN, policy=policy
    )
    for device in fleet[:4]:
        clock.pass_s(120)
        device.fail(version, made.release_id, Reason.HEALTH_FAILED)
    store.rollouts.reconcile(made.release_id)
    clock.pass_s(3600)
    store.releases.patch(made.release_id, ReleasePatch(enabled=False), by=BEN)


def _under_way(store: Store, clock: Clock, fleet: list[Device], version: str, chance: random.Random) -> None:
    policy = Policy(
        phases=(
            Phase(percentage=10, soak_s=600),
            Phase(percentage=50, soak_s=DAY_S),
            Phase(percentage=100, soak_s=DAY_S),
        ),
        hold_back=5,
        gates=Gates(silence=SilenceGate(quiet_after_s=7200)),
    )
    draft = ReleaseDraft(
        channel=EVERYONE,
        version=version,
        description="New scheduler; reads the old settings",
    )
    made = store.releases.create(draft, by=ANN, policy=policy)
    for turn in range(2):
        for device in fleet:
            covered = store.devices.decide(device.device_id)[0].wanted
            if covered is None or covered.source_id != made.release_id or device.running["app"] == version:
                continue
            clock.pass_s(chance.uniform(20, 200))
            if turn == 1 and device.device_id.endswith("7"):
                device.report(*device.steps(version, made.release_id, *HAPPY[:1]))
            elif turn == 1 and device.device_id.endswith("3"):
                device.fail(version, made.release_id, Reason.HEALTH_FAILED)
            else:
                device.take(version, made.release_id)
        clock.pass_s(900)
        store.rollouts.reconcile(made.release_id)


_OF_DEVICES = (DeviceAttributeRow, ComponentRow, MembershipRow, AttemptRow, CertificateRow, DevicePendingRow)


def _huge(store: Store, clock: Clock, devices: int) -> None:
    """Write the rows as they would be: by hellos and reports it would take an hour."""
    chance = random.Random(9)
    for group in SITES:
        store.catalog.create_group(PRODUCT, group, by=ANN)
    made = store.releases.create(ReleaseDraft(channel=EVERYONE, version="1.1.0"), by=ANN)
    clock.pass_s(14 * DAY_S)
    now = store.releases.create(ReleaseDraft(channel=EVERYONE, version="2.0.0", percentage=60), by=ANN)
    clock.pass_s(6 * DAY_S)
    with store._database.changing() as change:
        change.session.execute(insert(SampleRow), list(_samples(devices, change.now_ms)))
        for begin in range(0, devices, BATCH):
            batch = [
                _rows(number, made, now, chance, change.now_ms) for number in range(begin, min(begin + BATCH, devices))
            ]
            for row in (DeviceRow, *_OF_DEVICES):
                change.session.execute(insert(row), [it for rows in batch for it in rows[row]])


def _samples(devices: int, now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield a sample for each hour of three weeks: 1.1.0 came in the first, 2.0.0 in the third."""
    for hour in range(20 * 24, -1, -1):
        day = 20 - hour / 24
        first, second = _taken(day - 1), _taken(day - 14)
        counts = {"2.0.0": int(devices * 0.5 * second)}
        counts["1.1.0"] = int(devices * 0.95 * first) - counts["2.0.0"]
        counts["1.0.0"] = devices - sum(counts.values())
        for component, version, count in (("", "", devices), *(("app", *it) for it in counts.items())):
            online = int(count * (0.9 + 0.05 * math.sin(day * 2 * math.pi)))
            if count:
                yield {
                    "product": PRODUCT,
                    "component": component,
                    "version": version,
                    "devices": count,
                    "at_ms": now_ms - hour * 3_600_000,
                    "online": online,
                }


def _taken(days: float) -> float:
    """Return the share of a fleet that has taken a release so long after it was made."""
    return 1 - math.exp(-days) if days > 0 else 0.0


def _rows(
    number: int, first: ReleaseView, second: ReleaseView, chance: random.Random, now_ms: int
) -> dict[type[Row], list[dict[str, Any]]]:
    device_id = f"device-{number:06d}"
    took = chance.choices((None, first, second), (5, 45, 50))[0]
    version = took.firmware.version if took else "1.0.0"
    component = {"component": "app", "version": version, "build": 1, "digest": digest_of(version)}
    why = chance.choices((None, Wait.HELD, Wait.REQUIREMENT, Wait.TURN, Wait.DECLINED), (950, 20, 10, 10, 10))[0]
    it = {"component": "app", "version": "2.0.0"}
    pending = Pending(**it, digest=digest_of("2.0.0"), source_id=second.release_id, why=why) if why else None
    waits = {"device_id": device_id, "place": 0, **it, "detail": "", "decided_at_ms": second.created_at_ms}
    state = DeviceState(
        session=1,
        seq=1,
        phase=chance.choices((Phases.IDLE, Phases.DOWNLOADING), (49, 1))[0],
        pending=(pending,) if pending else (),
        refused={"expired": 1} if chance.random() < 0.005 else {},
    )
    site = chance.choice(SITES)
    device = {
        "id": device_id,
        "product": PRODUCT,
        "hardware_model": MODEL,
        "agent_version": "0.1.0",
        "attributes": {"site": site},
        "encodings": [],
        "online": chance.random() > 0.1,
        "session": 1,
        "has_pending": pending is not None,
        "has_refused": bool(state.refused),
        "state": to_plain(state) | {"components": [component]},
        "last_seen_at_ms": now_ms - chance.randrange(3 * DAY_S * 1000),
        "registered_at_ms": now_ms - 20 * DAY_S * 1000,
        "journal_id": "j1",
    }
    attempt = {
        "device_id": device_id,
        "journal_id": "j1",
        "attempt_id": "a-1",
        "source_id": (took or second).release_id,
        "via": "release",
        "component": "app",
        "version": version if took else "2.0.0",
        "digest": digest_of(version if took else "2.0.0"),
        "from_version": "1.0.0",
        "from_digest": digest_of("1.0.0"),
        "phase": "proving",
        "downloaded": True,
        "outcome": "succeeded" if took else "rolled_back",
        "reason": None if took else "health_failed",
        "booted_digest": digest_of(version) if took else None,
        "fetched_bytes": 1000,
        "started_at_ms": now_ms - DAY_S * 1000,
        "ended_at_ms": now_ms - DAY_S * 1000 + 60_000,
        "begun_at_ms": now_ms - DAY_S * 1000,
        "taken_at_ms": now_ms - DAY_S * 1000 + 30_000,
        "settled_at_ms": now_ms - chance.randrange(5 * DAY_S * 1000),
        "taken_back_at_ms": now_ms if took and chance.random() < 0.002 else None,
    }
    certificate = {
        "serial": format(number + 1, "x"),
        "device_id": device_id,
        "authority": "a",
        "key_sha256": format(number, "064x"),
        "pem": "-",
        "not_before_ms": 0,
        "not_after_ms": now_ms + chance.randrange(10 if chance.random() < 0.01 else 30, 90) * DAY_S * 1000,
        "issued_at_ms": now_ms - DAY_S * 1000,
    }
    member = {"device_id": device_id, "group_name": chance.choice(SITES), "product": PRODUCT}
    return {
        DeviceRow: [device],
        DeviceAttributeRow: [{"device_id": device_id, "name": "site", "value": site}],
        ComponentRow: [component | {"device_id": device_id, "requires": {}, "data_schema": 0}],
        MembershipRow: [member] if chance.random() < 0.8 else [],
        AttemptRow: [attempt],
        CertificateRow: [certificate],
        DevicePendingRow: [waits | {"why": why.value}] if why else [],
    }


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="tests.console.stage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the home is made; must not exist")
    parser.add_argument("--fleet", choices=["empty", "small", "huge"], default="small")
    parser.add_argument("--devices", type=int, default=100_000)
    options = parser.parse_args()
    with (
        staged(options.directory, options.fleet, devices=options.devices) as home,
        serve_api(home) as api,
        contextlib.suppress(KeyboardInterrupt),
    ):
        url = api.http.base_url
        print(f"http://{url.host}:{url.port}/ as {ANN}, {BEN} or {CAT} with {PASSWORD!r}", flush=True)  # noqa: T201
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main())
