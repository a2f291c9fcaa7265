"""Labels and their life: what is Live, what a brake and a roll-back do (R3, R4, R7, R8, R11)."""

import re
from typing import Any

from tests.support.fleet import Fleet


def labels(fleet: Fleet, group: str, component: str = "app") -> list[tuple[int, str, bool]]:
    """Each release of a channel: label, version, whether it is Live; newest first."""
    pages = fleet.json("release", "list", "--group", group, "--component", component)
    return [(p["release"]["label"], p["release"]["firmware"]["version"], p["release"]["live"]) for p in pages]


def test_labels_count_up_per_channel_and_only_for_what_was_published(fleet: Fleet) -> None:
    first, second = fleet.images.thermostat("11.0.0"), fleet.images.thermostat("11.0.1")
    device = fleet.join("labels-1")
    group, other = fleet.group("labels-a", device), fleet.group("labels-b")
    assert fleet.push(first, "--group", group, "--immediate")["release"]["label"] == 1
    source = fleet.office.application("print('other')", name="labels")
    fleet.call("release", "push", source, "--version", "11.0.0", "--group", group, "--yes", expect=5)
    fleet.call("release", "push", second.path, "--group", group, "--range", ">>1", "--yes", expect=2)
    assert fleet.push(second, "--group", group, "--immediate")["release"]["label"] == 2
    assert fleet.push(second, "--group", other)["release"]["label"] == 1
    source = fleet.office.application("print('panel')", name="panel")
    panel = ("--component", "panel", "--version", "11.0.0", "--group", group, "--yes")
    assert fleet.json("release", "push", source, *panel)["release"]["label"] == 1
    assert labels(fleet, group) == [(2, "11.0.1", True), (1, "11.0.0", False)]
    device.expect(second)
    rows = fleet.query("SELECT label FROM release WHERE group_name = ? AND component = 'app' ORDER BY label", group)
    assert [row["label"] for row in rows] == [1, 2]


def test_a_device_that_comes_late_takes_what_is_live_and_nothing_before(fleet: Fleet) -> None:
    images = [fleet.images.thermostat(f"11.1.{number}") for number in range(5)]
    device = fleet.enrol("late-1")
    group = fleet.group("late", device)
    for image in images:
        fleet.push(image, "--group", group)
    assert labels(fleet, group)[0] == (5, "11.1.4", True)
    assert not any(live for _, _, live in labels(fleet, group)[1:])
    device.start()
    device.expect(images[-1])
    fleet.expect_outcome(device, images[-1])
    fleet.settle(device)
    fleet.expect_moves(device, images[-1])


def test_disabling_makes_the_release_before_live_and_devices_return_to_it(fleet: Fleet) -> None:
    one, two, three = (fleet.images.thermostat(f"11.2.{number}") for number in range(3))
    device = fleet.join("brake-1")
    group = fleet.group("brake", device)
    for image in (one, two, three):
        fleet.push(image, "--group", group, "--immediate", "--wait")
    assert device.runs(three)
    assert "v2 (11.2.1) is Live" in fleet.call("release", "disable", "v3", "--group", group).out
    assert [live for _, _, live in labels(fleet, group)] == [False, True, False]
    device.expect(two)
    assert "enabled and Live" in fleet.call("release", "enable", "v3", "--group", group).out
    device.expect(three)
    fleet.call("release", "disable", "v2", "--group", group)
    assert "v1 (11.2.0) is Live" in fleet.call("release", "disable", "v3", "--group", group).out
    device.expect(one)
    assert "nothing is Live" in fleet.call("release", "disable", "v1", "--group", group).out
    fleet.settle(device)
    fleet.expect_moves(device, one, two, three, two, three, one)


