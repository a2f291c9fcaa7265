"""Authorities, and the servers' own certificates, change while devices are connected, and no device is lost."""

import socket
import ssl
import time
from datetime import timedelta

import pytest

from cloud.config import Home
from cloud.pki.authorities import Authorities
from cloud.pki.service_certificates import API, API_NAME, BROKER, BROKER_NAME
from cloud.roles import utc_now
from tests.end_to_end.security.identities import make_due, serial_of
from tests.support.fleet import Device, Fleet

pytestmark = pytest.mark.broker
LOOPBACK = ["localhost", "127.0.0.1"]


def shown(fleet: Fleet, port: int) -> str:
    """The serial number of the certificate that is shown at a port, which must be of an authority that devices know."""
    context = ssl.create_default_context(cafile=Home(fleet.office.home).operator_ca)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as encrypted,
    ):
        found = encrypted.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


def shows_another(fleet: Fleet, port: int, than: str) -> bool:
    """Whether another certificate is shown; a handshake may be cut off while a server reads its files anew."""
    try:
        return shown(fleet, port) != than
    except OSError:
        return False


def sessions(fleet: Fleet, *devices: Device) -> list[int]:
    return [fleet.row(device)["session"] for device in devices]


def trusted(device: Device) -> int:
    """How many authorities of servers a device trusts."""
    return (device.directory / "identity" / "ca.crt").read_text().count("BEGIN CERTIFICATE")


def renew(fleet: Fleet, device: Device) -> None:
    """Have a device renew its certificate now."""
    before = serial_of(device)
    device.stop()
    make_due(device)
    device.start()
    fleet.until(lambda: serial_of(device) != before, f"the renewal of {device.device_id}")


def test_each_authority_is_followed_by_another_and_no_device_is_lost(old_fleet: Fleet) -> None:
    fleet, base = old_fleet, old_fleet.images.thermostat("1.0.0")
    first, second = devices = [fleet.join(f"follows-{number}", image=base) for number in (1, 2)]
    group = fleet.group("follows", *devices)
    fleet.settle(*devices)
    before = sessions(fleet, *devices)

    fleet.call("ca", "rotate", "devices", "--yes")
    fleet.call("ca", "rotate", "services", "--yes")
    rotated_s = time.time()  # certificates tell time in whole seconds: who enrols within one may not have heard of it
    fleet.until(lambda: time.time() > rotated_s + 1, "the next second")
    newcomer = fleet.join("follows-3", image=base)
    assert sessions(fleet, *devices) == before, "somebody lost a session"
    assert trusted(newcomer) == 2
    assert fleet.json("device", "certificates", "follows-3")[0]["authority"] == "devices-2"
    for kind in ("devices", "services"):
        said = fleet.call("ca", "retire", kind, "--yes", expect=5).err
        assert "2 of the devices still need the old authority (follows-1, follows-2)" in said
    renew(fleet, first)
    assert (
        "1 of the devices still need the old authority (follows-2)"
        in fleet.call("ca", "retire", "devices", "--yes", expect=5).err
    )
    renew(fleet, second)
    assert [trusted(device) for device in devices] == [2, 2]
    needed = {row["name"]: row["needed_by"] for row in fleet.json("ca", "list")}
    assert (needed["devices-1"], needed["services-1"]) == (0, 0)

    everybody = [*devices, newcomer]
    ports = (fleet.office.port, fleet.broker.port)
    fleet.expect_online(*everybody)
    fleet.settle(*everybody)
    held, by_old = sessions(fleet, *everybody), [shown(fleet, port) for port in ports]
    for kind in ("devices", "services"):
        fleet.call("ca", "retire", kind, "--yes")
    for port, old in zip(ports, by_old, strict=True):
        fleet.until(lambda: shown_or_nothing(fleet, port) not in {old, ""}, f"a new certificate on {port}")  # noqa: B023
    assert sessions(fleet, *everybody) == held, "somebody lost a session"
    image = fleet.images.thermostat("65.0.0")
    fleet.push(image, "--group", group, "--immediate")
    for device in devices:
        device.expect(image)
    for device in everybody:
        device.restart()
    fleet.until(
        lambda: all(now > then for now, then in zip(sessions(fleet, *everybody), held, strict=True)), "sessions"
    )
    fleet.restart_cloud()
    assert fleet.json("ca", "list")[0]["name"] == "devices-2"
    renew(fleet, newcomer)
    fleet.until(lambda: trusted(newcomer) == 1, "the end of the old authority")  # its last step, after the renewal


def shown_or_nothing(fleet: Fleet, port: int) -> str:
    try:
        return shown(fleet, port)
    except OSError:
        return ""


def test_the_servers_renew_their_own_certificates_and_nobody_notices(old_fleet: Fleet) -> None:
    fleet, home = old_fleet, Home(old_fleet.office.home)
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("65.1.0")
    device = fleet.join("notices-nothing-1", image=base)
    group = fleet.group("notices-nothing", device)
    fleet.settle(device)
    before = sessions(fleet, device)
    ports = {fleet.office.port: (home.tls / API, API_NAME), fleet.broker.port: (home.broker / BROKER, BROKER_NAME)}
    old = {port: shown(fleet, port) for port in ports}
    then = utc_now() - timedelta(days=250)
    past = Authorities(home.ca, now=lambda: then)
    for path, name in ports.values():
        path.write_bytes(past.issue_service(name, LOOPBACK, server=True))
    fleet.enrol("whoever-1")
    fleet.call("device", "revoke", "whoever-1", "--yes")  # it looks hourly, and whenever the broker is to be told
    for port in ports:
        fleet.until(lambda: shows_another(fleet, port, old[port]), f"a new certificate on {port}")  # noqa: B023
        context = ssl.create_default_context(cafile=home.operator_ca)
        with (
            socket.create_connection(("127.0.0.1", port), 10) as connection,
            context.wrap_socket(connection, server_hostname="localhost") as encrypted,
        ):
            found = encrypted.getpeercert()
        assert found is not None
        begins = ssl.cert_time_to_seconds(str(found["notBefore"]))
        assert utc_now().timestamp() - begins < 86_400, "it shows the one that is due"
    fleet.push(image, "--group", group, "--immediate")
    device.expect(image)
    assert sessions(fleet, device) == before
    device.restart()
    fleet.until(lambda: sessions(fleet, device) > before, "a session by the new certificate")
