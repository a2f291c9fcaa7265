"""Releases by a plan, over a real broker, to real agents: a bad one stops at its first devices, a good one goes on."""

from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.images import Image


def moved(fleet: Fleet, image: Image, *devices: object) -> list[str]:
    """The devices that began to take an image, as the cloud's database has it."""
    rows = fleet.query("SELECT DISTINCT device_id FROM attempt WHERE digest = ?", image.digest)
    return sorted(row["device_id"] for row in rows)


def test_a_bad_release_stops_at_the_canary_and_nobody_else_is_touched(fleet: Fleet) -> None:
    good, bad = fleet.images.thermostat("12.0.0"), fleet.images.thermostat("12.0.1", fails_after_s=0.0)
    canary, *others = [
        fleet.join(f"plan-{number}", "--prove-timeout", 2, image=fleet.images.thermostat("1.0.0"))
        for number in range(4)
    ]
    group = fleet.group("plan", canary, *others)
    fleet.group("plan-pilot", canary)
    fleet.push(good, "--group", group, "--immediate", "--wait")
    plan = ("--phase", "plan-pilot:1s", "--phase", "100%:1s", "--max-failures", 0)
    page = fleet.push(bad, "--group", group, "--immediate", *plan)
    assert page["release"]["percentage"] == 0
    fleet.expect_outcome(canary, bad, "rolled_back")
    status = ("release", "rollout", "v2", "--group", group)
    fleet.until(lambda: fleet.json(*status)["status"] == "stopped_by_gate", "the gate")
    shown = fleet.json(*status)
    assert "1 of 1 devices that began it failed" in shown["why"]
    assert [row["failed"] for row in shown["strata"]] == [1]
    fleet.settle(*others)
    assert moved(fleet, bad) == [canary.device_id]
    canary.expect(good)
    for device in others:
        fleet.expect_moves(device, good)
    said = fleet.call("release", "patch", "v2", "--group", group, "--percentage", 50, expect=5)
    assert "goes by a plan" in said.err
    assert "nothing was changed" in said.err
    fleet.call("release", "abort", "v2", "--group", group, "--yes")
    assert fleet.json(*status)["status"] == "aborted"
    assert fleet.json("release", "show", "v1", "--group", group)["release"]["live"]


def test_a_good_release_goes_on_by_itself_and_stands_still_while_it_is_paused(fleet: Fleet) -> None:
    image = fleet.images.thermostat("12.1.0")
    canary, *others = [fleet.join(f"good-{number}", image=fleet.images.thermostat("1.0.0")) for number in range(4)]
    group = fleet.group("good", canary, *others)
    fleet.group("good-pilot", canary)
    plan = ("--phase", "good-pilot:3600s", "--phase", "100%:1s")
    fleet.push(image, "--group", group, "--immediate", *plan)
    canary.expect(image)
    fleet.expect_outcome(canary, image)
    fleet.settle(*others)
    assert moved(fleet, image) == [canary.device_id]
    name = ("v1", "--group", group)
    assert "nobody further takes it" in fleet.call("release", "pause", *name).out
    fleet.call("release", "advance", *name, "--yes", expect=5)
    fleet.settle(*others)
    assert moved(fleet, image) == [canary.device_id]
    fleet.call("release", "resume", *name)
    fleet.call("release", "advance", *name, "--yes")
    for device in others:
        device.expect(image)
        fleet.expect_outcome(device, image)
    fleet.until(lambda: fleet.json("release", "rollout", *name)["status"] == "completed", "the end of the plan")
    text = fleet.call("release", "rollout", *name).out
    assert "completed" in text
    assert "4 of 4" in text
    kinds = [row["kind"] for row in fleet.query("SELECT kind FROM event WHERE kind LIKE 'rollout.%' ORDER BY number")]
    assert kinds[-4:] == ["rollout.paused", "rollout.resumed", "rollout.phase", "rollout.completed"]


def test_a_release_without_a_plan_is_paused_resumed_and_retried(fleet: Fleet, tmp_path: Path) -> None:
    base, image, mended = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.3.0"), tmp_path / "mended"
    device = fleet.join("plain-1", "--prove-timeout", 2, image=base, healthy=("test", "-e", str(mended)))
    group = fleet.group("plain", device)
    device.stop()
    fleet.push(image, "--group", group, "--immediate")
    name = ("v1", "--group", group)
    assert "nobody further takes it" in fleet.call("release", "pause", *name, "--why", "lunch").out
    assert "live, paused" in fleet.call("release", "show", *name).out
    assert "live, paused" in fleet.call("release", "list", "--group", group).out
    assert "paused" in fleet.call("release", "status", *name).out
    device.start()
    fleet.settle(device)
    assert moved(fleet, image) == []
    assert fleet.json("release", "resume", *name)["release"]["terms"]["paused"] is False
    fleet.expect_outcome(device, image, "rolled_back")
    mended.touch()
    fleet.settle(device)
    assert fleet.outcomes(device, image) == ["rolled_back"]
    assert "is tried again" in fleet.call("release", "retry", *name).out
    device.expect(image)
    fleet.until(lambda: fleet.outcomes(device, image) == ["rolled_back", "succeeded"], "the second attempt")
    assert "disable it" in fleet.call("release", "abort", *name, "--yes", expect=1).err
    words = fleet.call("release", "timeline", *name).out
    assert [word for word in ("paused", "lunch", "resumed", "retried") if word not in words] == []


def test_a_server_that_is_killed_in_mid_plan_goes_on_with_it_once(own_fleet: Fleet) -> None:
    fleet = own_fleet
    image = fleet.images.thermostat("12.2.0")
    canary, other = [fleet.join(f"killed-{number}", image=fleet.images.thermostat("1.0.0")) for number in range(2)]
    fleet.group("killed-pilot", canary)
    fleet.push(image, "--immediate", "--phase", "killed-pilot:1s", "--phase", "100%:1s")
    fleet.until(lambda: fleet.attempts(canary, image), "the canary's attempt")
    fleet.restart_cloud()
    for device in (canary, other):
        device.expect(image)
        fleet.expect_outcome(device, image)
    fleet.until(lambda: fleet.json("release", "rollout", "v1")["status"] == "completed", "the end of the plan")
    kinds = [row["kind"] for row in fleet.query("SELECT kind FROM event WHERE kind LIKE 'rollout.%' ORDER BY number")]
    assert kinds == ["rollout.phase", "rollout.completed"]
