"""One device of a test: its directory, its agent as a real process, and what is seen of it from outside."""

import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.demo.observing import Observed, read_only
from tests.support.images import Image
from tests.support.processes import Processes, Started, is_alive, wait_until

AGENT = Path(sys.executable).parent / "fleetlift-agent"
COMPONENT = "app"
TAKE_TIMEOUT_S = 90.0
"""How long an update may take where other suites have the machine, too."""


@dataclass(eq=False)
class Device:
    """One device: its directory, and its agent while that runs."""

    device_id: str
    directory: Path
    health_port: int
    processes: Processes
    agent: Started | None = None

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def identity(self) -> Path:
        """Its key and certificate."""
        directory = self.directory / "identity"
        named: str = json.loads((directory / "identity.json").read_text())["certificate"]
        return directory / named

    @property
    def seen(self) -> Observed:
        """The device, looked at from outside."""
        return Observed(self.state_dir)

    def start(self) -> None:
        self.agent = self.processes.start(
            AGENT, "run", "--config", self.directory / "agent.toml", name=f"agent-{self.device_id}"
        )

    def has_ended(self) -> bool:
        return self.agent is not None and self.agent.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL the agent; its application runs on, as after any crash."""
        assert self.agent is not None
        self.agent.kill()

    def stop(self) -> None:
        """End the agent, and its application with it."""
        if self.agent is not None and self.agent.process.poll() is None:
            self.agent.terminate()
        for pid in self._left_running():  # of an agent that was killed; it may be too young to have said its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not is_alive(pid), what="the application's end")  # type: ignore[misc]

    def _left_running(self) -> list[int]:
        """The processes that run an image out of its slots."""
        slots, found = os.fsencode(self.seen.slots.absolute()), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if slots in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def restart(self) -> None:
        """End the agent and start it again: a new session."""
        self.stop()
        self.start()

    def control(self, op: str, **fields: object) -> dict[str, Any]:
        """Put one request to the agent's control socket, as its application may; raises OSError without an agent."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.state_dir / "control.sock"))
            connection.sendall(json.dumps({"op": op, "id": 1, **fields}).encode() + b"\n")
            with connection.makefile(encoding="utf-8") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        assert answer["ok"], answer
        return answer

    def check(self) -> None:
        """Have the agent ask the cloud now."""
        self.control("check")

    def pending(self) -> dict[str, Any]:
        """What waits, as the application is told; empty if nothing does."""
        found: dict[str, Any] | None = self.control("status")["status"]["pending"]
        return found or {}

    def runs(self, image: Image) -> bool:
        """Tell whether the living application is of this version, and the current slot holds this very image."""
        return self.seen.runs(image.version, image.digest)

    def expect(self, image: Image, timeout_s: float = TAKE_TIMEOUT_S) -> None:
        """Wait until the device runs an image."""
        wait_until(lambda: self.runs(image), timeout_s, f"{self.device_id} running {image.version}")

    @property
    def pid(self) -> int:
        """The running application's process."""
        return int(self.seen.application()["pid"])

    def journal(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Query the agent's journal, which only it writes."""
        with read_only(self.state_dir / "journal.db") as journal:
            return [dict(row) for row in journal.execute(statement, values)]

    def heard(self, channel: str) -> int:
        """The number of the newest `desired`, or notice of `<group>/<component>`, that the agent noted."""
        found = self.journal("SELECT seq FROM seen WHERE channel = ?", channel)
        return int(found[0]["seq"]) if found else 0

    def last_entry(self) -> int:
        """The number of the last entry that the agent wrote to its journal."""
        found = self.journal("SELECT value FROM facts WHERE name = 'last_seq'")
        return int(found[0]["value"]) if found else 0

    def marked(self, blob: str) -> set[int]:
        """The chunks of a blob that the journal holds as verified and durable."""
        found = self.journal("SELECT bitmap FROM chunks WHERE blob = ?", blob)
        bits = found[0]["bitmap"] if found else b""
        return {8 * place + bit for place, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}

    def preinstall(self, image: Image) -> None:
        """Have it come from the factory with an image, as the golden one of its base system."""
        golden = self.directory / "golden"
        golden.mkdir()
        (golden / "image").write_bytes(image.path.read_bytes())
        record = {
            "component": COMPONENT,
            "version": image.version,
            "build": image.build,
            "digest": image.digest,
            "size_bytes": image.size_bytes,
        }
        described = json.loads(image.path.with_name(f"{image.path.name}.json").read_text(encoding="utf-8"))
        record |= {key: described[key] for key in ("data_schema", "reads_schemas") if key in described}
        (golden / "slot.json").write_text(json.dumps(record))
        with (self.directory / "agent.toml").open("a") as settings:  # its last table is the component's
            settings.write('golden = "golden"\n')
