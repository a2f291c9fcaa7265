"""A release is followed by its id through the logs of both sides: from the request to the device's journal."""

import json
import subprocess
from typing import Any

from tests.support.fleet import Fleet


def said(fleet: Fleet, *words: str) -> list[str]:
    """What `grep -h WORD SERVER-LOG DEVICE-LOG... | sort` says, as docs/observability.md shows it."""
    (word,) = words
    assert fleet.office.server is not None
    logs = [fleet.office.server.log_path, *(device.agent.log_path for device in fleet.devices if device.agent)]
    found = subprocess.run(["/bin/grep", "-h", "-e", word, *logs], capture_output=True, text=True, check=True)
    return sorted(found.stdout.splitlines())


def places(lines: list[str], *words: str) -> list[int]:
    """Where lines with these words stand."""
    return [next((number for number, line in enumerate(lines) if word in line), -1) for word in words]


def test_one_grep_follows_a_release_over_both_sides(fleet: Fleet) -> None:
    device = fleet.join("follow-1", image=fleet.images.thermostat("1.0.0"))
    other = fleet.join("follow-2", image=fleet.images.thermostat("1.0.0"))
    group = fleet.group("follow", device)
    image, broken = fleet.images.thermostat("41.0.0"), fleet.images.thermostat("41.0.1", crashes="no sensor")
    release = fleet.push(image, "--group", group, "--immediate")["release"]
    fleet.expect_outcome(device, image)
    fleet.expect_told(device)
    (attempt,) = fleet.attempts(device, image)
    fleet.until(lambda: "has succeeded" in "\n".join(said(fleet, release["release_id"])), "the agent's last line")
    lines = said(fleet, release["release_id"])
    found = places(lines, "release.created", "is published", "device.began", "device.updated")
    assert -1 not in found, "\n".join(lines)
    assert found[0] < found[1] < found[3], "\n".join(lines)
    of_device = [line for line in lines if "device_agent." in line]
    assert -1 not in places(of_device, "downloading", "proving", "has succeeded"), "\n".join(lines)
    assert all(attempt["attempt_id"] in line for line in of_device)
    assert f"label=v{release['label']}" in lines[found[3]]
    assert "device_id=follow-1" in lines[found[3]]
    assert not [line for line in lines if other.device_id in line]
    entries: list[dict[str, Any]] = [json.loads(row["body"]) for row in device.journal("SELECT body FROM told")]
    entries += [json.loads(row["body"]) for row in device.journal("SELECT body FROM entries")]
    assert {it["attempt"]["attempt_id"] for it in entries if it.get("attempt")} <= {attempt["attempt_id"]}
    request_id = fleet.query("SELECT origin FROM audit WHERE subject = ?", f"release/{release['release_id']}")[0]
    of_request = said(fleet, json.loads(request_id["origin"])["request"])
    assert -1 not in places(of_request, "release.created", "POST /api/v1/releases", "is published")

    second = fleet.push(broken, "--group", group, "--immediate")["release"]
    fleet.expect_outcome(device, broken, "rolled_back")
    fleet.expect_told(device)
    fleet.until(lambda: "been rolled back" in "\n".join(said(fleet, second["release_id"])), "the agent's last line")
    lines = said(fleet, second["release_id"])
    assert -1 not in places(lines, "device.rolled_back", "has been rolled back: start_failed"), "\n".join(lines)
    assert not [line for line in lines if release["release_id"] in line and "is published" not in line]
