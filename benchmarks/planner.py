"""`python -m benchmarks.planner`: a million devices loaded from the database, forecast and planned, in time and memory.

The fleet is written to a SQLite database as the server's, in its own process; what is measured runs in another one that
only loads and plans. Peaks are of that whole process: the interpreter, the libraries, the fleet and the plan.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from cloud.models import ComponentRow, DeviceRow, MembershipRow
from cloud.planner import forecast, plan
from cloud.store.store import Store
from cloud.values import ChannelKey, ReleaseDraft
from protocol.chunks import describe
from protocol.codec import to_plain
from protocol.down import NoticeRelease
from protocol.manifest import Blob, Manifest
from protocol.phases import Phase
from protocol.up import Availability, DeviceState, HoldInfo
from protocol.values import Scope

PRODUCT = "bench"
MODELS = ("pi3", "pi4", "pi5", "cm4")
VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "2.0.0")
GROUPS = tuple(f"site-{number}" for number in range(20))
BATCH = 20_000
ROW_KEYS = (("device", DeviceRow), ("component", ComponentRow), ("membership", MembershipRow))


def main() -> int:
    """Measure, print, and return 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks.planner", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1_000_000, metavar="N")
    parser.add_argument(
        "--database", type=Path, metavar="FILE", help="measure this one (what the benchmark itself does)"
    )
    options = parser.parse_args()
    if options.database:
        print(json.dumps(measure(options.database)))
        return 0
    with tempfile.TemporaryDirectory(prefix="fleetlift-planner-") as scratch:
        path = Path(scratch) / "fleetlift.db"
        began = time.perf_counter()
        furnish(path, options.devices)
        print(f"{options.devices} devices written in {time.perf_counter() - began:.1f} s")
        command = [sys.executable, "-m", "benchmarks.planner", "--database", str(path)]
        print(table(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)))
    return 0


def measure(path: Path) -> dict[str, Any]:
    """Load the fleet and plan it; return seconds and peaks in MiB."""
    with Store.open(f"sqlite:///{path}", time.time) as store:
        began = _now()
        view = store.devices.fleet(PRODUCT)
        figures: dict[str, Any] = {"load": _since(began)}
        firmware = store.catalog.firmware(PRODUCT, "app", "2.0.0").ref
    candidate = NoticeRelease(release_id="rel-candidate", label=99, order=99, firmware=firmware, percentage=20)
    began = _now()
    told = forecast(view, candidate)
    figures["forecast"] = _since(began)
    began = _now()
    made = plan(view, view.now_ms)
    figures["plan"] = _since(began)
    figures |= {"devices": len(view.devices), "reach": told.reach, "moving": made.moving, "kinds": len(told.fates)}
    figures["held"] = sum(made.counts.values())
    return figures


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> dict[str, float]:
    seconds, cpu_s = (round(now - then, 2) for now, then in zip(_now(), began, strict=True))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mib": round(peak_mib)}


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"{figures['devices']} devices, {figures['kinds']} kinds of them",
        f"{'':10} {'seconds':>8} {'CPU s':>8} {'peak MiB':>9}",
    ]
    lines += [
        f"{step:10} {figures[step]['seconds']:8.2f} {figures[step]['cpu_s']:8.2f} {figures[step]['peak_mib']:9.0f}"
        for step in ("load", "forecast", "plan")
    ]
    lines.append(
        f"forecast at 20 %: reaches {figures['reach']}; plan: {figures['moving']} move, {figures['held']} held"
    )
    return "\n".join(lines)


def furnish(path: Path, devices: int) -> None:
    """Make a database with firmware, groups, releases and this many devices."""
    with Store.open(f"sqlite:///{path}", time.time) as store:
        store.catalog.create_product(PRODUCT, hardware_models=list(MODELS), by="bench")
        for component in ("app", "os"):
            for seq, version in enumerate(VERSIONS, start=1):
                _firmware(store, component, version, seq)
        for group in GROUPS:
            store.catalog.create_group(PRODUCT, group, by="bench")
        _releases(store)
        chance = random.Random(1)  # noqa: S311 - the same fleet each time
        rows = (device_rows(number, chance) for number in range(devices))
        with store._database.changing() as change:  # noqa: SLF001 - a million by its methods would take hours
            for batch in _batches(rows):
                for key, row in ROW_KEYS:
                    if values := [it for item in batch for it in item[key]]:
                        change.session.execute(insert(row), values)


def _releases(store: Store) -> None:
    for group, component, version, percentage in (
        ("everyone", "os", "1.1.0", 100),
        ("everyone", "app", "1.2.0", 100),
        ("everyone", "app", "1.3.0", 10),
        ("site-3", "app", "1.3.0", 100),
    ):
        draft = ReleaseDraft(channel=ChannelKey(PRODUCT, group, component), version=version, percentage=percentage)
        store.releases.create(draft, by="bench")


def _firmware(store: Store, component: str, version: str, seq: int) -> None:
    ref, _ = describe([f"{component} {version}".encode()])
    manifest = Manifest(
        product=PRODUCT,
        component=component,
        version=version,
        build=seq,
        seq=seq,
        hardware_models=MODELS,
        blobs=(Blob(encoding="identity", ref=ref),),
    )
    store.catalog.add_firmware(
        manifest, digest=ref.digest, size_bytes=ref.size_bytes, signer_keyids=(), published=True, by="bench"
    )


def device_rows(number: int, chance: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Return one device's rows: one in two hundred has something of its own, one in ten is offline."""
    device_id = f"device-{number:07d}"
    installed = {"app": chance.choice(VERSIONS[:4]), "os": chance.choice(VERSIONS[:3])}
    components = [
        {
            "component": name,
            "version": version,
            "build": VERSIONS.index(version) + 1,
            "digest": describe([f"{name} {version}".encode()])[0].digest,
            "requires": {},
            "data_schema": 0,
        }
        for name, version in installed.items()
    ]
    hold = HoldInfo(owner=f"user-{number}", why="busy", scopes=(Scope.INSTALL,))
    state = DeviceState(
        session=1,
        seq=1,
        phase=chance.choices((Phase.IDLE, Phase.DOWNLOADING), (49, 1))[0],
        availability=Availability(enabled=chance.random() > 0.05, holds=(hold,) if chance.random() < 0.005 else ()),
    )
    seen = 1_700_000_000_000 + chance.randrange(10**9)
    device = {
        "id": device_id,
        "product": PRODUCT,
        "hardware_model": chance.choice(MODELS),
        "agent_version": "0.1.0",
        "attributes": {},
        "encodings": [],
        "online": chance.random() > 0.1,
        "state": to_plain(state) | {"components": components},
        "last_seen_at_ms": seen,
        "registered_at_ms": seen,
    }
    member = {"device_id": device_id, "group_name": chance.choice(GROUPS), "product": PRODUCT}
    return {
        "device": [device],
        "component": [{"device_id": device_id, **it} for it in components],
        "membership": [member] if chance.random() < 0.8 else [],
    }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


if __name__ == "__main__":
    sys.exit(main())
