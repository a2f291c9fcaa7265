"""The demonstration's hands: the operator's commands, the devices' own controls, and the numbers behind the claims."""

import hashlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from click.testing import CliRunner

from cloud.broker import free_port
from cloud.demo.observing import digest_of, read_only
from cloud.demo.telling import Teller
from cloud.demo.world import HOST, DemoError, Device, Process, World, program
from protocol.chunks import chunk_count

PRODUCT: Final = "thermostat"
HARDWARE: Final = "raspberrypi4"
COMPONENT: Final = "app"
SOAK_S: Final = 1.5
PROVE_TIMEOUT_S: Final = 12.0
SMALL_WINDOW_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Image:
    """One built firmware."""

    version: str
    path: Path

    @property
    def digest(self) -> str:
        """Its SHA-256, computed here."""
        return digest_of(self.path) or ""

    @property
    def chunks(self) -> int:
        """The number of its chunks."""
        return chunk_count(self.path.stat().st_size)


class Operator:
    """Runs the `fleetlift` commands that the story shows, as a person would, and reads their JSON."""

    def __init__(self, world: World, teller: Teller, commands: click.Command) -> None:
        """Take where, who tells, and the whole command line."""
        self._world, self._teller, self._commands = world, teller, commands

    def run(self, *words: str, quiet: bool = False) -> Any:
        """Run one command; return its answer; raises DemoError when it fails."""
        code, answer, complaint = self.try_to(*words, quiet=quiet)
        if code != 0:
            raise DemoError(f"`fleetlift {' '.join(words)}` ended with {code}: {complaint}")
        return answer

    def try_to(self, *words: str, quiet: bool = False) -> tuple[int, Any, str]:
        """Run one command; return its exit code, its answer and what it complained of."""
        if not quiet:
            self._teller.command(*words)
        result = CliRunner().invoke(self._commands, [*words, "--home", str(self._world.home), "-o", "json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout) if result.stdout.strip() else None, result.stderr.strip()

    def device(self, device: Device) -> dict[str, Any]:
        """Return how the cloud sees a device."""
        found: dict[str, Any] = self.run("device", "show", device.device_id, quiet=True)
        return found

    def release(self, label: str, group: str) -> dict[str, Any]:
        """Return a release with its metrics."""
        found: dict[str, Any] = self.run("release", "show", label, "--group", group, quiet=True)
        return found


def join(world: World, operator: Operator, device_id: str, group: str, *, window_bytes: int | None = None) -> Device:
    """Enrol a device into a group, and start its agent."""
    port = free_port()
    directory = world.directory / "devices" / device_id
    directory.parent.mkdir(parents=True, exist_ok=True)
    words = ["device", "enrol", device_id, "--group", group, "--directory", str(directory)]
    words += ["--app-env", f"FLEETLIFT_HEALTH_PORT={port}", "--health-url", f"http://{HOST}:{port}/health"]
    words += ["--soak", str(SOAK_S), "--prove-timeout", str(PROVE_TIMEOUT_S)]
    words += ["--window", str(window_bytes)] if window_bytes else []
    operator.run(*words, quiet=True)
    run_agent = [program("fleetlift-agent"), "run", "--config", str(directory / "agent.toml")]
    device = Device(device_id, directory, port, Process(device_id, run_agent, world.logs / f"{device_id}.log"))
    device.process.start()
    world.devices[device_id] = device
    return device


def check_now(device: Device) -> bool:
    """Ask the agent, as its application may, to ask the cloud now: a gradual release is taken then."""
    return bool(control(device, "check").get("ok"))


def control(device: Device, op: str) -> dict[str, Any]:
    """Put one request to the agent's control socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(device.state_dir / "control.sock"))
            connection.sendall(json.dumps({"op": op, "id": 1}).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
    except (OSError, ValueError):
        return {}
    return dict(answer)


def bucket(device_id: str, release_id: str) -> int:
    """Return a device's place in a release, computed from docs/protocol.md and not by the code under demonstration."""
    hashed = hashlib.sha256(f"fleetlift bucket 1\0{device_id}\0{release_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") % 100


def attempts(world: World, device: Device, digest: str) -> list[dict[str, Any]]:
    """Return a device's attempts at an image, out of the cloud's database, oldest first."""
    query = "SELECT * FROM attempt WHERE device_id = ? AND digest = ? ORDER BY id"
    with read_only(world.database) as database:
        return [dict(row) for row in database.execute(query, (device.device_id, digest))]


def journals_agree(world: World, device: Device) -> bool:
    """Tell whether the cloud holds this device's journal without a gap or a double, up to its last entry."""
    with read_only(world.database) as database:
        rows = database.execute(
            "SELECT journal_id, seq FROM journal_entry WHERE device_id = ? ORDER BY seq", (device.device_id,)
        ).fetchall()
    with read_only(device.state_dir / "journal.db") as journal:
        written = int(journal.execute("SELECT value FROM facts WHERE name = 'last_seq'").fetchone()[0])
    numbers = [row["seq"] for row in rows]
    return len({row["journal_id"] for row in rows}) == 1 and numbers == list(range(1, written + 1))


def marked_chunks(device: Device, blob: str) -> set[int]:
    """Return the chunks of a blob that the device's journal holds as received."""
    with read_only(device.state_dir / "journal.db") as journal:
        row = journal.execute("SELECT bitmap FROM chunks WHERE blob = ?", (blob,)).fetchone()
    bitmap = bytes(row["bitmap"]) if row else b""
    return {8 * place + bit for place, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}
