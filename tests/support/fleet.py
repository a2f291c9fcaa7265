"""A whole fleet: Mosquitto, `fleetlift serve` and agents, each a real process, driven by the operator's own commands.

What tests assert they see from outside: images in slots hashed here, status files that the running applications write,
the two databases opened read-only.
"""

import contextlib
import hashlib
import json
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cloud.broker import EmbeddedBroker, Secured
from cloud.config import Home
from cloud.connection import Tls
from cloud.demo.observing import read_only
from cloud.pki.service_certificates import CLOUD, SERVICES_CA
from protocol.codec import encode
from protocol.topics import Topics
from tests.cloud.cli.offices import Answer, Office
from tests.cloud.homes import MODEL, PRODUCT, hello_of
from tests.support.brokers import free_port
from tests.support.devices import AGENT, COMPONENT, TAKE_TIMEOUT_S, Device
from tests.support.images import Image, Images
from tests.support.mqtt import Peer
from tests.support.postgres import Cluster
from tests.support.processes import Processes, wait_until

__all__ = ["AGENT", "COMPONENT", "TAKE_TIMEOUT_S", "Device", "Fleet", "bucket", "open_fleet"]

TOPICS = Topics()
SOAK_S, PROVE_TIMEOUT_S, PROBE_S = 0.2, 20.0, 0.1


