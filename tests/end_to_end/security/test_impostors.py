"""Somebody between device and cloud with a certificate of his own gets neither token nor session (S1)."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud.config import Home
from cloud.pki.authorities import Authorities
from cloud.pki.issuing import CLOUD_NAME
from protocol.enrolment import read_code
from tests.end_to_end.security.identities import make_due, problem, serial_of, status
from tests.end_to_end.security.impostor import Impostor
from tests.support.fleet import AGENT, Device, Fleet

pytestmark = pytest.mark.broker
LOOPBACK = ["localhost", "127.0.0.1"]
UNKNOWN_AUTHORITY = "from an authority that this device does not know"
Make = Callable[[Fleet, Path], bytes]


def self_signed(_fleet: Fleet, directory: Path) -> bytes:
    """The right names, signed by nobody else."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = ("-subj", "/CN=fleetlift broker", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run((*command, *names, "-keyout", key, "-out", certificate), check=True, capture_output=True)
    return key.read_bytes() + certificate.read_bytes()


def of_another_authority(_fleet: Fleet, directory: Path) -> bytes:
    """All as it should be, from the authorities of another fleet, which have the same names."""
    return Authorities.create(directory / "ca").issue_service("fleetlift broker", LOOPBACK, server=True)


def a_devices_own(fleet: Fleet, _directory: Path) -> bytes:
    """A device of the same fleet, taken apart by a thief."""
    return fleet.enrol("thiefs-device").identity.read_bytes()


def of_no_server(fleet: Fleet, _directory: Path) -> bytes:
    """Of the servers' own authority, but a client's, as the cloud has one for the broker."""
    return Authorities(Home(fleet.office.home).ca).issue_service(CLOUD_NAME, LOOPBACK, server=False)


def for_another_host(fleet: Fleet, _directory: Path) -> bytes:
    """Of the servers' own authority, a server's, and for another host."""
    return Authorities(Home(fleet.office.home).ca).issue_service("fleetlift api", ["ota.example"], server=True)


CASES = [
    pytest.param(self_signed, UNKNOWN_AUTHORITY, id="self-signed"),
    pytest.param(of_another_authority, UNKNOWN_AUTHORITY, id="another-authority"),
    pytest.param(a_devices_own, UNKNOWN_AUTHORITY, id="a-devices-own"),
    pytest.param(
        of_no_server, "the server's certificate is not accepted: unsuitable certificate purpose", id="no-server"
    ),
    pytest.param(for_another_host, "the server's certificate is for another host", id="another-host"),
]


@pytest.fixture
def impostors() -> Iterator[list[Impostor]]:
    """Those of a test."""
    opened: list[Impostor] = []
    yield opened
    for impostor in opened:
        impostor.close()


@pytest.mark.parametrize(("make", "why"), CASES)
def test_a_man_in_the_middle_gets_neither_token_nor_session_nor_anything_else(
    fleet: Fleet, impostors: list[Impostor], tmp_path: Path, make: Make, why: str
) -> None:
    impostor = impostor_of(fleet, impostors, tmp_path, make)
    name = make.__name__.replace("_", "-")
    victim = enrolling(fleet, f"enrols-{name}", impostor)
    agent = fleet.office.processes.start(*enrol_command(victim), name=f"enrol-{victim.device_id}")
    assert agent.wait() == 1
    assert why in agent.log(), "it does not say why"
    assert not (victim.directory / "identity" / "identity.json").exists()
    code = read_code((victim.directory / "enrolment-code").read_text())
    assert code.token not in agent.log()

    victim = fleet.enrol(f"connects-{name}", image=fleet.images.thermostat("1.0.0"))
    before = serial_of(victim)
    redirect(victim, impostor)
    make_due(victim)
    victim.start()
    for place in ("broker", "identity"):
        fleet.until(lambda: why in problem(victim, place), f"the agent's word on its {place}")  # noqa: B023
    assert serial_of(victim) == before
    assert not status(victim)["online"]
    victim.expect(fleet.images.thermostat("1.0.0"))

    said = fleet.call("device", "list", "--server", f"https://127.0.0.1:{impostor.port}", expect=1)
    assert "did not prove that it is your server" in said.err
    assert impostor.told == []
    assert len(impostor.refusals) >= 4, "he was not even tried"


def test_an_impostor_who_has_the_servers_own_key_would_be_told(
    fleet: Fleet, impostors: list[Impostor], tmp_path: Path
) -> None:
    """What the others lack is the certificate, and nothing else."""
    impostor = impostor_of(
        fleet, impostors, tmp_path, lambda fleet, _: (Home(fleet.office.home).tls / "api.pem").read_bytes()
    )
    victim = enrolling(fleet, "enrols-robbed", impostor)
    assert fleet.office.processes.start(*enrol_command(victim), name="enrol-robbed").wait() == 1
    code = read_code((victim.directory / "enrolment-code").read_text())
    assert any(code.token.encode() in said for said in impostor.told)


def impostor_of(fleet: Fleet, impostors: list[Impostor], directory: Path, make: Make) -> Impostor:
    pem = directory / "impostor.pem"
    pem.write_bytes(make(fleet, directory))
    with fleet.http as http:
        trust = http.get("/enrolment/trust").content
    assert len(json.loads(trust)["roots"]) > 0
    impostors.append(Impostor(pem, trust))
    return impostors[-1]


def enrolling(fleet: Fleet, device_id: str, impostor: Impostor) -> Device:
    """A device with a code, that finds him in the place of its server."""
    return fleet.enrol(device_id, "--code-only", "--device-server", f"https://localhost:{impostor.port}")


def enrol_command(device: Device) -> tuple[str | Path, ...]:
    settings, code = device.directory / "agent.toml", device.directory / "enrolment-code"
    return (AGENT, "enrol", "--config", settings, "--code-file", code)


def redirect(device: Device, impostor: Impostor) -> None:
    """Have a device find him in the place of its broker and its server, as by a false answer of DNS."""
    path = device.directory / "agent.toml"
    text, broker = re.subn(r'(?m)^url = "mqtts:.*$', f'url = "mqtts://localhost:{impostor.port}"', path.read_text())
    text, server = re.subn(r'(?m)^server = ".*$', f'server = "https://localhost:{impostor.port}"', text)
    assert (broker, server) == (1, 1), text
    path.write_text(text)