def test_rolling_back_makes_a_new_label_that_references_the_earlier_one(fleet: Fleet) -> None:
    one, two, three = (fleet.images.thermostat(f"11.3.{number}") for number in range(3))
    device, away = fleet.join("back-1"), fleet.join("back-2")
    group = fleet.group("back", device, away)
    for image in (one, two, three):
        fleet.push(image, "--group", group, "--immediate", "--wait")
    away.stop()
    back = fleet.json("release", "rollback", "v2", "--group", group, "--immediate", "--yes")["release"]
    assert (back["label"], back["references_label"], back["live"]) == (4, 2, True)
    assert (back["firmware"]["digest"], back["percentage"], back["enabled"]) == (two.digest, 100, True)
    assert "v4 (references v2)" in fleet.call("release", "list", "--group", group).out
    assert labels(fleet, group) == [
        (4, "11.3.1", True),
        (3, "11.3.2", False),
        (2, "11.3.1", False),
        (1, "11.3.0", False),
    ]
    device.expect(two)
    away.start()  # like any release it reaches those that come later
    away.expect(two)
    fleet.expect_outcome(device, two, count=2)


def test_only_what_succeeded_and_is_not_live_is_rolled_back_to(fleet: Fleet) -> None:
    good, broken = fleet.images.thermostat("11.4.0"), fleet.images.thermostat("11.4.1", fails_after_s=0.0)
    device = fleet.join("success-1", "--prove-timeout", 2, image=fleet.images.thermostat("1.0.0"))
    group = fleet.group("success", device)
    fleet.push(good, "--group", group, "--range", "77.x")  # reaches nobody, so succeeds nowhere
    fleet.push(broken, "--group", group, "--immediate", "--wait", expect=1)
    third = fleet.images.thermostat("11.4.2")
    fleet.push(third, "--group", group, "--immediate", "--wait")
    for label in ("v1", "v2"):
        said = fleet.call("release", "rollback", label, "--group", group, "--yes", expect=5)
        assert "succeeded on no device" in said.err
        assert "nothing was changed" in said.err
    assert "Live already" in fleet.call("release", "rollback", "v3", "--group", group, "--yes", expect=5).err
    assert "no v9" in fleet.call("release", "rollback", "v9", "--group", group, "--yes", expect=1).err
    assert labels(fleet, group)[0] == (3, "11.4.2", True)
    fleet.settle(device)
    fleet.expect_moves(device, broken, third)


def test_a_release_shows_all_that_was_decided(fleet: Fleet) -> None:
    image = fleet.images.thermostat("11.5.0")
    device = fleet.join("shows-1", image=fleet.images.thermostat("1.0.0"))
    group = fleet.group("shows", device)
    page: dict[str, Any] = fleet.push(
        *(image, "--group", group, "--immediate", "--mandatory", "--range", "1.x", "--description", "quieter fan"),
        "--wait",
    )
    shown = fleet.json("release", "show", "v1", "--group", group)["release"]
    assert shown["release_id"] == page["release"]["release_id"]
    assert (shown["label"], shown["live"], shown["mandatory"]) == (1, True, True)
    assert (shown["target_range"], shown["description"]) == ("1.x", "quieter fan")
    assert shown["duration_s"] >= 0
    text = fleet.call("release", "show", shown["release_id"]).out
    lines = {
        name: value.strip() for name, value in (re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines())
    }
    assert lines["deployment id"] == shown["release_id"]
    assert (lines["label"], lines["state"], lines["mandatory"]) == ("v1", "live", "yes")
    assert (lines["target range"], lines["description"], lines["version"]) == ("1.x", "quieter fan", "11.5.0")
    assert lines["live for"].endswith(" s")
    assert fleet.attempts(device, image)[0]["source_id"] == shown["release_id"]
    fleet.call("release", "disable", "v1", "--group", group)
    stopped = fleet.json("release", "show", "v1", "--group", group)["release"]
    assert (stopped["live"], stopped["enabled"]) == (False, False)
    assert "was live for" in fleet.call("release", "show", "v1", "--group", group).out