@dataclass
class Fleet:
    """A home with a server, a broker of its own beside it, and devices."""

    directory: Path
    broker: EmbeddedBroker
    office: Office
    images: Images
    devices: list[Device] = field(default_factory=list)
    postgresql: tuple[Cluster, str] | None = None
    """Where the cloud's database is, and its name there; None: in a file of the home."""

    @property
    def http(self) -> httpx.Client:
        """The server's API, as the operator of this home; close it."""
        return httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {Home(self.office.home).token_file.read_text().strip()}"},
            timeout=60,
            trust_env=False,
            verify=ssl.create_default_context(cafile=Home(self.office.home).operator_ca),
        )

    @property
    def url(self) -> str:
        """The server's address."""
        return f"https://127.0.0.1:{self.office.port}"

    def peer(self, client_id: str, **more: Any) -> Peer:
        """Somebody with the cloud's own way to the broker: a test that looks, or an attacker who has the broker."""
        return Peer(self.broker.cloud_port, client_id, tls=self.cloud_tls(), **more)

    def cloud_tls(self) -> ssl.SSLContext:
        """What opens the cloud's own door at the broker."""
        assert self.broker.secured is not None
        return self.broker.secured.tls.context()

    def double(self, device: Device, **more: Any) -> Peer:
        """Somebody with a device's own key and certificate."""
        home = Home(self.office.home)
        tls = Tls(ca=home.operator_ca, certificate=device.identity)
        return Peer(self.broker.port, device.device_id, tls=tls.context(), **more)

    def api(self, method: str, path: str, body: object = None, *, expect: int = 200, **more: Any) -> Any:
        """Send one request, and return the answer's JSON; fails on another status."""
        if body is not None:
            more["json"] = body
        with self.http as http:
            answer = http.request(method, path, **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def call(self, *words: object, expect: int = 0) -> Answer:
        """Run a command in this process; fails on another exit code."""
        return self.office.call(*words, expect=expect)

    def json(self, *words: object, expect: int = 0) -> Any:
        """Run a command with `-o json`; return what stood on standard output."""
        return self.office.json(*words, expect=expect)

    def push(self, image: Image, *words: object, expect: int = 0) -> Any:
        """Release an image; return the release's page."""
        return self.json("release", "push", image.path, *words, "--yes", expect=expect)

    def product(self, name: str, *hardware: str) -> str:
        """Make a product; return its name."""
        self.call(
            "product", "create", name, *(word for model in hardware or (MODEL,) for word in ("--hardware", model))
        )
        return name

    def group(self, name: str, *devices: Device, rank: int | None = None, product: str = PRODUCT) -> str:
        """Make a group of devices; return its name."""
        ranked = () if rank is None else ("--rank", rank)
        members = (word for device in devices for word in ("--device", device.device_id))
        self.call("group", "create", name, "--product", product, *ranked, *members)
        return name

    def enrol(
        self,
        device_id: str,
        *words: object,
        image: Image | None = None,
        product: str = PRODUCT,
        healthy: Sequence[object] = (),
    ) -> Device:
        """Enrol a device, with `image` in it from the factory; its agent does not run yet.

        `healthy` is a command that says by 0 that its application is well, in place of the application's own word.
        """
        port, directory = free_port(), self.directory / "devices" / device_id
        directory.parent.mkdir(exist_ok=True)
        health = [part for word in healthy for part in ("--health-command", word)]
        self.call(
            *("device", "enrol", device_id, "--product", product, "--directory", directory),
            *("--app-env", f"FLEETLIFT_HEALTH_PORT={port}"),
            *(health or ("--health-url", f"http://127.0.0.1:{port}/health")),
            *("--soak", SOAK_S, "--prove-timeout", PROVE_TIMEOUT_S, *words),
        )
        settings = directory / "agent.toml"
        text = settings.read_text()
        settings.write_text(text.replace("health = {", f'health = {{ "interval_s" = {PROBE_S},'))
        device = Device(device_id, directory, port, self.office.processes)
        if image is not None:
            device.preinstall(image)
        self.devices.append(device)
        return device

    def join(self, device_id: str, *words: object, image: Image | None = None, **more: Any) -> Device:
        """Enrol a device and start its agent; returns when the cloud has answered it."""
        device = self.enrol(device_id, *words, image=image, **more)
        device.start()
        self.expect_online(device)
        if image is not None:
            device.expect(image)
        return device

    def expect_online(self, *devices: Device) -> None:
        """Wait until each device's hello has been stored; fails at once where the agent has ended."""
        for device in devices:
            what = f"{device.device_id} online"
            wait_until(lambda: device.has_ended() or self.row(device)["online"], TAKE_TIMEOUT_S, what)  # noqa: B023
            assert not device.has_ended(), f"the agent of {device.device_id} ended"

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Query the cloud's database, which only the server writes; JSON comes as its text."""
        if self.postgresql is not None:
            cluster, name = self.postgresql
            rows = cluster.run(statement.replace("?", "%s"), *values, database=name)
            return [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows]
        with read_only(self.office.home / "cloud" / "fleetlift.db") as database:
            return [dict(row) for row in database.execute(statement, values)]

    def row(self, device: Device) -> dict[str, Any]:
        """The cloud's row of a device."""
        return self.query("SELECT * FROM device WHERE id = ?", device.device_id)[0]

    def attempts(self, device: Device, image: Image | None = None) -> list[dict[str, Any]]:
        """A device's attempts in the cloud's database, oldest first."""
        found = self.query("SELECT * FROM attempt WHERE device_id = ? ORDER BY id", device.device_id)
        return [row for row in found if image is None or row["digest"] == image.digest]

    def outcomes(self, device: Device, image: Image | None = None) -> list[str | None]:
        """How a device's attempts ended, oldest first."""
        return [row["outcome"] for row in self.attempts(device, image)]

    def waits(self, device: Device) -> list[str]:
        """Why what is pending on a device waits, as it told the cloud."""
        state = json.loads(self.row(device)["state"] or "{}")
        return [item["why"] for item in state.get("pending", [])]

    def expect_outcome(self, device: Device, image: Image, outcome: str = "succeeded", count: int = 1) -> None:
        """Wait until the cloud's database holds this outcome of a device's last attempt at an image."""
        what = f"{device.device_id}'s {outcome} of {image.version}"
        wait_until(lambda: self.outcomes(device, image)[-1:] == [outcome], TAKE_TIMEOUT_S, what)
        assert len(self.attempts(device, image)) == count

    def expect_waiting(self, device: Device, why: str) -> None:
        """Wait until a device says that something waits, and why."""
        wait_until(lambda: why in self.waits(device), TAKE_TIMEOUT_S, f"{device.device_id} waiting: {why}")

    @staticmethod
    def until(predicate: Callable[[], object], what: str) -> None:
        """Wait for what is seen from outside."""
        wait_until(predicate, TAKE_TIMEOUT_S, what)

    def settle(self, *devices: Device) -> None:
        """Have devices ask the cloud, and return when each has decided on the answer: what it takes is in its journal.

        A device notes a Desired before it decides on it; so when it has noted the second, it has decided on the first.
        """
        for device in devices:
            for channel in self.query(_CHANNELS, device.device_id, COMPONENT):
                name, seq = f"{channel['group_name']}/{COMPONENT}", channel["notice_seq"]
                wait_until(lambda: device.heard(name) >= seq, TAKE_TIMEOUT_S, f"{device.device_id} hearing {name}")  # noqa: B023
            for _ in range(2):
                before = self.row(device)["desired_seq"]
                device.check()
                wait_until(lambda: self.row(device)["desired_seq"] > before, TAKE_TIMEOUT_S, "an answered check")  # noqa: B023
                answer = self.row(device)["desired_seq"]
                wait_until(lambda: device.heard("desired") >= answer, TAKE_TIMEOUT_S, "a noted answer")  # noqa: B023

    def expect_moves(self, device: Device, *images: Image) -> None:
        """Fail unless a device that has settled took exactly these images so far, in one attempt each."""
        self.expect_told(device)
        assert [row["digest"] for row in self.attempts(device)] == [image.digest for image in images]
        if images:
            device.expect(images[-1])

    def metrics(self, page: dict[str, Any]) -> dict[str, Any]:
        """A release's metrics now."""
        found: dict[str, Any] = self.api("GET", f"/releases/{page['release']['release_id']}")["metrics"]
        return found

    def expect_metrics(self, page: dict[str, Any], **expected: object) -> None:
        """Wait until a release's metrics are these: state and journal of a device come as messages of their own."""

        def found() -> dict[str, object]:
            metrics = self.metrics(page)
            return {name: metrics[name] for name in expected}

        with contextlib.suppress(AssertionError):
            self.until(lambda: found() == expected, "the metrics")
        assert found() == expected

    def expect_told(self, *devices: Device) -> None:
        """Wait until the cloud has stored every entry that devices have written to their journals."""
        for device in devices:
            told = f"{device.device_id}'s journal told"
            self.until(lambda: self.row(device)["ack_through"] == device.last_entry(), told)  # noqa: B023

    def forecast_for(self, request: dict[str, Any], suits: Callable[[str], bool]) -> dict[str, Any]:
        """Ask for forecasts of a release, which change nothing, until chance gives it an id that suits."""
        for _ in range(500):
            forecast: dict[str, Any] = self.api("POST", "/releases/forecast", request)
            if suits(forecast["release_id"]):
                return forecast
        raise AssertionError(f"no forecast of {request} suited")

    @contextlib.contextmanager
    def stand_in(self, device_id: str, **facts: Any) -> Iterator[Peer]:
        """Have a device join, with nothing behind it but the test, which comes in by the cloud's own door."""
        facts = {"product": PRODUCT, "hardware_model": MODEL} | facts
        body = {"device_id": device_id, "product": facts["product"], "hardware_model": facts["hardware_model"]}
        self.api("POST", "/devices", body, expect=201)
        with self.peer(device_id) as peer:
            peer.subscribe(TOPICS.all_down(device_id))
            peer.publish(TOPICS.up(device_id, "hello"), encode(hello_of(**facts)))
            while not peer.receive()[0].endswith("/desired"):
                pass
            yield peer

    def stop_devices(self) -> None:
        while self.devices:
            self.devices.pop().stop()

    def restart_cloud(self) -> None:
        """End the server by SIGKILL and start it again."""
        assert self.office.server is not None
        self.office.server.kill()
        self.office.serve()

    def close(self) -> None:
        self.stop_devices()
        if self.office.server is not None and self.office.server.process.poll() is None:
            self.office.server.terminate()
        self.broker.stop()

    def logs(self, first: int = 0) -> str:
        """What the server, the broker and the agents started since the `first` process said."""
        server = self.office.server
        shown = [*([server] if server else []), *(c for c in self.office.processes.started[first:] if c is not server)]
        return Processes(self.directory, shown).logs() + f"\n--- broker ---\n{self.broker.log_tail(40)}"


def open_fleet(directory: Path, images: Images, postgresql: Cluster | None = None) -> Fleet:
    """Make a home for the product `thermostat`, start a Mosquitto and the server; close it."""
    database = None if postgresql is None else (postgresql, postgresql.create())
    (directory / "logs").mkdir()
    home, broker_port, cloud_port = Home(directory / "home"), free_port(), free_port()
    office = Office(directory, Processes(directory / "logs"), free_port(), broker_port)
    office.call(
        *("init", "--product", PRODUCT, "--hardware", MODEL, "--port", office.port),
        *("--broker", f"mqtts://127.0.0.1:{broker_port}", "--cloud-port", cloud_port),
        *(("--database", database[0].url(database[1])) if database else ()),
    )
    broker = secured_broker(home, broker_port, cloud_port)
    broker.start()
    office.serve()
    return Fleet(directory, broker, office, images, postgresql=database)


def secured_broker(home: Home, broker_port: int, cloud_port: int) -> EmbeddedBroker:
    """The broker of a home, in a process of its own."""
    tls = Tls(ca=home.tls / SERVICES_CA, certificate=home.tls / CLOUD)
    secured = Secured(tls=tls, cloud_port=cloud_port)
    return EmbeddedBroker(home.broker, port=broker_port, kind="mosquitto", secured=secured)


_CHANNELS = """
SELECT channel.* FROM channel JOIN device USING (product) WHERE device.id = ? AND component = ? AND (
    group_name = 'everyone' OR group_name IN (SELECT group_name FROM membership WHERE device_id = device.id))
"""


def bucket(device_id: str, release_id: str) -> int:
    """A device's place in a release, computed from docs/protocol.md and not by the code under test."""
    hashed = hashlib.sha256(f"fleetlift bucket 1\0{device_id}\0{release_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") % 100
