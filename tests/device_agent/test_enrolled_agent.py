"""A whole agent with an identity: enrolled by its command, on a real broker over TLS, with right and wrong clocks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.broker import EmbeddedBroker, Secured
from cloud.pki.authorities import RevokedCertificate
from device_agent.sdk import Updates, UpdatesError
from device_agent.trust import refreshed_at_s
from protocol.codec import encode
from protocol.topics import Topics
from tests.support.certificates import Fleet
from tests.support.enrolment_desk import TOKEN, EnrolmentDesk
from tests.support.mqtt import Peer
from tests.support.processes import Processes, Started, wait_until
from tests.support.repository import Repository
from tests.support.wrong_clocks import IN_1970, TEN_YEARS_AHEAD, agent_with_clock

pytestmark = pytest.mark.broker
APPLICATION = b"import threading\nthreading.Event().wait()\n"
SETTINGS = """\
[device]
product = "thermostat"
hardware_model = "pi4"
state_dir = "state"
root = "root.json"
[identity]
directory = "identity"
server = "{server}"
[components.app]
command = ["{{python}}", "{{image}}"]
golden = "golden"
"""


class Site:
    """A fleet's broker and desk, and the directory of one device."""

    def __init__(
        self, fleet: Fleet, broker: EmbeddedBroker, desk: EnrolmentDesk, device: Path, children: Processes
    ) -> None:
        self.fleet, self.broker, self.desk, self.device, self.children = fleet, broker, desk, device, children
        self.repository = Repository(now_s=time.time())
        desk.roots = [self.repository.bootstrap.decode()]
        golden = device / "golden"
        golden.mkdir(parents=True)
        (golden / "image").write_bytes(APPLICATION)
        record = {"component": "app", "version": "1.0.0", "build": 1, "size_bytes": len(APPLICATION)}
        digest = subprocess.run(["sha256sum", golden / "image"], capture_output=True, text=True, check=True).stdout[:64]  # noqa: S607
        (golden / "slot.json").write_text(json.dumps({**record, "digest": digest}))
        self.config.write_text(SETTINGS.format(server=desk.url))
        self.code_file.write_text(f"# a code\n{desk.code}\n")

    @property
    def config(self) -> Path:
        return self.device / "agent.toml"

    @property
    def code_file(self) -> Path:
        return self.device / "code"

    def call(self, command: str, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "device_agent.cli", command, "--config", str(self.config), *words],
            capture_output=True,
            text=True,
            input=given,
            timeout=60,
            check=False,
        )

    def enrol(self, *words: str) -> None:
        done = self.call("enrol", "--code-file", str(self.code_file), "--device-id", "pi-1", *words)
        assert done.returncode == 0, done.stderr

    def start(self, clock: str | None = None) -> Started:
        program = [sys.executable, "-m", "device_agent.cli"]
        if clock is not None:
            program = [str(agent_with_clock(self.device, clock))]
        agent = self.children.start(*program, "run", "--config", self.config, name="agent")
        wait_until(self.answers, 20, "the agent's answer")
        return agent

    def status(self) -> dict[str, Any]:
        with Updates(self.device / "state" / "control.sock", required=True) as agent:
            return agent.status()

    def answers(self) -> bool:
        try:
            return "phase" in self.status()
        except UpdatesError:
            return False

    def publish_bundle(self) -> None:
        """Retain the product's metadata, as the cloud does."""
        context = self.fleet.cloud.context()
        with Peer(self.broker.cloud_port, "fleetlift.cloud", tls=context) as peer:
            topic = Topics().bundle("thermostat")
            peer.publish(topic, encode(self.repository.bundle()), retain=True)

    def refreshed_at_s(self) -> float:
        return refreshed_at_s(self.device / "state" / "metadata")

    def trace(self) -> dict[str, bytes]:
        """What was installed, and all that is trusted."""
        kept = [*(self.device / "state" / "components").rglob("*"), *(self.device / "state" / "metadata").rglob("*")]
        return {str(path): path.read_bytes() for path in kept if path.is_file() and path.name != "application.json"}


