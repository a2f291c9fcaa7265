"""A device that is watched: its application leaves a ledger of every start, so what ran is known without the agent.

It leaves the factory with an image, in a group of its own, so that tests that share a cloud do not meet. `launch.sh`
starts its application: it notes which image is started, by its digest, and keeps what the application before it
wrote last.
"""

import contextlib
import itertools
import json
import os
import queue
import signal
import sqlite3
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cloud.demo.observing import digest_of
from device_agent.sdk import Updates
from firmware_samples.build import build, catalogue
from tests.support.fleet import AGENT, COMPONENT, Device, Fleet
from tests.support.images import Image
from tests.support.processes import Started, is_alive, wait_until

TIMEOUT_S = 45.0
"""How long anything may take where other suites have the machine, too."""
PROBE_S = 0.3
LAUNCH = """\
# Notes which image is started, and what the application before it wrote last; then becomes the application.
number=$(cat starts.log 2>/dev/null | wc -l)
cp status.json "before-$number.json" 2>/dev/null
echo "$FLEETLIFT_VERSION $$ $(date +%s.%N) $(sha256sum "$2" | cut -c1-64)" >> starts.log
exec "$@"
"""
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Start:
    """One start of an application, as the ledger has it; `at` in seconds since 1970."""

    version: str
    pid: int
    at: float
    digest: str


