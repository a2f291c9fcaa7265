"""All traffic is encrypted, firmware included: what somebody on the network gets of a device's whole life (S1)."""

import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass

import pytest

from cloud.config import Home
from protocol.enrolment import read_code
from tests.end_to_end.security.conftest import Tap
from tests.end_to_end.security.identities import make_due, serial_of
from tests.end_to_end.security.wire import Wire, check_encrypted, records, samples
from tests.support.fleet import AGENT, Device, Fleet
from tests.support.mqtt import Peer

pytestmark = pytest.mark.broker
MIB = 2**20
SECRET_NOTE = "a-note-that-is-nobodys-business"
ALWAYS = (
    b"fleetlift/v1",
    b'"device_id"',
    b'"hardware_model"',
    b"HTTP/1.",
    b"Authorization",
    b"\0\4MQTT",
    b"thermostat",
)
"""What would be in any of it: topics, JSON, HTTP, MQTT."""


@dataclass
class Network:
    """A fleet whose every connection goes past somebody who listens in."""

    fleet: Fleet
    device_to_broker: Wire
    device_to_server: Wire
    operator_to_server: Wire
    cloud_to_broker: Wire

    @property
    def wires(self) -> dict[str, Wire]:
        return {name: wire for name, wire in vars(self).items() if isinstance(wire, Wire)}

    def operate(self, *words: object) -> None:
        """Run a command at the operator's."""
        self.fleet.call(*words, "--server", f"https://127.0.0.1:{self.operator_to_server.port}")

    def enrol(self, device_id: str, *words: object) -> Device:
        """Enrol a device by a code, as a process on the device, over these wires."""
        device = self.fleet.enrol(
            device_id,
            *("--code-only", *words, "--broker", f"mqtts://localhost:{self.device_to_broker.port}"),
            *("--device-server", f"https://localhost:{self.device_to_server.port}"),
            *("--server", f"https://127.0.0.1:{self.operator_to_server.port}"),
            image=self.fleet.images.thermostat("1.0.0"),
        )
        settings, code = device.directory / "agent.toml", device.directory / "enrolment-code"
        made = self.fleet.office.processes.start(
            AGENT, "enrol", "--config", settings, "--code-file", code, name=f"enrol-{device_id}"
        )
        assert made.wait() == 0, made.log()
        return device


@pytest.fixture
def network(own_fleet: Fleet, tap: Tap) -> Network:
    """A fleet that is listened in on everywhere, between server and broker, too."""
    fleet, office = own_fleet, own_fleet.office
    assert office.server is not None
    office.server.terminate()
    found = Network(fleet, tap(fleet.broker.port), tap(office.port), tap(office.port), tap(fleet.broker.cloud_port))
    office.server = office.start("serve", "--broker", f"mqtts://127.0.0.1:{found.cloud_to_broker.port}", name="serve")
    office.server.wait_for_line("Ready.", timeout_s=30)
    return found


def test_nothing_of_a_devices_whole_life_can_be_read_on_the_network(network: Network) -> None:
    fleet, office = network.fleet, network.fleet.office
    image = fleet.images.thermostat("61.0.0", filler_bytes=3 * MIB)
    code_file = fleet.directory / "devices" / "whole-life-1" / "enrolment-code"
    device = network.enrol("whole-life-1", "--attribute", f"site={SECRET_NOTE}")
    code = read_code(code_file.read_text())
    device.start()
    fleet.expect_online(device)
    network.operate("group", "create", "listened-in", "--device", device.device_id)
    network.operate(
        *("release", "push", image.path, "--group", "listened-in", "--immediate", "--yes"),
        *("--description", SECRET_NOTE, "--notes", SECRET_NOTE),
    )
    device.expect(image)
    fleet.expect_outcome(device, image)
    before = serial_of(device)
    device.stop()
    make_due(device)
    device.start()
    fleet.until(lambda: serial_of(device) != before, "a renewal")
    fleet.expect_online(device)
    for command in (("device", "list"), ("device", "show", device.device_id), ("release", "list"), ("key", "list")):
        network.operate(*command)
    fleet.expect_told(device)
    heard = {name: wire.heard_bytes for name, wire in network.wires.items()}
    for name in ("device_to_broker", "operator_to_server", "cloud_to_broker"):
        assert heard[name] > image.size_bytes, f"the firmware did not go past {name}"
    assert heard["device_to_server"] > 4096, "enrolment and renewal did not go past here"

    token = Home(office.home).token_file.read_text().strip()
    needles = (
        *(text.encode() for text in (device.device_id, SECRET_NOTE, code.token, str(code), token)),
        *(*ALWAYS, image.digest.encode(), image.version.encode() + b'"'),
        *samples(image.path.read_bytes()),
        *samples(device.identity.read_bytes(), count=10),
    )
    for name, wire in network.wires.items():
        assert not wire.heard(*needles), name
        assert wire.conversations
        for conversation in wire.conversations:
            if conversation.client or conversation.server:
                check_encrypted(conversation)


def test_who_listens_in_would_find_what_is_not_encrypted(tap: Tap) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = tap(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", wire.port)) as sender:
            receiver, _ = listener.accept()
            with receiver:
                sender.sendall(b"\0\4MQTT and the rest of it")
                assert receiver.recv(100)
        assert wire.heard(*ALWAYS) == [b"\0\4MQTT"]
        with pytest.raises(ValueError, match="no TLS record"):
            records(bytes(wire.conversations[0].client))


def test_nobody_is_answered_who_does_not_encrypt(fleet: Fleet) -> None:
    connect = bytes.fromhex("101000044d5154540402003c0004") + b"nobo"
    http = b"GET /api/v1/enrolment/trust HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for port in (fleet.broker.port, fleet.broker.cloud_port, fleet.office.port):
        for said in (connect, http):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(said)
                answer = b""
                try:
                    while block := connection.recv(4096):
                        answer += block
                except ConnectionResetError:
                    pass
            # At most a TLS alert (RFC 8446, 6), which is not an answer to what was said.
            assert answer == b"" or [kind for kind, _ in records(answer)] == [21], answer


def test_old_tls_is_refused_by_whoever_listens(fleet: Fleet) -> None:
    for port in (fleet.broker.port, fleet.broker.cloud_port, fleet.office.port):
        assert "Cipher is (NONE)" in tls_said(port, "-tls1_1")
        assert "Cipher is ECDHE" in tls_said(port, "-tls1_2")


def tls_said(port: int, version: str) -> str:
    """What a client says of its handshake that offers one version of TLS alone, and any cipher."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    done = subprocess.run(
        (openssl, "s_client", "-connect", f"127.0.0.1:{port}", version, "-cipher", "DEFAULT@SECLEVEL=0"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout


def test_nobody_gets_a_session_without_a_certificate(fleet: Fleet) -> None:
    trusting = ssl.create_default_context(cafile=Home(fleet.office.home).operator_ca)
    for port in (fleet.broker.port, fleet.broker.cloud_port):
        peer = Peer(port, "nobody", tls=trusting)
        peer._client.connect("127.0.0.1", port)
        peer._client.loop_start()
        assert peer.disconnected.wait(10)
        peer.close()
        assert not peer.connected.is_set()
