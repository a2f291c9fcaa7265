"""D13: a version that does not start, is not well, or whose trial is interrupted gives way to the version before."""

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
FAILS_AFTER_S = 1.0


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


@pytest.fixture
def crashing(images: Images) -> Image:
    return images.thermostat("7.13.1", crashes="the sensor's driver is missing")


@pytest.fixture
def sick(images: Images) -> Image:
    """Passes its first second, and no more."""
    return images.thermostat("7.13.0", fails_after_s=FAILS_AFTER_S)


def expect_given_up(device: Watched, factory: Image, bad: Image, reason: str) -> None:
    """Check that a device came back, says why, and does not try that image again until it is told to."""
    device.expect_ends(bad, ("rolled_back", reason))
    device.expect(factory)
    device.expect_pending(bad, "failed_before")
    device.check()
    device.expect_only(factory, bad, factory)
    assert device.shown()["failed"] == [bad.digest]


def test_a_version_that_crashes_gives_way(device: Watched, factory: Image, crashing: Image) -> None:
    with device.listening() as ear:
        device.push(crashing, "--immediate")
        assert ear.expect("update_rolled_back")["reason"] == "start_failed"
    expect_given_up(device, factory, crashing, "start_failed")
    assert "the sensor's driver" in (device.slots / "application.log").read_text(encoding="utf-8")


def test_a_version_that_turns_out_sick_gives_way(device: Watched, factory: Image, sick: Image) -> None:
    device.push(sick, "--immediate")
    expect_given_up(device, factory, sick, "health_failed")
    _, tried, back = device.starts()
    assert back.at - tried.at > FAILS_AFTER_S, "it was healthy at first"


def test_what_failed_is_tried_again_when_an_operator_says_so(device: Watched, factory: Image, crashing: Image) -> None:
    device.push(crashing, "--immediate")
    device.expect_ends(crashing, ("rolled_back", "start_failed"))
    device.fleet.json("ota", device.device_id, crashing.version, "--wait", "--timeout", "60", expect=1)
    assert device.ends(crashing) == [("rolled_back", "start_failed")] * 2
    device.expect_only(factory, crashing, factory, crashing, factory)


def test_a_version_that_does_not_confirm_itself_gives_way(workshop: Workshop, factory: Image, new: Image) -> None:
    """The samples confirm themselves; this one has no line to its agent."""
    deaf = ("env", "-u", "FLEETLIFT_CONTROL_SOCKET")
    device = workshop.device(factory, "--confirm", "--prove-timeout", "4", prefix=deaf)
    device.push(new, "--immediate")
    device.expect_ends(new, ("rolled_back", "not_confirmed"))
    device.expect_only(factory, new, factory)


def test_a_trial_outlives_its_agent(device: Watched, factory: Image, new: Image) -> None:
    device.push(new, "--immediate")
    device.wait_until(lambda: len(device.starts()) == 2, "the trial begins")
    device.kill()
    assert device.ends(new)[0][0] != "succeeded"
    tried = device.starts()[1].pid
    device.start()
    device.expect_success(new)
    assert device.application()["pid"] == tried, "the next agent went on with the process that was on trial"
    device.expect_only(factory, new)


def test_a_sick_version_gives_way_to_the_next_agent_too(workshop: Workshop, factory: Image, sick: Image) -> None:
    device = workshop.device(factory, "--prove-timeout", "5")
    device.push(sick, "--immediate")
    device.wait_until(lambda: len(device.starts()) == 2, "the trial begins")
    device.kill()
    device.start()
    expect_given_up(device, factory, sick, "health_failed")


def test_a_trial_that_a_power_cut_interrupts_starts_over(device: Watched, factory: Image, new: Image) -> None:
    device.push(new, "--immediate")
    device.wait_until(lambda: len(device.starts()) == 2, "the trial begins")
    device.cut_power()
    device.start()
    device.expect_success(new)
    device.expect_only(factory, new, new)


def test_a_version_in_whose_trials_the_power_fails_each_time_gives_way(
    device: Watched, factory: Image, new: Image
) -> None:
    """Perhaps it is what makes the power fail."""
    device.push(new, "--immediate")
    for trial in (1, 2, 3):
        device.wait_until(lambda trial=trial: len(device.starts()) == 1 + trial, f"trial {trial} begins")  # type: ignore[misc]
        device.cut_power()
        device.start()
    device.expect_ends(new, ("rolled_back", "interrupted"))
    device.expect_only(factory, new, new, new, factory)