@dataclass(eq=False)
class Watched:
    """One device and its cloud, both seen from outside; `group` is its own."""

    fleet: Fleet
    device: Device
    product: str
    http: httpx.Client
    commands: list[Started] = field(default_factory=list)

    @property
    def device_id(self) -> str:
        return self.device.device_id

    @property
    def group(self) -> str:
        return f"only-{self.device_id}"

    @property
    def config(self) -> Path:
        return self.device.directory / "agent.toml"

    @property
    def state_dir(self) -> Path:
        return self.device.state_dir

    @property
    def slots(self) -> Path:
        return self.state_dir / "components" / COMPONENT

    @property
    def data(self) -> Path:
        return self.state_dir / "data" / COMPONENT

    @property
    def agent(self) -> Started:
        assert self.device.agent is not None
        return self.device.agent

    # Its agent.

    def start(self, *tracer: str | Path, program: Path = AGENT) -> None:
        """Start the agent; returns at once."""
        command = (*tracer, program, "run", "--config", self.config)
        self.device.agent = self.device.processes.start(*command, name=f"agent-{self.device_id}")

    def begin(self, *, program: Path = AGENT) -> None:
        """Start the agent; returns when its application runs, and it followed the cloud's answer to its hello."""
        starts, session = len(self.starts()), self.session()
        self.start(program=program)
        self.wait_until(lambda: self._is_over() or (len(self.starts()) > starts and self.application()), "it starts")
        self.wait_until(lambda: self._is_over() or session < self.session() == self.followed(), "its hello is answered")
        assert not self._is_over(), f"the agent ended: {self.agent.log()}"

    def _is_over(self) -> bool:
        return self.agent.process.poll() is not None

    def end(self) -> None:
        """SIGTERM: the agent ends, and its application with it."""
        assert self.agent.terminate() == 0

    def kill(self) -> None:
        """SIGKILL the agent; its application runs on."""
        self.agent.kill()

    def cut_power(self) -> None:
        """SIGKILL the agent, and its application too."""
        self.agent.kill()
        self.end_application(signal.SIGKILL)

    def end_application(self, number: int = signal.SIGTERM) -> None:
        """Signal the application that was started last, if it runs still; returns when it is gone."""
        for pid in [start.pid for start in self.starts()[-1:]]:
            if self.is_ours(pid):
                os.kill(pid, number)
                wait_until(lambda pid=pid: not is_alive(pid), TIMEOUT_S, "the application's end")  # type: ignore[misc]

    def is_ours(self, pid: int) -> bool:
        """Tell whether a process is an application of this device, and alive."""
        with contextlib.suppress(OSError):
            return str(self.device.directory).encode() in Path(f"/proc/{pid}/environ").read_bytes() and is_alive(pid)
        return False

    def command(self, *words: str, expect: int = 0) -> str:
        """Run a command of the device to its end; return what it said."""
        ended = self.begin_command(*words)
        assert ended.wait() == expect, ended.log()
        return ended.log()

    def begin_command(self, *words: str) -> Started:
        """Start a command of the device."""
        command: tuple[str | Path, ...] = (AGENT, words[0], "--config", self.config, *words[1:])
        self.commands.append(self.device.processes.start(*command, name=f"{words[0]}-{self.device_id}"))
        return self.commands[-1]

    @contextmanager
    def listening(self) -> Iterator["Ear"]:
        """Hear the agent's events, as one more application."""
        with Updates(self.state_dir / "control.sock", required=True, timeout_s=TIMEOUT_S) as updates:
            yield Ear(updates)

    def tell(self, path: str, **body: object) -> None:
        """Speak to the application over its own port, as its user does."""
        url = f"http://127.0.0.1:{self.device.health_port}{path}"
        httpx.post(url, json=body, timeout=TIMEOUT_S, trust_env=False).raise_for_status()

    def check(self) -> None:
        """Have the application ask for updates; returns when the cloud's answer is followed."""
        before = self.desired().get("issued_at_ms", 0)
        self.tell("/updates/check")
        self.wait_until(lambda: self.desired().get("issued_at_ms", 0) > before, "the check is answered")

    # What is seen of the device.

    def starts(self) -> list[Start]:
        """Every start of an application, oldest first."""
        try:
            lines = (self.data / "starts.log").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        parts = [line.split() for line in lines if line.endswith("\n")]
        return [Start(version, int(pid), float(at), digest) for version, pid, at, digest in parts]

    def versions(self) -> list[str]:
        """The version of every start, oldest first."""
        return [start.version for start in self.starts()]

    def application(self) -> dict[str, Any]:
        """What the application that was started last wrote last; nothing if it has not, or does not live."""
        status = read_json(self.data / "status.json")
        last = self.starts()[-1:]
        return status if status and last and last[0].pid == status["pid"] and is_alive(status["pid"]) else {}

    def application_before(self, number: int) -> dict[str, Any]:
        """What the application had written last when the start of this number (from 0) came."""
        return read_json(self.data / f"before-{number}.json")

    def runs(self, image: Image) -> bool:
        """Tell whether the living application is of this version, and the current slot holds this very image."""
        said = self.application().get("version")
        return said == image.version and digest_of(self.slots / "current" / "image") == image.digest

    def expect(self, image: Image) -> None:
        """Wait until it runs this image."""
        self.wait_until(lambda: self.runs(image), f"it runs {image.version}")

    def expect_only_started(self, *images: Image) -> None:
        """Check that nothing but these images was ever started, in this order."""
        started = [(start.version, start.digest) for start in self.starts()]
        assert started == [(image.version, image.digest) for image in images], started

    def expect_only(self, *images: Image) -> None:
        """Wait until the last of these images runs, and check that nothing but they was ever started, in this order."""
        self.expect(images[-1])
        self.expect_only_started(*images)

    def fact(self, name: str) -> str:
        """A fact of its journal, or the empty text."""
        try:
            rows = self.device.journal("SELECT value FROM facts WHERE name = ?", name)
        except sqlite3.OperationalError:  # there is no journal yet
            return ""
        return str(rows[0]["value"]) if rows else ""

    def session(self) -> int:
        return int(self.fact("session") or 0)

    def phase(self) -> str:
        """The phase that its journal holds."""
        return str(json.loads(self.fact("snapshot") or "{}").get("phase", "idle"))

    def desired(self) -> dict[str, Any]:
        """The last Desired that it accepted."""
        rows = self.device.journal("SELECT payload FROM seen WHERE channel = 'desired'") if self.session() else []
        return dict(json.loads(json.loads(rows[0]["payload"])["payload"])) if rows else {}

    def followed(self) -> int:
        """The session of the last Desired that it accepted."""
        return int(self.desired().get("session", 0))

    # What the cloud has of it.

    def shown(self) -> dict[str, Any]:
        """How the operator sees it."""
        answer = self.http.get(f"/devices/{self.device_id}")
        answer.raise_for_status()
        return dict(answer.json())

    def expect_pending(self, image: Image, why: str) -> None:
        """Wait until the operator sees that this image waits, and why."""
        wanted = [(image.version, why)]
        self.wait_until(
            lambda: [(item["version"], item["why"]) for item in self.shown()["pending"]] == wanted,
            f"the cloud shows that {image.version} waits: {why}",
        )

    def attempts(self, image: Image | None = None) -> list[dict[str, Any]]:
        """Its attempts in the cloud's database, oldest first."""
        return self.fleet.attempts(self.device, image)

    def ends(self, image: Image | None = None) -> list[tuple[str, str | None]]:
        """How its attempts ended: outcome and reason. One that is under way is told by its phase."""
        return [(row["outcome"] or row["phase"], row["reason"]) for row in self.attempts(image)]

    def expect_ends(self, image: Image, *ends: tuple[str, str | None]) -> None:
        """Wait until the cloud's database holds exactly these attempts at an image, ended so."""
        self.wait_until(lambda: self.ends(image) == list(ends), f"its attempts at {image.version} are {ends}")

    def expect_success(self, image: Image) -> None:
        """Wait until it runs an image, and the cloud counts one attempt at it and one success, with its evidence."""
        self.expect(image)
        self.expect_ends(image, ("succeeded", None))
        assert self.attempts(image)[0]["booted_digest"] == image.digest

    def push(self, image: Image, *words: str) -> dict[str, Any]:
        """Release an image to its group; return the release's page."""
        return dict(self.fleet.push(image, "--group", self.group, *words))

    def publish(self, image: Image, *words: str) -> None:
        """Sign and upload an image, and decide nothing."""
        self.fleet.json("firmware", "upload", image.path, *words)

    def wait_until(self, predicate: Callable[[], object], what: str) -> None:
        try:
            wait_until(predicate, TIMEOUT_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.describe()}") from None

    def describe(self) -> str:
        """How it stands, for a failed test's report."""
        seen = {"starts": self.versions(), "attempts": self.ends(), "phase": self.phase()}
        row = self.fleet.row(self.device)
        return f"{self.device_id}: {seen}; the cloud: online {row['online']}, {row['state']}"


