"""A share of the devices, by a hash that anybody can compute; and changes for those not reached yet (R5, R6)."""

import itertools
from collections.abc import Iterator

from tests.cloud.homes import PRODUCT
from tests.support.fleet import Device, Fleet, bucket
from tests.support.images import Image


def covered_first(fleet: Fleet, image: Image, group: str, devices: list[Device]) -> dict[str, int]:
    """Release an image to 40 %, which covers two of four devices, as 70 % would cover three; return their places."""
    fleet.call("firmware", "upload", image.path)
    request = {"product": PRODUCT, "group": group, "component": "app", "version": image.version, "percentage": 40}
    ids = [device.device_id for device in devices]

    def suits(release_id: str) -> bool:
        places = sorted(bucket(device_id, release_id) for device_id in ids)
        return places[1] < 40 <= places[2] < 70 <= places[3]

    forecast = fleet.forecast_for(request | {"urgency": "immediate"}, suits)
    places = {device_id: bucket(device_id, forecast["release_id"]) for device_id in ids}
    assert sorted(forecast["takes"]) == sorted(device_id for device_id in ids if places[device_id] < 40)
    release = request | {"urgency": "immediate", "release_id": forecast["release_id"]}
    fleet.api("POST", "/releases", release, expect=201)
    return places


def ids_of(release_id: str, prefix: str, *, low: int, high: int) -> Iterator[str]:
    names = (f"{prefix}-{number}" for number in itertools.count())
    return (name for name in names if low <= bucket(name, release_id) < high)


def test_exactly_the_covered_devices_move_and_raising_keeps_them(fleet: Fleet) -> None:
    base, new = fleet.images.thermostat("13.0.0"), fleet.images.thermostat("13.0.1")
    devices = [fleet.join(f"share-{number}", image=base) for number in range(4)]
    group = fleet.group("share", *devices)
    fleet.push(base, "--group", group)
    places = covered_first(fleet, new, group, devices)
    first, second, third, last = sorted(devices, key=lambda device: places[device.device_id])
    for device in (first, second):
        device.expect(new)
        fleet.expect_outcome(device, new)
    fleet.settle(third, last)
    fleet.expect_moves(third)
    fleet.expect_moves(last)
    assert third.runs(base)
    pids = [first.pid, second.pid]
    said = fleet.call("release", "patch", "v2", "--group", group, "--percentage", 39, expect=5).err
    assert "a percentage only rises" in said
    fleet.call("release", "patch", "v2", "--group", group, "--percentage", 70)
    third.expect(new)
    fleet.settle(first, second, last)
    fleet.expect_moves(last)
    assert last.runs(base), "a device outside the percentage stays on the release before"
    fleet.call("release", "patch", "v2", "--group", group, "--percentage", 100)
    last.expect(new)
    fleet.settle(*devices)
    for device in devices:
        fleet.expect_moves(device, new)
    assert [first.pid, second.pid] == pids, "a device that was in has been touched again"


def test_a_newcomer_gets_what_its_place_says(fleet: Fleet) -> None:
    base, new = fleet.images.thermostat("13.1.0"), fleet.images.thermostat("13.1.1")
    group = fleet.group("newcomers")
    fleet.push(base, "--group", group)
    release_id = fleet.push(new, "--group", group, "--percentage", 30)["release"]["release_id"]
    inside = fleet.enrol(next(ids_of(release_id, "inside", low=0, high=30)), "--group", group)
    outside = fleet.enrol(next(ids_of(release_id, "outside", low=30, high=100)), "--group", group)
    for device, image in ((inside, new), (outside, base)):
        device.start()
        device.expect(image)
        fleet.expect_outcome(device, image)
        fleet.settle(device)
        fleet.expect_moves(device, image)


def test_a_patch_reaches_only_those_not_reached_yet(fleet: Fleet) -> None:
    base, new = fleet.images.thermostat("13.2.0"), fleet.images.thermostat("13.2.1")
    early, late = fleet.join("early-1", image=base), fleet.join("early-2", image=base)
    group = fleet.group("patched", early, late)
    fleet.push(new, "--group", group)
    for device in (early, late):
        fleet.expect_waiting(device, "next_session")
    early.check()
    fleet.expect_outcome(early, new)
    pid = early.pid
    assert late.control("status")["status"]["pending"]["mandatory"] is False
    patched = fleet.json("release", "patch", "v1", "--group", group, "--mandatory", "--description", "for all")
    assert (patched["release"]["mandatory"], patched["release"]["description"]) == (True, "for all")
    notice = int(fleet.query("SELECT notice_seq FROM channel WHERE group_name = ?", group)[0]["notice_seq"])
    fleet.until(lambda: late.heard(f"{group}/app") == notice and bool(late.pending()["mandatory"]), "the change heard")
    assert late.runs(base), "a patch is no reason to take a gradual release"
    fleet.call("release", "patch", "v1", "--group", group, "--immediate")
    late.expect(new)
    fleet.expect_outcome(late, new)
    fleet.settle(early)
    fleet.expect_moves(early, new)
    assert early.pid == pid


def test_a_disabled_release_is_not_patched(fleet: Fleet) -> None:
    new = fleet.images.thermostat("13.3.0")
    group = fleet.group("frozen")
    fleet.push(new, "--group", group, "--percentage", 10)
    fleet.call("release", "disable", "v1", "--group", group)
    before = fleet.query("SELECT * FROM release WHERE group_name = ?", group)
    for change in (("--percentage", 100), ("--mandatory",), ("--description", "x"), ("--immediate",)):
        said = fleet.call("release", "patch", "v1", "--group", group, *change, expect=5).err
        assert "is disabled; enable it first; nothing was changed" in said
    assert fleet.query("SELECT * FROM release WHERE group_name = ?", group) == before