@pytest.fixture
def site(tmp_path: Path, processes: Processes) -> Iterator[Site]:
    (tmp_path / "fleet").mkdir()
    fleet = Fleet(tmp_path / "fleet")
    with (
        EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud)) as broker,
        EnrolmentDesk(fleet, broker_url=broker.url) as desk,
    ):
        yield Site(fleet, broker, desk, tmp_path / "device", processes)
        for agent in processes.started:
            if agent.process.poll() is None:
                agent.terminate()


def test_a_code_in_a_file_makes_a_device_that_runs(site: Site) -> None:
    before = site.call("run")
    assert before.returncode == 2
    assert "this device is not enrolled" in before.stderr
    done = site.call("enrol", "--code-file", "-", "--device-id", "pi-1", given=f"{site.desk.code}\n")
    assert done.returncode == 0, done.stderr
    assert "pi-1 of thermostat is enrolled; its certificate ends 20" in done.stderr
    assert TOKEN not in done.stderr + done.stdout
    agent = site.start()
    wait_until(lambda: site.status()["online"], 20, "the connection")
    status = site.status()
    assert status["broker"] == {"url": site.broker.url, "problem": None}
    assert (status["identity"]["device_id"], status["identity"]["problem"]) == ("pi-1", None)
    assert re.search(r"identity +pi-1, certificate until 20\d\d-.* UTC, renewed from 20", site.call("status").stdout)
    again = site.call("enrol", "--code-file", str(site.code_file), "--device-id", "pi-1")
    assert (again.returncode, "enrolled already" in again.stderr) == (0, True)
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("words", "given", "code", "said"),
    [
        (("--device-id", "pi-1"), "no code", 2, "-: an enrolment code looks like fl1"),
        (("--device-id", "pi-1"), "", 2, "one enrolment code on one line"),
        (("--device-id", "pi/1"), None, 1, "--device-id 'pi/1' is not an id"),
        ((), None, 2, "has no [device] id; give --device-id"),
        (("--device-id", "pi-1", "--server", "http://host"), None, 1, "is not like https://host"),
        (("--device-id", "pi-1", "--server", "https://127.0.0.1:1"), None, 1, "https://127.0.0.1:1: "),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    site: Site, words: tuple[str, ...], given: str | None, code: int, said: str
) -> None:
    text = str(site.desk.code) if given is None else given
    done = site.call("enrol", "--code-file", "-", *words, given=text)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert not (site.device / "identity" / "identity.json").exists()


def test_a_code_that_cannot_be_read_is_told(site: Site) -> None:
    done = site.call("enrol", "--code-file", str(site.device / "nowhere"), "--device-id", "pi-1")
    assert (done.returncode, "the enrolment code cannot be read" in done.stderr) == (2, True), done.stderr


def test_a_name_that_the_settings_contradict_is_refused_with_what_to_do(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace("[device]", '[device]\nid = "pi-2"'))
    done = site.call("enrol", "--code-file", str(site.code_file), "--device-id", "pi-1")
    assert "agent.toml says that this is pi-2, not pi-1" in done.stderr
    assert "Leave --device-id out, or change the `id` there" in done.stderr
    assert site.call("enrol", "--code-file", str(site.code_file)).returncode == 0


def test_the_settings_and_the_identity_must_agree(site: Site) -> None:
    site.enrol()
    text = site.config.read_text()
    site.config.write_text(text.replace("[device]", '[device]\nid = "pi-2"'))
    assert "pi-2, but the device is enrolled as pi-1" in site.call("run").stderr
    site.config.write_text(text.replace('"thermostat"', '"kettle"'))
    assert "kettle, but the device is enrolled as thermostat" in site.call("run").stderr


def test_a_short_certificate_is_renewed_while_the_agent_runs_and_the_old_one_goes(site: Site) -> None:
    site.desk.lifetime = timedelta(seconds=-240)  # it begins five minutes ago: due at once, like one that ended
    site.enrol()
    (first,) = (site.device / "identity").glob("device-*.pem")
    site.desk.lifetime = timedelta(days=90)
    agent = site.start()
    wait_until(lambda: site.status()["identity"]["certificate"] not in first.name, 30, "the renewal")
    wait_until(lambda: site.status()["online"], 30, "the connection with the new certificate")
    wait_until(lambda: not first.exists(), 40, "the end of the old key")
    assert len(list((site.device / "identity").glob("device-*.pem"))) == 1
    assert agent.terminate() == 0


