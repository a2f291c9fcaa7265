"""D5: the two sample applications are updated, each by its own rule."""

import pytest

from tests.support.device_world import Watched, Workshop

pytestmark = pytest.mark.broker


def shows(device: Watched, **wanted: object) -> bool:
    """Tell whether the living application shows this."""
    status = device.application()
    return bool(status) and all(status[name] == value for name, value in wanted.items())


def test_the_pump_is_updated_between_its_strokes(workshop: Workshop) -> None:
    old, new = (workshop.sample("busy-pump", version) for version in ("1.0.0", "1.1.0"))
    device = workshop.device(old, product="busy-pump", env={"FLEETLIFT_PUMP_IDLE_S": "2", "FLEETLIFT_PUMP_BUSY_S": "5"})
    device.publish(new)
    strokes = device.application()["strokes"]
    device.wait_until(lambda: shows(device, busy=True, strokes=strokes + 1), "a stroke begins")
    device.fleet.json("ota", device.device_id, new.version)
    device.expect_pending(new, "disabled")
    device.wait_until(lambda: shows(device, updates_pending=True), "the pump sees that something waits")
    assert shows(device, busy=True, updates_enabled=False)
    assert device.ends() == []
    device.expect_success(new)
    device.expect_only(old, new)
    last = device.application_before(1)
    assert (last["version"], last["busy"]) == ("1.0.0", False), "it was stopped in a stroke"
    assert last["strokes"] > strokes
    device.wait_until(lambda: shows(device, busy=True), "the new version pumps")


def test_the_monitor_is_updated_in_its_window_and_never_during_an_infusion(workshop: Workshop) -> None:
    old, new = (workshop.sample("infusion-monitor", version) for version in ("1.0.0", "1.1.0"))
    device = workshop.device(old, "--updates-disabled", product="infusion-monitor")
    device.push(new, "--immediate")
    device.expect_pending(new, "disabled")
    device.wait_until(lambda: shows(device, prompt="version 1.1.0 waits for the update window"), "the bedside prompt")
    device.tell("/infusion/start")
    device.wait_until(lambda: shows(device, infusing=True), "an infusion runs")
    device.tell("/window/open")
    device.wait_until(lambda: device.shown()["availability"]["holds"], "the cloud shows the infusion's hold")
    device.check()
    (hold,) = device.shown()["availability"]["holds"]
    assert (hold["why"], sorted(hold["scopes"])) == ("infusion runs", ["download", "install", "restart"])
    assert device.shown()["availability"]["enabled"] is False
    assert device.ends() == []
    assert shows(device, infusing=True, version="1.0.0")
    device.tell("/infusion/stop")  # the window is open: now it may
    device.expect_success(new)
    device.expect_only(old, new)
    assert device.application_before(1)["infusing"] is False
    device.wait_until(lambda: shows(device, updates_enabled=False), "disabled is its normal state again")