class Ear:
    """Hears events of an agent, from now on."""

    def __init__(self, updates: Updates) -> None:
        self.updates = updates
        self._heard: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        updates.on("*", self._heard.put)

    def expect(self, name: str) -> Mapping[str, Any]:
        """Return the next event of this name; those before it are passed over. Raises `queue.Empty`."""
        while (event := self._heard.get(timeout=TIMEOUT_S))["event"] != name:
            pass
        return event


@dataclass
class Workshop:
    """Makes devices, and ends what it made."""

    fleet: Fleet
    http: httpx.Client
    made: list[Watched] = field(default_factory=list)

    def enrol(
        self,
        factory: Image | None,
        *words: str,
        product: str = "thermostat",
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        updates: Mapping[str, object] | None = None,
        component: Mapping[str, object] | None = None,
    ) -> Watched:
        """Make a device with an image from the factory; its agent does not run yet.

        `words` are further options of `device enrol`, `prefix` stands before the command that starts its application;
        `updates` and `component` are further settings of its agent.
        """
        device_id = f"watched-{os.getpid()}-{next(_NUMBERS)}"
        group = f"only-{device_id}"
        self.fleet.json("group", "create", group, "--product", product)
        launch = self.fleet.directory / "devices" / device_id / "launch.sh"
        options = ["--group", group, "--soak", "1.2", *words]
        options += [
            word for part in (*prefix, "sh", launch, "{python}", "{image}") for word in ("--app-command", str(part))
        ]
        options += [word for name, value in (env or {}).items() for word in ("--app-env", f"{name}={value}")]
        device = self.fleet.enrol(device_id, *options, image=factory, product=product)
        launch.write_text(LAUNCH, encoding="utf-8")
        watched = Watched(self.fleet, device, product, self.http)
        settings = tomllib.loads(watched.config.read_text(encoding="utf-8"))
        settings["updates"] = {**settings.get("updates", {}), **(updates or {})}
        settings["components"][COMPONENT] |= component or {}
        settings["components"][COMPONENT]["health"]["interval_s"] = PROBE_S
        write_settings(watched.config, settings)
        self.made.append(watched)
        return watched

    def device(self, factory: Image | None, *words: str, **settings: Any) -> Watched:
        """Make a device whose agent and application run."""
        watched = self.enrol(factory, *words, **settings)
        watched.begin()
        return watched

    def sample(self, product: str, version: str) -> Image:
        """Build one of the samples as it is in the catalogue, and make its product, each once."""
        name = f"{product}-{version}"
        path = self.fleet.images.directory / name
        if not path.exists():
            build(name, path.parent)
        known = {row["product"] for row in self.fleet.json("product", "list")}
        if product not in known:
            self.fleet.json("product", "create", product, "--hardware", "raspberrypi4")
        return Image(version, catalogue()[name].build, path, digest_of(path) or "", path.stat().st_size)

    def close(self) -> None:
        for watched in self.made:
            if watched.device.agent is not None and watched.agent.process.poll() is None:
                watched.agent.terminate()
            for command in watched.commands:
                if command.process.poll() is None:
                    command.kill()
            watched.end_application(signal.SIGKILL)


def write_settings(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Write an agent's settings as TOML."""
    tables = {name: table for name, table in settings.items() if name != "components"}
    tables |= {f"components.{name}": table for name, table in settings["components"].items()}
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    return json.dumps(value)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, empty if there is no such file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
