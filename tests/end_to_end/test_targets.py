"""Which installed versions a release applies on: exact, by build, in a range; parallel lines; nobody (R10, R22)."""

import pytest

from tests.support.fleet import Fleet


def test_parallel_lines_are_maintained_side_by_side(fleet: Fleet) -> None:
    old, new = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("2.10.0")
    first, second = fleet.join("line-1", image=old), fleet.join("line-2", image=new)
    group = fleet.group("lines", first, second)
    patches = [fleet.images.thermostat(version) for version in ("1.14.0", "2.14.0", "1.14.1", "2.14.1")]
    for image, line, device in zip(patches, ("1.x", "2.x") * 2, (first, second) * 2, strict=True):
        page = fleet.push(image, "--group", group, "--range", line, "--immediate")
        assert page["forecast"]["takes"] == [device.device_id]
        (other,) = page["forecast"]["holds"]
        assert other["reason"] == "target_range"
        assert f"against {line}" in other["detail"]
        device.expect(image)
        fleet.expect_outcome(device, image)
    fleet.settle(first, second)
    fleet.expect_moves(first, patches[0], patches[2])
    fleet.expect_moves(second, patches[1], patches[3])


def test_old_and_new_hardware_follow_their_own_firmware(fleet: Fleet) -> None:
    product = fleet.product("boiler", "board-1", "board-2")
    old = fleet.join("board-1", "--hardware", "board-1", product=product)
    new = fleet.join("board-2", "--hardware", "board-2", product=product)
    images = {}
    for device, board, version in ((old, "board-1", "1.14.3"), (new, "board-2", "2.14.3")):
        images[device] = fleet.images.thermostat(version)
        page = fleet.push(images[device], "--product", product, "--hardware", board, "--immediate")
        assert page["forecast"]["takes"] == [device.device_id]
        assert [hold["reason"] for hold in page["forecast"]["holds"]] == ["hardware"]
    for device in (old, new):
        device.expect(images[device])
    fleet.settle(old, new)
    for device in (old, new):
        fleet.expect_moves(device, images[device])


@pytest.mark.parametrize(
    ("number", "matching", "other"),
    [
        (0, "1.0.0", "1.0.1"),
        (1, "build=100", "build=101"),
        (2, ">=0.9.0 <1.0.1", ">1.0.0"),
        (3, "app:1.x || 7.x", "!=1.0.0"),
        (4, "app:1.0.0", "os:>=0.0.1"),
    ],
)
def test_a_release_applies_on_exactly_what_it_names(fleet: Fleet, number: int, matching: str, other: str) -> None:
    base = fleet.images.thermostat("1.0.0")
    assert base.build == 100
    device = fleet.join(f"named-{number}", image=base)
    group = fleet.group(f"named-{number}", device)
    fleet.push(base, "--group", group, "--immediate")  # what applies on those that nothing newer names
    passed_by = fleet.images.thermostat(f"14.1.{number}")
    assert fleet.push(passed_by, "--group", group, "--range", other, "--immediate")["forecast"]["reach"] == 0
    wanted = fleet.images.thermostat(f"14.2.{number}")
    assert fleet.push(wanted, "--group", group, "--range", matching, "--immediate")["forecast"]["reach"] == 1
    device.expect(wanted)
    fleet.expect_outcome(device, wanted)
    fleet.settle(device)
    fleet.expect_moves(device, wanted)  # though what it runs now is not what the release names


def test_a_release_that_applies_on_nobody_is_made_says_so_and_waits_for_somebody(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("14.3.0")
    device = fleet.join("nobody-1", image=base)
    group = fleet.group("nobody", device)
    said = fleet.call("release", "push", image.path, "--group", group, "--range", "9.9.9", "--immediate", "--yes")
    assert f"app 14.3.0 to {group}: reaches nobody, because no device runs a version in 9.9.9" in said.out
    assert f"thermostat/{group}/app v1 is released" in said.out
    waited = fleet.json("release", "list", "--group", group)
    assert [page["release"]["live"] for page in waited] == [True]
    fleet.settle(device)
    fleet.expect_moves(device)
    assert device.runs(base)
    newcomer = fleet.join("nobody-2", image=fleet.images.thermostat("9.9.9"))
    fleet.call("group", "add", group, "nobody-2")
    newcomer.expect(image)


def test_an_empty_group_is_released_to_and_says_so(fleet: Fleet) -> None:
    group = fleet.group("empty")
    image = fleet.images.thermostat("14.4.0")
    said = fleet.call("release", "push", image.path, "--group", group, "--immediate", "--yes", "--wait")
    assert "reaches nobody, because the group has no devices yet" in said.out
    assert "o device is to take it" in said.out
