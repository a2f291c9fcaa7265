"""Devices become part of a fleet: by a list, by one code for several, and without anything but openssl."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from cloud.config import Home
from tests.end_to_end.security.identities import identity_of
from tests.support.distribution import build_wheel, install_as_on_a_device
from tests.support.fleet import AGENT, Device, Fleet

pytestmark = pytest.mark.broker
MODEL = "raspberrypi4"


def modes(directory: Path) -> dict[str, int]:
    """The modes of a directory and of all below it."""
    found = {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    return found | {".": stat.S_IMODE(directory.stat().st_mode)}


def blank(fleet: Fleet, device_id: str) -> Device:
    """A device from a factory line: settings that are the same for all, and no name of its own."""
    device = fleet.enrol("template", "--code-only") if not fleet.devices else fleet.devices[0]
    directory = fleet.directory / "devices" / device_id
    directory.mkdir(mode=0o700)
    lines = (device.directory / "agent.toml").read_text().splitlines()
    (directory / "agent.toml").write_text("\n".join(line for line in lines if not line.startswith("id = ")) + "\n")
    return Device(device_id, directory, device.health_port, fleet.office.processes)


def enrol_on(fleet: Fleet, device: Device, code: Path, *words: str, agent: Path = AGENT) -> tuple[int, str]:
    """Enrol on the device, in a process of its own; return its exit code and what it said."""
    settings = device.directory / "agent.toml"
    command: tuple[str | Path, ...] = ("enrol", "--config", settings, "--code-file", code, *words)
    done = fleet.office.processes.start(agent, *command, name=f"enrol-{device.device_id}")
    return done.wait(), done.log()


def test_a_fleet_is_enrolled_by_a_list_and_runs(fleet: Fleet) -> None:
    fleet.group("hall")
    names = [f"listed-{number}" for number in range(3)]
    path, out = fleet.directory / "fleet.csv", fleet.directory / "listed"
    path.write_text("device_id,hardware_model,groups\n" + "".join(f"{name},{MODEL},hall\n" for name in names))
    made = fleet.json("device", "enrol", "--from", path, "--out", out)
    assert [row["device_id"] for row in made] == names
    image, devices = fleet.images.thermostat("63.0.0"), []
    for name in names:
        found = modes(out / name)
        pair = identity_of(Device(name, out / name, 0, fleet.office.processes)).certificate
        assert set(found) == {
            *(".", "agent.toml", "root.json", "identity"),
            *(f"identity/{file}" for file in ("ca.crt", "identity.json", pair)),
        }
        assert {found[name] for name in (".", "identity")} == {0o700}
        assert {mode for name, mode in found.items() if name not in {".", "identity"}} == {0o600}
        device = Device(name, out / name, 0, fleet.office.processes)
        fleet.devices.append(device)
        device.start()
        devices.append(device)
    fleet.expect_online(*devices)
    fleet.push(image, "--group", "hall", "--immediate")
    for device in devices:
        device.expect(image)
    assert len({identity_of(device).certificate for device in devices}) == len(names)
    assert {row["groups"][0] for row in fleet.json("device", "list", "--group", "hall")} == {"hall"}


def test_one_code_enrols_three_devices_and_no_fourth(fleet: Fleet) -> None:
    code = fleet.directory / "three.code"
    fleet.call("token", "create", "--uses", 3, "--name", "three", "--out", code)
    devices = [blank(fleet, f"counted-{number}") for number in range(4)]
    for device in devices:
        device.start()
        assert device.agent is not None
        assert device.agent.wait() == 2
        said = device.agent.log()
        assert "not enrolled" in said
        assert f"fleetlift-agent enrol --config {device.directory / 'agent.toml'}" in said, "it does not say what to do"
        assert "Traceback" not in said
    for device in devices[:3]:
        status, said = enrol_on(fleet, device, code, "--device-id", device.device_id)
        assert (status, code.read_text().split(".")[1] in said) == (0, False), said
    again = enrol_on(fleet, devices[0], code, "--device-id", "counted-0", "--again")
    assert again[0] == 1, "one code makes one device twice"
    status, said = enrol_on(fleet, devices[3], code, "--device-id", "counted-3")
    assert (status, "token_used" in said) == (1, True), said
    assert not (devices[3].directory / "identity" / "identity.json").exists()
    assert {mode for name, mode in modes(devices[0].directory / "identity").items() if name != "."} == {0o600}
    for device in devices[:3]:
        fleet.devices.append(device)
        device.start()
    fleet.expect_online(*devices[:3])
    (row,) = (row for row in fleet.json("token", "list", "--all") if row["name"] == "three")
    assert (row["uses_left"], row["max_uses"], row["good"]) == (0, 3, False)
    assert fleet.json("device", "certificates", "counted-2")[0]["token"] == "three"


def test_a_device_without_a_compiled_library_makes_its_key_with_openssl(fleet: Fleet, tmp_path: Path) -> None:
    programs = install_as_on_a_device(build_wheel(tmp_path), tmp_path / "environment")
    missing = subprocess.run((programs / "python", "-c", "import cryptography"), capture_output=True, check=False)
    assert missing.returncode != 0, "the device has what it is to do without"
    image = fleet.images.thermostat("63.1.0")
    device = fleet.enrol("frugal-1", "--code-only")
    code = device.directory / "enrolment-code"
    status, said = enrol_on(fleet, device, code, agent=programs / "fleetlift-agent")
    assert status == 0, said
    fleet.push(image, "--group", fleet.group("frugal", device), "--immediate")
    device.agent = fleet.office.processes.start(
        programs / "fleetlift-agent", "run", "--config", device.directory / "agent.toml", name="agent-frugal-1"
    )
    device.expect(image)
    fleet.expect_outcome(device, image)
    pair = device.identity.read_text()
    assert pair.startswith("-----BEGIN PRIVATE KEY-----")
    assert stat.S_IMODE(device.identity.stat().st_mode) == 0o600
    stored = json.dumps(fleet.query("SELECT * FROM certificate WHERE device_id = 'frugal-1'"))
    assert "PRIVATE KEY" not in stored
    home = Home(fleet.office.home)
    secret = pair.splitlines()[2].encode()
    assert not [path for path in home.cloud.rglob("*") if path.is_file() and secret in path.read_bytes()]