def test_a_device_that_wakes_in_1970_connects_and_trusts(site: Site) -> None:
    site.enrol()
    site.publish_bundle()
    agent = site.start(IN_1970)
    wait_until(lambda: site.status()["online"], 20, f"the connection; {site.status()}")
    wait_until(lambda: site.refreshed_at_s() > 0, 20, "the refresh of the metadata")
    status = site.status()
    assert status["identity"]["clock_behind"] is True
    identity = json.loads((site.device / "identity" / "identity.json").read_text())
    assert identity["not_before_ms"] / 1000 <= site.refreshed_at_s() <= time.time()
    assert agent.terminate() == 0


def test_ten_years_ahead_nothing_is_trusted_until_the_clock_is_right(site: Site) -> None:
    site.enrol()
    site.publish_bundle()
    agent = site.start()
    wait_until(lambda: site.refreshed_at_s() > 0, 20, "the refresh of the metadata")
    agent.terminate()
    before, floor_s = site.trace(), site.refreshed_at_s()
    agent = site.start(TEN_YEARS_AHEAD)
    wait_until(lambda: site.status()["broker"]["problem"] != "not started", 20, "the refusal")
    status = site.status()
    assert status["online"] is False
    assert "has expired, or this device's clock is wrong (it says 20" in status["broker"]["problem"]
    wait_until(lambda: site.status()["identity"]["problem"], 20, "the renewal's refusal")
    assert "clock is wrong" in site.status()["identity"]["problem"]
    assert "broker     " in site.call("status").stdout
    agent.terminate()
    assert (site.trace(), site.refreshed_at_s()) == (before, floor_s)
    agent = site.start()
    wait_until(lambda: site.status()["online"], 20, "the connection")
    assert agent.terminate() == 0


def test_a_revoked_device_says_so_and_its_application_runs_on(site: Site) -> None:
    site.enrol()
    agent = site.start()
    wait_until(lambda: site.status()["online"], 20, "the connection")
    wait_until(lambda: site.status()["components"], 20, "the application's start")
    running = site.status()["components"]["app"]
    site.fleet.revoked.append(_RevokedDevice(site))  # type: ignore[arg-type]
    site.fleet.write_access()
    site.fleet.files.reload()
    site.broker.stop()
    site.broker.start()
    wait_until(lambda: "revoked" in (site.status()["broker"]["problem"] or ""), 30, "the refusal")
    assert site.status()["components"]["app"] == running
    assert agent.terminate() == 0


class _RevokedDevice:
    """The device's certificate as the authorities gave it."""

    def __init__(self, site: Site) -> None:
        identity = json.loads((site.device / "identity" / "identity.json").read_text())
        self.device_id = identity["device_id"]
        serial = int(identity["certificate"].removeprefix("device-").removesuffix(".pem"), 16)
        self.revoked = RevokedCertificate(serial, "devices-1", identity["not_before_ms"])


def test_an_agent_with_tls_and_tuf_stays_small(site: Site) -> None:
    """Without the cryptography package, as on a small device: idle, connected, its metadata verified."""
    site.enrol()
    site.publish_bundle()
    without = "import sys\nfor name in ('cryptography', 'nacl'):\n    sys.modules[name] = None\n"
    start = "from device_agent.cli import main\nmain()\n"
    agent = site.children.start(sys.executable, "-c", without + start, "run", "--config", site.config, name="small")
    wait_until(site.answers, 20, "the agent's answer")
    wait_until(lambda: site.refreshed_at_s() > 0, 20, "the refresh of the metadata")
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines() if ":" in line
    )
    rss_mib = int(fields["VmRSS"].split()[0]) / 1024
    print(f"RSS {rss_mib:.1f} MiB")  # noqa: T201
    assert rss_mib <= 45.0
    assert agent.terminate() == 0
