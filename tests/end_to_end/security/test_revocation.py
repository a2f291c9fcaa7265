"""A device is shut out within five seconds, alone, whatever is down meanwhile, and comes back when it is let in."""

import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import pytest

from protocol.topics import Topics
from tests.end_to_end.security.identities import make_due, problem, serial_of, status
from tests.support.fleet import AGENT, Device, Fleet

pytestmark = pytest.mark.broker
TOPICS = Topics()
WITHIN_S = 5.0
SILENCE_S, BEAT_S = 1.5, 0.05
REVOKED = "the server does not accept this device's certificate: it is revoked"


@dataclass
class Beat:
    """Both directions of a live session, tried all the time; when each was heard last."""

    fleet: Fleet
    device: Device

    def __post_init__(self) -> None:
        self.up_at = self.down_at = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._listen)]

    def __enter__(self) -> Self:
        self._cloud = self.fleet.peer("beat").connect()
        self._cloud.subscribe(TOPICS.up(self.device.device_id, "hello"))
        for thread in self._threads:
            thread.start()
        self.fleet.until(lambda: self.up_at and self.down_at, "a session that is alive both ways")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._cloud.close()

    def _ask(self) -> None:
        """Say to the device what is no message, which it counts, and have it say hello."""
        counted = self._counted()
        while not self._stop.wait(BEAT_S):
            self.device.check()
            self._cloud.publish(TOPICS.down(self.device.device_id, "ack"), b"a beat")
            counted, before = self._counted(), counted
            if counted > before:
                self.down_at = time.monotonic()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                self._cloud.receive(BEAT_S)
            except queue.Empty:
                continue
            self.up_at = time.monotonic()

    def _counted(self) -> int:
        return int(self.device.control("status")["status"]["refused"].get("bad_message", 0))


def sessions(fleet: Fleet, *devices: Device) -> list[int]:
    return [fleet.row(device)["session"] for device in devices]


def revoke(fleet: Fleet, device: Device) -> None:
    fleet.call("device", "revoke", device.device_id, "--reason", "stolen", "--yes")


def is_refused(fleet: Fleet, device: Device) -> bool:
    """Whether the broker refuses a new connection by the device's own certificate."""
    double = fleet.double(device)
    try:
        double._client.connect("127.0.0.1", fleet.broker.port)
    except OSError:
        return True
    double._client.loop_start()
    fleet.until(lambda: double.connected.is_set() or double.disconnected.is_set(), "the broker's answer")
    refused = not double.connected.is_set()
    double.close()
    return refused


def told_in_status(device: Device) -> str:
    """What a person on the device reads."""
    command = (AGENT, "status", "--config", device.directory / "agent.toml")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def let_back_in(fleet: Fleet, device: Device) -> None:
    """Enrol it again, and put the new identity in the place of the old one: its agent does not run."""
    fresh = fleet.directory / "fresh" / device.device_id
    fresh.parent.mkdir(exist_ok=True)
    fleet.call("device", "enrol", device.device_id, "--directory", fresh, "--again")
    shutil.rmtree(device.directory / "identity")
    shutil.move(fresh / "identity", device.directory / "identity")


def test_revoking_silences_a_live_session_both_ways_and_disturbs_nobody_else(own_fleet: Fleet) -> None:
    fleet = own_fleet
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("62.0.0")
    device, *others = (fleet.join(f"stolen-{number}", image=base) for number in (1, 2, 3))
    group = fleet.group("stolen", device, *others)
    fleet.settle(device, *others)
    before, running = sessions(fleet, *others), device.pid
    with Beat(fleet, device) as beat:
        began = time.monotonic()
        revoke(fleet, device)
        fleet.until(lambda: time.monotonic() - max(began, beat.up_at, beat.down_at) > SILENCE_S, "silence")
        took_s = max(beat.up_at, beat.down_at) - began
    assert took_s <= WITHIN_S, "it was heard, or heard something, after that"
    assert is_refused(fleet, device)
    fleet.until(lambda: REVOKED in told_in_status(device), "the agent's word on why nothing comes")
    assert (device.has_ended(), device.pid, device.runs(base)) == (False, running, True)

    fleet.push(image, "--group", group, "--immediate")
    for other in others:
        other.expect(image)
    assert sessions(fleet, *others) == before, "another device lost its session"
    device.stop()
    make_due(device)
    device.start()
    fleet.until(lambda: REVOKED in problem(device, "broker"), "the agent's word on its broker")
    fleet.until(lambda: "(revoked)" in problem(device, "identity"), "the agent's word on its renewal")
    assert REVOKED in told_in_status(device)
    assert "revoked" in told_in_status(device).partition("identity")[2]
    assert device.runs(base)
    assert not status(device)["online"]

    device.stop()
    let_back_in(fleet, device)
    device.start()
    device.expect(image)
    fleet.expect_outcome(device, image)
    actions = [row["action"] for row in fleet.api("GET", "/audit", params={"subject": f"device/{device.device_id}"})]
    assert {"device.revoked", "device.readmitted"} <= set(actions)


