"""What a release would do is told before anything moves, a push is held to it, and both sides say why alike."""

from __future__ import annotations

import subprocess

from tests.support.devices import AGENT, Device
from tests.support.fleet import Fleet


def agent_why(device: Device) -> list[str]:
    """What `fleetlift-agent why` says at a device."""
    command = [str(AGENT), "why", "--config", str(device.directory / "agent.toml")]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    return str(said).splitlines()


def test_a_plan_is_kept_by_a_push_and_refused_in_another_world(fleet: Fleet) -> None:
    base, new = fleet.images.thermostat("61.0.0"), fleet.images.thermostat("61.0.1")
    devices = [fleet.join(f"preflight-{number}", image=base) for number in range(2)]
    group = fleet.group("planned", *devices)

    told = fleet.json("release", "plan", new.path, "--group", group, "--immediate")

    assert told["counts"] == {"takes": 2}
    assert [(it["device_id"], it["verdict"]) for it in told["devices"]] == [
        ("preflight-0", "takes"),
        ("preflight-1", "takes"),
    ]
    assert told["bytes"]["over_the_air_bytes"] == 2 * new.size_bytes
    assert told["bytes"]["from_cloud_bytes"] == new.size_bytes
    assert (told["finish"]["online"], told["finish"]["away"]) == (2, 0)
    said = fleet.call("release", "plan", new.path, "--group", group, "--immediate").out
    assert told["plan_hash"] in said
    assert not fleet.query("SELECT * FROM firmware WHERE version = ?", new.version), "a plan signs and sends nothing"

    fleet.call("group", "remove", group, "preflight-1")
    words = ("--group", group, "--immediate", "--plan", told["plan_hash"])
    refused = fleet.call("release", "push", new.path, *words, "--yes", expect=5).err
    assert "takes was 2 and is 1" in refused
    assert not fleet.query("SELECT * FROM firmware WHERE version = ?", new.version), "refused before it is signed"

    fleet.call("group", "add", group, "preflight-1")
    page = fleet.push(new, *words)
    assert page["release"]["release_id"] == told["release_id"]
    for device in devices:
        device.expect(new)
        fleet.expect_outcome(device, new)
    assert "no plan" in fleet.call("release", "push", new.version, "--plan", "0" * 64, "--yes", expect=5).err


def test_the_device_and_the_cloud_say_why_alike(fleet: Fleet) -> None:
    base, new = fleet.images.thermostat("62.0.0"), fleet.images.thermostat("62.0.1")
    device = fleet.join("why-1", image=base)
    group = fleet.group("explained", device)
    fleet.push(base, "--group", group)
    fleet.push(new, "--group", group, "--immediate", "--range", ">=63.0.0")
    fleet.settle(device)

    told = fleet.json("device", "why", device.device_id)

    (app,) = told["components"]
    assert app["decision"]["verdict"] == "runs"
    assert app["held"]["reason"] == "up_to_date"
    assert any("62.0.0 build" in line and line.startswith("  no ") for line in app["lines"])
    here = agent_why(device)
    assert here[: len(app["lines"])] == app["lines"]
    said = fleet.call("device", "why", device.device_id).out.splitlines()
    assert [line.rstrip() for line in said[: len(here)]] == app["lines"]
