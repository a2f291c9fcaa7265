"""D12, D17 and D18: what runs was received whole, fits this device, and is to the letter what was signed offline."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
CHUNKS = 4 * 65536


def turn_a_bit(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(CHUNKS // 2)
        byte = file.read(1)[0]
        file.seek(CHUNKS // 2)
        file.write(bytes([byte ^ 1]))


def cut_short(image: Path) -> None:
    os.truncate(image, image.stat().st_size - 1)


def rot(image: Path) -> None:
    """Turn a bit as a worn flash does: no date tells of it."""
    before = image.stat()
    turn_a_bit(image)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("spoil", [turn_a_bit, cut_short, rot])
def test_what_is_spoilt_on_the_disk_before_it_is_installed_never_runs(
    workshop: Workshop, factory: Image, images: Images, spoil: Callable[[Path], None]
) -> None:
    new = images.thermostat("7.12.0", filler_bytes=CHUNKS)
    device = workshop.device(factory, updates={"install": "next_start"})
    with device.listening() as ear:
        device.push(new, "--immediate")
        ear.expect("update_ready")
    spoil(device.slots / "target")
    device.tell("/updates/ready")
    device.wait_until(lambda: device.attempts(new) and device.attempts(new)[0]["outcome"], "its end is reported")
    # What no date tells of is found when it is about to start.
    assert device.ends(new) == [("rolled_back", "wrong_boot") if spoil is rot else ("failed", "digest_mismatch")]
    device.wait_until(lambda: device.runs(factory), "the version before runs")
    assert new.digest not in {start.digest for start in device.starts()}
    assert set(device.versions()) == {factory.version}


def test_an_installed_image_that_is_spoilt_later_is_not_started_again_but_repaired(
    device: Watched, factory: Image, images: Images
) -> None:
    new = images.thermostat("7.12.0", filler_bytes=CHUNKS)
    device.push(new, "--immediate")
    device.expect_success(new)
    device.end()
    rot(device.slots / "current" / "image")
    device.begin()
    device.expect_ends(new, ("succeeded", None), ("succeeded", None))
    device.expect_only(factory, new, factory, new)
    device.wait_until(
        lambda: [bool(row["taken_back_at_ms"]) for row in device.attempts(new)] == [True, False],
        "the first success is taken back",
    )


def test_firmware_for_other_hardware_is_refused_by_the_cloud_and_by_the_device(
    device: Watched, factory: Image, images: Images
) -> None:
    foreign = images.thermostat("7.17.0", hardware=("raspberrypi5",))
    fitting = images.thermostat("1.1.0")
    page = device.push(foreign, "--immediate")
    assert page["forecast"]["reach"] == 0
    assert [(item["device_id"], item["reason"]) for item in page["forecast"]["holds"]] == [
        (device.device_id, "hardware")
    ]
    refused = device.fleet.call("ota", device.device_id, foreign.version, expect=5)
    assert "raspberrypi4" in refused.err
    device.fleet.call("device", "lock", device.device_id, foreign.version, expect=5)
    decide_behind_the_clouds_back(device, foreign)
    device.expect_only(factory)
    assert device.ends() == []
    undecide(device)
    device.publish(fitting)
    device.fleet.json("ota", device.device_id, fitting.version)
    device.expect_success(fitting)
    device.expect_only(factory, fitting)
    assert device.ends(foreign) == []


@pytest.mark.parametrize("needs", [("--agent", "99.0.0"), ("--requires", "app=>=1.5.0"), ("--requires", "os=>=1.0.0")])
def test_firmware_whose_requirements_are_not_met_is_refused_by_the_cloud_and_by_the_device(
    device: Watched, factory: Image, images: Images, needs: tuple[str, str]
) -> None:
    demanding = images.thermostat(f"7.17.{len(needs[1])}")
    device.publish(demanding, *needs)
    page = device.push(demanding, "--immediate")
    assert page["forecast"]["reach"] == 0
    assert [item["reason"] for item in page["forecast"]["holds"]] == ["requirement"]
    device.check()
    decide_behind_the_clouds_back(device, demanding)
    device.check()
    device.expect_only(factory)
    assert device.ends() == []


def decide_behind_the_clouds_back(device: Watched, image: Image) -> None:
    """Lock a device to an image in the database itself; returns when the device was told, and asked once more."""
    now_ms = device.shown()["registered_at_ms"]
    change(
        device,
        "INSERT INTO pin (device_id, component, firmware_id, pinned_at_ms, pinned_by)"
        " SELECT ?, component, id, ?, 'nobody' FROM firmware WHERE version = ? AND product = 'thermostat'",
        *(device.device_id, now_ms, image.version),
    )
    device.check()
    assert [pin["version"] for pin in device.desired()["pins"]] == [image.version]
    device.check()


def undecide(device: Watched) -> None:
    change(device, "DELETE FROM pin WHERE device_id = ?", device.device_id)


def change(device: Watched, statement: str, *values: object) -> None:
    """Write into the cloud's database, as nobody but the server should."""
    path = device.fleet.office.home / "cloud" / "fleetlift.db"
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
        assert database.execute(statement, values).rowcount == 1


LIES: dict[str, Callable[[Image], Any]] = {
    "digest": lambda evil: evil.digest,
    "size_bytes": lambda evil: evil.size_bytes,
    "build": lambda _: 4711,
    "hardware_models": lambda _: json.dumps(["*"]),
    "requires": lambda _: json.dumps({"agent": "0.0.1"}),
}


@pytest.mark.parametrize("lies", [["digest", "size_bytes"], ["build"], ["hardware_models"], ["requires"]])
def test_a_device_refuses_firmware_of_which_the_cloud_says_other_than_the_offline_keys_signed(
    device: Watched, factory: Image, images: Images, lies: list[str]
) -> None:
    """A cloud in other hands: its database says otherwise, and so do its notices, which its own key signs."""
    evil = images.thermostat("7.18.99", filler_bytes=CHUNKS, set_point_c=99.0)
    signed = images.thermostat(f"7.18.{len(lies[0])}")
    device.publish(signed)
    device.fleet.api("PUT", f"/blobs/{evil.digest}", content=evil.path.read_bytes())
    names = ", ".join(f"{name} = ?" for name in lies)
    values = [LIES[name](evil) for name in lies]
    change(device, f"UPDATE firmware SET {names} WHERE version = ?", *values, signed.version)  # noqa: S608 - our own
    device.fleet.json("ota", device.device_id, signed.version)
    device.wait_until(lambda: device.attempts() and device.attempts()[0]["outcome"], "its refusal is reported")
    (attempt,) = device.attempts()
    assert (attempt["outcome"], attempt["reason"]) == ("failed", "untrusted")
    assert all(name in attempt["detail"] for name in lies), attempt["detail"]
    assert attempt["fetched_bytes"] == 0
    device.expect_only(factory)
