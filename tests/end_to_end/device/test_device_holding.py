"""D10: nothing is applied while somebody holds updates, and it is as soon as nobody does, however the hold ended."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.device_world import Watched
from tests.support.images import Image, Images
from tests.support.processes import Started

pytestmark = pytest.mark.broker
WORK = "while [ -e {} ]; do sleep 0.05; done"


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """There while there is work to do."""
    path = tmp_path / "work"
    path.touch()
    return path


def hold_by_command(device: Watched, work: Path) -> Started:
    return device.begin_command("hold", "--why", "dosing", "--", "sh", "-c", WORK.format(work))


def hold_by_lock(device: Watched, work: Path) -> Started:
    lock = device.state_dir / "hold.lock"
    device.commands.append(device.device.processes.start("flock", "-s", lock, "sh", "-c", WORK.format(work)))
    return device.commands[-1]


@pytest.mark.parametrize("hold", [hold_by_command, hold_by_lock])
def test_nothing_is_applied_while_a_command_holds_and_it_is_when_that_ends(
    device: Watched, factory: Image, new: Image, work: Path, hold: Callable[[Watched, Path], Started]
) -> None:
    holder = hold(device, work)
    device.wait_until(lambda: is_held(device), "it is held")
    with device.listening() as ear:
        device.push(new, "--immediate")
        assert ear.expect("update_ready")["version"] == new.version, "a download disturbs nobody"
        device.expect_pending(new, "held")
        device.check()
        device.expect_only(factory)
        let_go_at = time.time()
        work.unlink()
        ear.expect("restarting")
    assert holder.wait() == 0
    device.expect_success(new)
    device.expect_only(factory, new)
    assert device.starts()[1].at >= let_go_at


def test_a_hold_dies_with_its_holder(device: Watched, factory: Image, new: Image, work: Path) -> None:
    holder = hold_by_command(device, work)
    device.wait_until(lambda: is_held(device), "it is held")
    device.push(new, "--immediate")
    device.expect_pending(new, "held")
    device.expect_only(factory)
    killed_at = time.time()
    holder.kill()
    device.expect_success(new)
    assert device.starts()[1].at >= killed_at
    work.unlink()


def test_an_application_that_holds_is_left_alone_by_the_next_agent_too(
    device: Watched, factory: Image, new: Image
) -> None:
    device.publish(new)
    with device.listening() as ear:
        with ear.updates.hold("printing", scope=["install", "restart"]):
            device.kill()
            device.start()
            device.wait_until(lambda: ear.updates.connected and ear.updates.status().get("holds"), "it holds again")
            device.fleet.json("ota", device.device_id, new.version)
            device.expect_pending(new, "held")
            device.expect_only(factory)
            let_go_at = time.time()
        device.expect_success(new)
    device.expect_only(factory, new)
    assert device.starts()[1].at >= let_go_at


def is_held(device: Watched) -> bool:
    """Tell whether somebody holds: the cloud says it, or else the kernel, who knows of locks."""
    lock = device.state_dir / "hold.lock"
    locked = lock.exists() and f":{lock.stat().st_ino} " in Path("/proc/locks").read_text(encoding="ascii")
    return locked or bool(device.shown()["availability"]["holds"])
