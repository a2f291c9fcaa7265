"""D6: the cloud sees whether a device is available, and an operator may go over it, explicitly and audited."""

from typing import Any

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
LARGE_BYTES = 12 * 1024 * 1024


def test_the_cloud_shows_each_devices_availability_and_a_release_respects_it(
    device: Watched, factory: Image, images: Images
) -> None:
    device.command("disable", "--until", "2h", "--why", "season")
    device.push(images.thermostat("1.1.0"), "--immediate")
    with device.listening() as ear, ear.updates.hold("calibration", scope=["restart"]):
        device.wait_until(lambda: device.shown()["availability"]["holds"], "the cloud shows the hold")
        device.expect_pending(images.thermostat("1.1.0"), "disabled")
        (row,) = [row for row in device.fleet.json("device", "list") if row["device_id"] == device.device_id]
        assert row["availability"]["enabled"] is False
        assert row["availability"]["disabled_until_ms"] > row["last_seen_at_ms"]
        assert [(hold["why"], hold["scopes"]) for hold in row["availability"]["holds"]] == [
            ("calibration", ["restart"])
        ]
        assert row["pending"][0]["detail"] == "season"
        assert "disabled until" in device.fleet.call("device", "show", device.device_id).out
    device.wait_until(lambda: not device.shown()["availability"]["holds"], "the cloud shows that the hold is over")
    assert device.ends() == []
    device.expect_only(factory)


@pytest.mark.parametrize("kind", ["fleet", "single device"])
def test_a_forced_update_goes_over_the_application_which_is_told_and_it_is_audited(
    workshop: Workshop, factory: Image, images: Images, kind: str
) -> None:
    device = workshop.device(factory, "--window", "65536")
    new = images.thermostat("7.6.0", filler_bytes=LARGE_BYTES)
    device.tell("/updates/disable", why="busy")
    with device.listening() as ear, ear.updates.hold("printing", scope=["download", "install", "restart"]):
        seen: list[tuple[str, bool]] = []
        ear.updates.on("forced", lambda event: seen.append((event["version"], ear.updates.updates_forced)))
        subject = force(device, new, kind)
        device.expect_success(new)
        assert seen == [(new.version, True)]
    device.expect_only(factory, new)
    last = device.application_before(1)
    assert "forced" in [event["event"] for event in last["events"]]
    assert (last["updates_enabled"], last["updates_forced"]) == (False, True)
    assert [row["forced"] for row in device.attempts(new)] == [1]
    decided = device.fleet.api("GET", "/audit", params={"subject": subject})[0]
    assert decided["after"]["forced"] is True
    assert decided["actor"] == "operator"
    assert device.application()["updates_enabled"] is False, "what the application said stands"


def force(device: Watched, image: Image, kind: str) -> str:
    """Force an image; return what the audit calls the decision."""
    page: dict[str, Any]
    if kind == "fleet":
        page = device.push(image, "--immediate", "--force")
        return f"release/{page['release']['release_id']}"
    device.publish(image)
    page = device.fleet.json("ota", device.device_id, image.version, "--force", "--yes")
    return f"ota/{page['ota']['ota_id']}"
