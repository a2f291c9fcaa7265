"""What became of a release, by the devices' journals; and success as evidence that can be taken back (R12, B1)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.fleet import Fleet


def counted(fleet: Fleet, release_id: str) -> dict[str, Any]:
    """What the journal entries that devices sent say of a release, counted here."""
    entries: dict[str, list[dict[str, Any]]] = {}
    query = "SELECT device_id, body FROM journal_entry WHERE body LIKE '%' || ? || '%' ORDER BY seq"
    for row in fleet.query(query, release_id):
        said = json.loads(row["body"])["attempt"]
        assert said["source_id"] == release_id
        entries.setdefault(f"{row['device_id']} {said['attempt_id']}", []).append(said)
    ends = [{"outcome": None, "reason": None} | steps[-1] for steps in entries.values()]
    verified = [any(step["phase"] == "installing" for step in steps) for steps in entries.values()]
    return {
        "attempts": len(entries),
        "downloads": sum(verified),
        "installs": sum(end["outcome"] == "succeeded" for end in ends),
        "rollbacks": dict(Counter(end["reason"] for end in ends if end["outcome"] == "rolled_back")),
        "failures": dict(Counter(end["reason"] for end in ends if end["outcome"] == "failed")),
    }


def test_a_release_shows_downloads_installs_rollbacks_and_failures_with_reasons(fleet: Fleet) -> None:
    base = fleet.images.thermostat("1.0.0")
    good, broken = fleet.images.thermostat("17.0.0"), fleet.images.thermostat("17.0.1", crashes="no sensor")
    two = [fleet.join(f"metrics-{number}", image=base) for number in (1, 2)]
    small = fleet.join("metrics-small", "--capacity", good.size_bytes - 1, image=base)
    group = fleet.group("metrics", *two, small)
    first = fleet.push(good, "--group", group, "--immediate")
    for device in two:
        fleet.expect_outcome(device, good)
    fleet.expect_outcome(small, good, "failed")
    fleet.expect_told(*two, small)
    expected = {"attempts": 3, "downloads": 2, "installs": 2, "rollbacks": {}, "failures": {"too_large": 1}}
    assert counted(fleet, first["release"]["release_id"]) == expected
    fleet.expect_metrics(first, **expected)
    fleet.expect_metrics(first, active=2, active_percent=66.7, group_devices=3, under_way=0)
    fleet.call("group", "remove", group, "metrics-small")
    second = fleet.push(broken, "--group", group, "--immediate")
    for device in two:
        fleet.expect_outcome(device, broken, "rolled_back")
        device.expect(good)
    fleet.expect_told(*two)
    expected = {"attempts": 2, "downloads": 2, "installs": 0, "rollbacks": {"start_failed": 2}, "failures": {}}
    assert counted(fleet, second["release"]["release_id"]) == expected
    fleet.expect_metrics(second, **expected, active=0)
    fleet.expect_metrics(first, installs=2, active=2, active_percent=100.0)
    row = next(line for line in fleet.call("release", "list", "--group", group).out.splitlines() if "v2 " in line)
    assert row.split()[2:4] == ["17.0.1", "live"]
    page = fleet.call("release", "show", "v2", "--group", group).out
    assert "start_failed=2" in page


def test_active_moves_from_release_to_release_with_the_devices(fleet: Fleet) -> None:
    images = [fleet.images.thermostat(f"17.1.{number}") for number in range(2)]
    devices = [fleet.join(f"active-{number}", image=fleet.images.thermostat("1.0.0")) for number in (1, 2)]
    group = fleet.group("active", *devices)
    pages = []
    for image in images:
        pages.append(fleet.push(image, "--group", group, "--immediate", "--wait"))
        fleet.expect_told(*devices)
    back = fleet.json("release", "rollback", "v1", "--group", group, "--immediate", "--yes", "--wait")
    fleet.expect_told(*devices)
    for page, active in zip((*pages, back), (0, 0, 2), strict=True):
        fleet.expect_metrics(page, installs=2, active=active)


def test_a_download_is_no_install_and_a_trial_is_no_success(fleet: Fleet, tmp_path: Path) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("17.2.0")
    well = tmp_path / "well"
    device = fleet.join("trial-1", image=base, healthy=("test", "-e", well))
    page = fleet.push(image, "--group", fleet.group("trial", device), "--immediate")
    device.expect(image)  # it runs the new version, on trial
    fleet.until(lambda: [row["phase"] for row in fleet.attempts(device)] == ["proving"], "the trial told")
    fleet.expect_metrics(page, downloads=1, installs=0, active=0, under_way=1)
    well.touch()
    fleet.expect_outcome(device, image)
    fleet.expect_metrics(page, downloads=1, installs=1, active=1, under_way=0)
    (attempt,) = fleet.attempts(device)
    assert attempt["booted_digest"] == image.digest == device.seen.current_digest()


def test_a_device_that_later_runs_another_image_takes_its_success_back(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("17.3.0")
    device, other = fleet.join("back-again-1", image=base), fleet.join("back-again-2", image=base)
    group = fleet.group("back-again", device, other)
    page = fleet.push(image, "--group", group, "--immediate", "--wait")
    fleet.expect_metrics(page, installs=2, taken_back=0, active=2)
    device.control("disable", why="so that it does not take it again at once")
    device.stop()
    spoilt = (device.seen.slots / "current" / "image").resolve()
    spoilt.chmod(0o700)
    with spoilt.open("r+b") as file:  # its flash lost a bit: it starts the image before
        file.seek(100)
        file.write(b"\xff")
    device.start()
    device.expect(base)
    fleet.until(lambda: fleet.attempts(device, image)[0]["taken_back_at_ms"], "the success taken back")
    fleet.expect_metrics(page, installs=1, taken_back=1, active=1, active_percent=50.0)
    assert fleet.attempts(device, image)[0]["contradicted_by"] == base.digest
    assert "taken back: it later ran another image" in fleet.call("device", "history", "back-again-1").out
    device.control("enable")
    device.expect(image)
    fleet.expect_outcome(device, image, count=2)
    fleet.expect_metrics(page, installs=2, taken_back=1, active=2)
    assert [bool(row["taken_back_at_ms"]) for row in fleet.attempts(device, image)] == [True, False]


def test_a_label_whose_only_success_was_taken_back_is_not_rolled_back_to(fleet: Fleet) -> None:
    base, image, newer = (fleet.images.thermostat(version) for version in ("1.0.0", "17.4.0", "17.4.1"))
    device = fleet.join("gone-1", image=base)
    group = fleet.group("gone", device)
    fleet.push(image, "--group", group, "--immediate", "--wait")
    device.control("disable")
    device.stop()
    for name in ("a", "b"):  # somebody put the factory's image back, past the agent
        slot = device.seen.slots / name / "image"
        slot.unlink(missing_ok=True)
    device.start()
    device.expect(base)
    fleet.until(lambda: fleet.attempts(device, image)[0]["taken_back_at_ms"], "the success taken back")
    fleet.push(newer, "--group", group)
    said = fleet.call("release", "rollback", "v1", "--group", group, "--yes", expect=5).err
    assert "succeeded on no device" in said
    assert len(fleet.json("release", "list", "--group", group)) == 2
