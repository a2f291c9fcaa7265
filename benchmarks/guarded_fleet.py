"""`python -m benchmarks.guarded_fleet`: real agents on one machine, some faulty, and a release that guards itself.

Each device is an agent's process with an application of its own, against a real Mosquitto and a real server over TLS.
On the faulty ones every version but the first is unhealthy. The release goes to a tenth first; what is measured is how
many devices it broke before its gate stopped it, whether one outside that tenth was touched, and how long it took.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cloud.cli import fleetlift
from cloud.demo.observing import read_only
from cloud.demo.operating import Operator, bucket
from cloud.demo.telling import Teller, wait_for
from cloud.demo.world import Device, Process, World, program

PRODUCT: Final = "bench"
GROUP: Final = "everyone"
STARTED_AT_ONCE: Final = 8
JOIN_TIMEOUT_S: Final = 600.0
END_TIMEOUT_S: Final = 900.0
SOAK_S: Final = 2
OVER: Final = frozenset({"stopped_by_gate", "paused", "aborted", "completed"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if the gate did not hold."""
    parser = argparse.ArgumentParser(prog="guarded_fleet", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--faulty", type=int, default=15, help="per cent")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fleetlift-") as directory:
        figures = measure(Path(directory), said.devices, said.faulty)
    print(json.dumps(figures, indent=1) if said.json else table(figures))
    return 0 if figures["outside_touched"] == 0 and figures["status"] != "completed" else 1


def measure(directory: Path, count: int, faulty_percent: int) -> dict[str, Any]:
    """Run the fleet, release, and look at what came of it."""
    world = World(directory / "world", "mosquitto")
    operator = Operator(world, Teller(), fleetlift)
    try:
        operator.run("init", "--product", PRODUCT, "--hardware", "any", *world.settings(), quiet=True)
        world.broker.start()
        world.start_cloud()
        began_s = time.monotonic()
        faulty = {name for number, name in enumerate(names(count)) if number * faulty_percent % 100 < faulty_percent}
        start(world, operator, names(count), faulty)
        joined_s = time.monotonic() - began_s
        return {"devices": count, "faulty": len(faulty), "joined_s": round(joined_s, 1)} | released(world, operator)
    finally:
        world.stop()


def names(count: int) -> list[str]:
    """Return the devices' ids."""
    return [f"bench-{number:04}" for number in range(count)]


def start(world: World, operator: Operator, ids: Sequence[str], faulty: set[str]) -> None:
    """Enrol the devices and start their agents, a few at once."""
    for first in range(0, len(ids), STARTED_AT_ONCE):
        some = ids[first : first + STARTED_AT_ONCE]
        for device_id in some:
            world.devices[device_id] = enrolled(world, operator, device_id, broken=device_id in faulty)
            world.devices[device_id].process.start()
        if not wait_for(lambda: online(world) >= first + len(some), JOIN_TIMEOUT_S):  # noqa: B023
            raise SystemExit(f"guarded_fleet: {online(world)} of {first + len(some)} devices came online")


def enrolled(world: World, operator: Operator, device_id: str, *, broken: bool) -> Device:
    """Enrol one device; on a faulty one nothing is healthy."""
    directory = world.directory / "devices" / device_id
    directory.parent.mkdir(exist_ok=True)
    words = [word for part in ("sleep", "infinity") for word in ("--app-command", part)]
    words += [word for part in (("false",) if broken else ("true",)) for word in ("--health-command", part)]
    words += ["--soak", str(SOAK_S), "--prove-timeout", "30"]
    operator.run("device", "enrol", device_id, "--directory", str(directory), *words, quiet=True)
    run_agent = [program("fleetlift-agent"), "run", "--config", str(directory / "agent.toml")]
    return Device(device_id, directory, 0, Process(device_id, run_agent, world.logs / f"{device_id}.log"))


def released(world: World, operator: Operator) -> dict[str, Any]:
    """Release to a tenth first, wait until that is over, and count."""
    image = world.directory / "image"
    image.write_bytes(b"the next version")
    words = ["--product", PRODUCT, "--version", "2.0.0", "--hardware", "any", "--immediate", "--yes"]
    words += ["--phase", "10%:20s", "--phase", "100%:20s", "--max-failures", "1"]
    began_s = time.monotonic()
    page = operator.run("release", "push", str(image), *words, quiet=True)
    release_id = page["release"]["release_id"]
    if not wait_for(lambda: standing(operator)["status"] in OVER, END_TIMEOUT_S, 0.5):
        raise SystemExit(f"guarded_fleet: the release came to no end: {standing(operator)}")
    stopped_s = time.monotonic() - began_s
    wait_for(lambda: not touched(world, release_id, "outcome IS NULL"), JOIN_TIMEOUT_S, 0.5)
    there = touched(world, release_id)
    within = {name for name in world.devices if bucket(name, release_id) < 10}
    return {
        "status": standing(operator)["status"],
        "why": standing(operator)["why"],
        "in_the_tenth": len(within),
        "touched": len(there),
        "outside_touched": len(there - within),
        "broken": len(touched(world, release_id, "outcome IN ('rolled_back', 'failed')")),
        "stopped_s": round(stopped_s, 1),
    }


def standing(operator: Operator) -> Mapping[str, Any]:
    """Return how the rollout stands."""
    page: dict[str, Any] = operator.run("release", "rollout", "v1", "--product", PRODUCT, "--group", GROUP, quiet=True)
    return page


def online(world: World) -> int:
    """Return how many devices the cloud has heard."""
    with read_only(world.database) as database:
        return int(database.execute("SELECT count(*) FROM device WHERE online").fetchone()[0])


def touched(world: World, release_id: str, only: str = "1 = 1") -> set[str]:
    """Return the devices with an attempt at the release."""
    query = f"SELECT DISTINCT device_id FROM attempt WHERE source_id = ? AND {only}"  # noqa: S608 - our own words
    with read_only(world.database) as database:
        return {str(row[0]) for row in database.execute(query, (release_id,))}


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures for people."""
    return "\n".join(
        (
            f"{figures['devices']} agents, {figures['faulty']} faulty; all online after {figures['joined_s']} s",
            f"{figures['status']} after {figures['stopped_s']} s: {figures['why']}",
            f"in the first tenth {figures['in_the_tenth']}, touched {figures['touched']}, broken {figures['broken']},",
            f"outside the tenth touched {figures['outside_touched']}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