def test_a_device_that_enrols_again_while_its_agent_runs_goes_on_by_itself(own_fleet: Fleet) -> None:
    fleet = own_fleet
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("62.1.0")
    device = fleet.join("forgiven-1", image=base)
    group = fleet.group("forgiven", device)
    revoke(fleet, device)
    fleet.until(lambda: is_refused(fleet, device), "the broker's refusal")
    device.check()
    fleet.until(lambda: REVOKED in problem(device, "broker"), "the agent's word on its broker")
    fleet.push(image, "--group", group, "--immediate")
    before, again = serial_of(device), fleet.directory / "forgiven"
    fleet.call("device", "enrol", "forgiven-1", "--directory", again, "--again", "--code-only")
    command = ("enrol", "--again", "--config", device.directory / "agent.toml", "--code-file", again / "enrolment-code")
    made = fleet.office.processes.start(AGENT, *command, name="enrol-forgiven-1")
    assert made.wait() == 0, made.log()
    assert serial_of(device) != before
    device.expect(image)
    assert not device.has_ended()


def test_what_is_revoked_while_the_broker_is_down_is_out_when_it_is_back(own_fleet: Fleet) -> None:
    fleet, base = own_fleet, own_fleet.images.thermostat("1.0.0")
    lost, other = fleet.join("down-1", image=base), fleet.join("down-2", image=base)
    fleet.broker.kill()
    revoke(fleet, lost)
    before = fleet.row(other)["session"]
    fleet.broker.start()
    fleet.until(lambda: fleet.row(other)["session"] > before and fleet.row(other)["online"], "the other one's return")
    fleet.until(lambda: REVOKED in problem(lost, "broker"), "the agent's word on its broker")
    assert is_refused(fleet, lost)
    assert not fleet.row(lost)["online"]
    assert lost.runs(base)


def test_what_is_revoked_is_out_though_the_cloud_died_before_it_told_the_broker(own_fleet: Fleet) -> None:
    fleet = own_fleet
    first, second, other = (fleet.join(f"untold-{number}") for number in (1, 2, 3))
    fleet.settle(other)
    before, server = sessions(fleet, other), fleet.office.server
    assert server is not None
    with no_access_file(fleet):
        revoke(fleet, first)
        server.wait_for_line("acl")
        server.kill()
        assert not is_refused(fleet, first)
        assert fleet.query("SELECT kind, key FROM outbox") == [{"kind": "access", "key": "broker"}]
    server, began = fleet.office.serve(), time.monotonic()
    fleet.until(lambda: is_refused(fleet, first), "the broker's refusal")
    assert time.monotonic() - began <= WITHIN_S

    with no_access_file(fleet):
        revoke(fleet, second)
        server.wait_for_line("acl")
        assert not is_refused(fleet, second)
    began = time.monotonic()
    fleet.until(lambda: is_refused(fleet, second), "the broker's refusal")
    assert time.monotonic() - began <= WITHIN_S
    assert sessions(fleet, other) == before, "another device lost its session"


@contextmanager
def no_access_file(fleet: Fleet) -> Iterator[None]:
    """Keep the server from telling its broker anything: what it writes first cannot be written."""
    rules = fleet.office.home / "broker" / "acl"
    kept = rules.rename(rules.with_name("kept"))
    rules.mkdir()
    try:
        yield
    finally:
        rules.rmdir()
        kept.rename(rules)
