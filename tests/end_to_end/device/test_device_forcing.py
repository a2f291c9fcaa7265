"""D6: the cloud sees whether a device is available, and an operator may go over it, explicitly and audited."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support.device_world import Watched
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker


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
    device: Watched, factory: Image, images: Images, kind: str
) -> None:
    new, server = images.thermostat("1.1.0"), device.fleet.office.server
    assert server is not None
    device.tell("/updates/disable", why="busy")
    with device.listening() as ear, ear.updates.hold("printing", scope=["download", "install", "restart"]):
        seen: list[tuple[str, bool]] = []
        ear.updates.on("forced", lambda event: seen.append((event["version"], ear.updates.updates_forced)))
        with ExitStack() as later:
            with frozen(device.agent.pid):
                subject = force(device, new, kind)
                device.wait_until(lambda: not device.fleet.query("SELECT * FROM outbox"), "the broker has it")
                later.enter_context(frozen(server.pid))  # nobody answers the download yet
            device.wait_until(lambda: device.application()["updates_forced"], "the application sees updates_forced")
            device.wait_until(lambda: "forced" in events_of(device), "its handler is called")
            assert device.application()["updates_enabled"] is False
            assert device.application()["version"] == factory.version
        device.expect_success(new)
        assert seen == [(new.version, True)]
    device.expect_only(factory, new)
    assert [row["forced"] for row in device.attempts(new)] == [1]
    decided = device.fleet.api("GET", "/audit", params={"subject": subject})[0]
    assert decided["after"]["forced"] is True
    assert decided["actor"] == "operator"
    device.wait_until(lambda: device.application()["updates_enabled"] is False, "what the application said stands")


def events_of(device: Watched) -> list[str]:
    return [event["event"] for event in device.application()["events"]]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for a while, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def force(device: Watched, image: Image, kind: str) -> str:
    """Force an image; return what the audit calls the decision."""
    page: dict[str, Any]
    if kind == "fleet":
        page = device.push(image, "--immediate", "--force")
        return f"release/{page['release']['release_id']}"
    device.publish(image)
    page = device.fleet.json("ota", device.device_id, image.version, "--force", "--yes")
    return f"ota/{page['ota']['ota_id']}"
