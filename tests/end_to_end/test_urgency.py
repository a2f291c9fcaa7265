"""Gradual and immediate: when a device takes what is released (R13, R14)."""

from tests.support.fleet import Device, Fleet
from tests.support.images import Image


def gradual(fleet: Fleet, device: Device, image: Image, group: str) -> int:
    """Release gradually to a device that is online; returns, when it shows as pending, the device's session."""
    fleet.push(image, "--group", group)
    fleet.expect_waiting(device, "next_session")
    return int(fleet.row(device)["session"])


def test_a_gradual_release_is_not_taken_in_mid_session_and_is_at_a_check(fleet: Fleet) -> None:
    before, after = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.0.0")
    device = fleet.join("check-1", image=before)
    group = fleet.group("check", device)
    session = gradual(fleet, device, after, group)
    again = fleet.group("check-more", device)  # another decision about it: news, and no start of a session
    assert device.runs(before)
    assert (fleet.attempts(device), device.seen.current_slot()) == ([], "a")
    assert device.control("status")["status"]["pending"]["version"] == "12.0.0"
    assert again in fleet.json("device", "show", "check-1")["groups"]
    device.check()
    device.expect(after)
    fleet.expect_outcome(device, after)
    assert fleet.row(device)["session"] == session, "it was no check, but a new session"


def test_a_gradual_release_is_taken_at_the_start_of_the_next_session(fleet: Fleet) -> None:
    before, after = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.1.0")
    device = fleet.join("session-1", image=before)
    group = fleet.group("session", device)
    session = gradual(fleet, device, after, group)
    assert fleet.attempts(device) == []
    agent = device.agent
    with fleet.double(device):  # takes the connection from it: the agent has to connect again
        pass
    device.expect(after)
    fleet.expect_outcome(device, after)
    assert fleet.row(device)["session"] > session
    assert device.agent is agent
    assert not device.has_ended()


def test_a_gradual_release_is_taken_when_the_agent_starts(fleet: Fleet) -> None:
    before, after = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.2.0")
    device = fleet.join("start-1", image=before)
    gradual(fleet, device, after, fleet.group("start", device))
    device.restart()
    device.expect(after)


def test_what_runs_already_is_not_taken_again_at_a_start(fleet: Fleet) -> None:
    image = fleet.images.thermostat("12.3.0")
    # The application starts only once the cloud has answered: the decision comes first.
    device = fleet.join("again-1", "--startup-wait", 60)
    fleet.push(image, "--group", fleet.group("again", device), "--immediate", "--mandatory")
    device.expect(image)
    for _ in range(2):
        session = fleet.row(device)["session"]
        device.restart()
        device.expect(image)
        fleet.settle(device)
        assert fleet.row(device)["session"] > session
    fleet.expect_moves(device, image)


def test_an_immediate_release_is_taken_in_real_time_by_those_that_are_online(fleet: Fleet) -> None:
    before, after = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.4.0")
    online, offline = fleet.join("now-1", image=before), fleet.join("now-2", image=before)
    group = fleet.group("now", online, offline)
    offline.stop()
    fleet.until(lambda: not fleet.query("SELECT 1 FROM outbox"), "all told of the group")
    session, answered = fleet.row(online)["session"], fleet.row(online)["desired_seq"]
    fleet.push(after, "--group", group, "--immediate")
    online.expect(after)
    row = fleet.row(online)
    assert (row["session"], row["desired_seq"]) == (session, answered), "it had to ask, or to be told alone"
    assert offline.seen.current_digest() == before.digest
    offline.start()
    offline.expect(after)


def test_a_gradual_release_is_made_immediate_in_one_action(fleet: Fleet) -> None:
    before, after = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("12.5.0")
    device = fleet.join("hurry-1", image=before)
    group = fleet.group("hurry", device)
    session = gradual(fleet, device, after, group)
    said = fleet.call("release", "now", "v1", "--group", group, "--yes")
    assert "v1 is immediate" in said.out
    device.expect(after)
    fleet.expect_outcome(device, after)
    assert fleet.row(device)["session"] == session
