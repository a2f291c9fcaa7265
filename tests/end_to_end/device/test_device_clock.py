"""A device's clock may be anything: in 1970 it updates all the same, ten years ahead it waits for the right time."""

import pytest

from device_agent.sdk import Updates, UpdatesError
from device_agent.trust import refreshed_at_s
from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images
from tests.support.wrong_clocks import IN_1970, TEN_YEARS_AHEAD, agent_with_clock

pytestmark = pytest.mark.broker


def problem(device: Watched) -> str:
    """What its agent says about the broker."""
    try:
        with Updates(device.state_dir / "control.sock", required=True) as agent:
            return str(agent.status().get("broker", {}).get("problem"))
    except UpdatesError:
        return ""


def test_a_device_that_wakes_in_1970_connects_and_updates(workshop: Workshop, factory: Image, images: Images) -> None:
    device = workshop.enrol(factory)
    device.begin(program=agent_with_clock(device.device.directory, IN_1970))
    new = images.thermostat("1.19.70")
    device.push(new)
    device.check()
    device.expect_success(new)
    device.end()


def test_ten_years_ahead_nothing_is_installed_and_nothing_is_lost(
    workshop: Workshop, factory: Image, images: Images
) -> None:
    device = workshop.device(factory)
    device.end()
    new = images.thermostat("1.20.36")
    device.push(new)
    floor_s = refreshed_at_s(device.state_dir / "metadata")
    device.start(program=agent_with_clock(device.device.directory, TEN_YEARS_AHEAD))
    device.wait_until(lambda: "or this device's clock is wrong (it says 20" in problem(device), "it says what is wrong")
    assert device.attempts(new) == []
    device.end()
    assert set(device.versions()) == {factory.version}
    assert refreshed_at_s(device.state_dir / "metadata") == floor_s
    device.begin()
    device.expect_success(new)
