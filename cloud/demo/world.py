"""The demonstration's processes: a broker, a cloud and agents, each of its own, started and killed by pid."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from cloud.broker import BrokerKind, EmbeddedBroker, Secured, choose_kind, free_port
from cloud.config import Home
from cloud.connection import Tls
from cloud.demo.observing import Observed
from cloud.demo.telling import wait_for
from cloud.pki.service_certificates import CLOUD, SERVICES_CA
from cloud.tls import client_context
from protocol.errors import FleetliftError

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
HOST: Final = "127.0.0.1"


class DemoError(FleetliftError):
    """The demonstration could not go on; nothing outside its own directory was touched."""


@dataclass
class Process:
    """One child, its log, and the command that starts it again."""

    name: str
    command: Sequence[str]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it prints goes to its log."""
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.poll() is None

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL, no farewell."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        try:
            self._end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.child is None or self.child.poll() is not None:
            return
        self.child.send_signal(number)
        self.child.wait(STOP_TIMEOUT_S)

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
        return ""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the demonstration."""

    device_id: str
    directory: Path
    health_port: int
    process: Process

    @property
    def state_dir(self) -> Path:
        """The agent's state directory."""
        return self.directory / "state"

    @property
    def identity(self) -> Path:
        """The file with its key and certificate."""
        directory = self.directory / "identity"
        named: str = json.loads((directory / "identity.json").read_text(encoding="utf-8"))["certificate"]
        return directory / named

    @property
    def seen(self) -> Observed:
        """The device, looked at from outside."""
        return Observed(self.state_dir)

    def tell_application(self, path: str) -> bool:
        """Speak to the sample application over its own HTTP port, as its user would."""
        try:
            return httpx.post(f"http://{HOST}:{self.health_port}{path}", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False


class World:
    """Everything that runs, in one directory."""

    def __init__(self, directory: Path, broker: BrokerKind | None = None) -> None:
        """Take the directory and the kind of broker (default: the best there is); nothing is started yet."""
        self.directory = directory
        self.logs = directory / "logs"
        self.home = directory / "home"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.kind: BrokerKind = broker or choose_kind()
        self.http_port, self.broker_port, self.cloud_port = free_port(), free_port(), free_port()
        self.broker = self._broker()
        self.cloud = Process(
            "cloud", [program("fleetlift"), "serve", "--home", str(self.home)], self.logs / "cloud.log"
        )
        self.devices: dict[str, Device] = {}

    @property
    def tls(self) -> bool:
        """Whether everything is encrypted: wherever Mosquitto is."""
        return self.kind == "mosquitto"

    @property
    def url(self) -> str:
        """The cloud's address."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.http_port}"

    @property
    def cloud_tls(self) -> Tls | None:
        """The cloud's own way to the broker: who has it may say everything there."""
        home = Home(self.home)
        return Tls(ca=home.tls / SERVICES_CA, certificate=home.tls / CLOUD) if self.tls else None

    def settings(self) -> list[str]:
        """Return how `fleetlift init` is told of these ports."""
        ports = ["--port", str(self.http_port), "--broker", self.broker.url]
        return [*ports, "--cloud-port", str(self.cloud_port)] if self.tls else ports

    @property
    def database(self) -> Path:
        """The cloud's database."""
        return self.home / "cloud" / "fleetlift.db"

    @property
    def authority(self) -> Path | None:
        """What the cloud's certificate is checked by."""
        return Home(self.home).operator_ca if self.tls else None

    def _broker(self) -> EmbeddedBroker:
        if (tls := self.cloud_tls) is None:
            return EmbeddedBroker(self.directory / "broker", port=self.broker_port, kind=self.kind)
        secured = Secured(tls=tls, cloud_port=self.cloud_port)
        return EmbeddedBroker(Home(self.home).broker, port=self.broker_port, kind=self.kind, secured=secured)

    def start_cloud(self) -> None:
        """Start the cloud and wait until it says that it is ready; raises DemoError."""
        self.cloud.start()
        ready = f"{self.url}/readyz"
        if not wait_for(lambda: not self.cloud.alive or answers(ready, self.authority), START_TIMEOUT_S):
            raise DemoError(f"the cloud did not become ready:\n{self.cloud.last_lines()}")
        if not self.cloud.alive:
            raise DemoError(f"the cloud ended by itself:\n{self.cloud.last_lines()}")

    def stop(self) -> None:
        """End everything that was started, by pid: agents and their applications, cloud, broker."""
        for device in self.devices.values():
            device.process.stop()
        for device in self.devices.values():
            pid = device.seen.application().get("pid")
            if isinstance(pid, int):  # an agent that was killed leaves its application running, on purpose
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self.cloud.stop()
        self.broker.stop()


def answers(url: str, authority: Path | None = None) -> bool:
    """Whether an address answers with success, and by a certificate of `authority` if it is given."""
    verify = client_context(authority) if authority else True
    try:
        return httpx.get(url, timeout=2, trust_env=False, verify=verify).is_success
    except httpx.HTTPError:
        return False


def program(name: str) -> str:
    """Return the path of one of our commands: beside this interpreter."""
    return str(Path(sys.executable).parent / name)
