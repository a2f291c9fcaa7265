"""A device's certificate is renewed by the agent itself, while all sorts of things go on."""

from typing import Any

import pytest

from tests.end_to_end.security.conftest import Tap
from tests.end_to_end.security.identities import (
    DUE,
    LONG_ENDED,
    age,
    identity_of,
    pause_is_over,
    problem,
    serial_of,
    status,
)
from tests.support.fleet import Device, Fleet

pytestmark = pytest.mark.broker
MIB = 2**20
DAY_MS = 86_400_000


def pairs(device: Device) -> list[str]:
    """The files with a key and a certificate that a device has."""
    return sorted(path.name for path in (device.directory / "identity").glob("device-*.pem"))


def serials(fleet: Fleet, device: Device) -> list[str]:
    """The device's certificates as the operator sees them, newest first."""
    return [row["serial"] for row in fleet.json("device", "certificates", device.device_id)]


def test_a_certificate_is_renewed_amid_an_update_once_the_server_is_back(old_fleet: Fleet, tap: Tap) -> None:
    fleet, base = old_fleet, old_fleet.images.thermostat("1.0.0")
    image, server = fleet.images.thermostat("64.0.0", filler_bytes=4 * MIB), fleet.office.server
    wire = tap(fleet.broker.port)
    assert server is not None
    device = fleet.enrol("renews-1", "--broker", f"mqtts://127.0.0.1:{wire.port}", image=base)
    group = fleet.group("renews", device)
    age(fleet, device, DUE)
    old = serial_of(device)
    assert old in serials(fleet, device)
    server.terminate()

    device.start()
    fleet.until(lambda: identity_status(device).get("renewal_failures"), "a try while the server is down")
    fleet.until(lambda: status(device)["online"], "a session by the old certificate")
    assert "refused" in problem(device, "identity")
    device.restart()
    fleet.until(lambda: status(device).get("online"), "a session by the old certificate")
    assert identity_status(device)["renewal_failures"] == 1, "it does not wait after a failure"
    assert serial_of(device) == old
    device.stop()

    fleet.office.serve()
    fleet.push(image, "--group", group, "--immediate")
    passed = wire.heard_bytes
    device.start()
    fleet.until(lambda: wire.heard_bytes > passed + MIB, "the middle of the download")
    device.kill()
    pause_is_over(device)
    with wire.held():
        device.start()
        fleet.until(lambda: serial_of(device) != old, "a renewal")
        assert len(pairs(device)) == 2, "the pair that is in use went before the new one was"
        assert status(device)["phase"] != "idle"
    device.expect(image)
    fleet.expect_outcome(device, image)
    fleet.until(lambda: pairs(device) == [identity_of(device).certificate], "the old pair's end")
    assert serials(fleet, device)[0] == serial_of(device)
    assert identity_status(device)["renewal_failures"] == 0
    assert problem(device, "identity") == ""
    assert not device.has_ended()


def test_a_session_is_made_anew_with_the_new_certificate_when_nothing_is_under_way(old_fleet: Fleet) -> None:
    fleet, images = old_fleet, old_fleet.images
    base, image = images.thermostat("1.0.0"), images.thermostat("64.1.0")
    device = fleet.enrol("renews-2", image=base)
    group = fleet.group("renews-2", device)
    age(fleet, device, DUE)
    old = identity_of(device)
    device.start()
    fleet.expect_online(device)
    fleet.until(lambda: serial_of(device) != serial_in(old.certificate), "a renewal")
    fleet.until(lambda: pairs(device) == [identity_of(device).certificate], "the old pair's end")
    renewed = identity_of(device)
    assert renewed.not_after_ms - old.not_after_ms >= 61 * DAY_MS
    fleet.until(lambda: status(device)["online"], "the new session")
    with fleet.double(device):  # the new pair is good, and takes the session over
        pass
    device.expect(base)
    fleet.push(image, "--group", group, "--immediate")
    device.expect(image)
    actions = [row["action"] for row in fleet.api("GET", "/audit", params={"subject": "device/renews-2"})]
    assert "certificate.renewed" in actions


def test_a_device_that_was_away_for_longer_than_its_certificate_comes_back_by_itself(old_fleet: Fleet) -> None:
    fleet, images = old_fleet, old_fleet.images
    base, image = images.thermostat("1.0.0"), images.thermostat("64.2.0")
    device = fleet.enrol("away-64", image=base)
    fleet.push(image, "--group", fleet.group("away-64", device), "--immediate")
    ended = age(fleet, device, LONG_ENDED)
    device.start()
    device.expect(image)
    assert serial_of(device) != serial_in(ended.certificate)
    assert "ended" not in problem(device, "identity")


def serial_in(name: str) -> str:
    return name.removeprefix("device-").removesuffix(".pem")


def identity_status(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = status(device).get("identity") or {}
    return found
