"""What a device keeps, damaged: metadata emptied by a power cut, a journal that is lost, a clock that is wrong.

Then somebody plays back what was good once. What remains of a device's memory must be enough to refuse it.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from protocol.values import FirmwareRef
from tests.attacks.attacker import PATIENCE_S, TOPICS, FalseCloud, Files, notice
from tests.attacks.evidence import ATTEMPT, STAGING, files_in, refused
from tests.attacks.forging import ONLINE
from tests.attacks.scene import Scene
from tests.attacks.test_firmware import retire as raise_floor
from tests.attacks.test_firmware import sign
from tests.attacks.test_metadata import Campaign
from tests.cloud.homes import PRODUCT
from tests.support.brokers import missing_service
from tests.support.devices import AGENT
from tests.support.images import Image
from tests.support.processes import wait_until

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def retire(scene: Scene) -> tuple[Image, FirmwareRef, Files]:
    """Sign a firmware and retire it; return it, and the metadata that still offered it."""
    image = scene.next_image()
    manifest = sign(scene, image)
    octets = {"Content-Type": "application/octet-stream"}
    scene.fleet.api("PUT", f"/blobs/{image.digest}", content=image.path.read_bytes(), headers=octets)
    before = scene.files()
    scene.takes_the_next_good_release()
    raise_floor(scene, manifest.seq)
    wanted, floor = scene.reference(image, seq=manifest.seq), {"seq": manifest.seq + 1}
    scene.takes_the_next_good_release()  # so the device has verified the new metadata
    wait_until(lambda: scene.device.journal("SELECT seq FROM floors") == [floor], PATIENCE_S, "the floor")
    return image, wanted, before


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(b"\xff{" + path.read_bytes()[::-1])


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [emptied, garbled, removed])
def test_metadata_that_a_power_cut_damaged_brings_no_retired_firmware_back(
    scene: Scene, damage: Callable[[Path], None]
) -> None:
    """The versions that were seen are forgotten, so old metadata is believed. The floors are kept elsewhere."""
    image, wanted, old = retire(scene)
    directory = scene.device.state_dir / "metadata"
    scene.device.kill()
    for path in (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()):
        damage(path)
    scene.intruder.say(TOPICS.bundle(PRODUCT), old.bundle, retain=True)
    scene.device.restart()
    scene.fleet.expect_online(scene.device)

    def is_believed() -> bool:
        name = directory / "timestamp.json"
        return name.is_file() and name.read_bytes() == old.files["timestamp.json"]

    wait_until(is_believed, PATIENCE_S, "the old metadata believed")
    evil, before = scene.offer(wanted), scene.at_rest()
    scene.intruder.say(scene.channel_topic, notice(evil, scene.key("online")))
    wait_until(lambda: scene.device.heard(f"{scene.group}/app") == evil.seq, PATIENCE_S, "the notice was heard")
    scene.intruder.fence(scene.device)
    assert set(before.changes(scene.at_rest())) == {"journal/seen"}
    assert scene.fleet.attempts(scene.device, image) == []
    scene.takes_the_next_good_release()


def test_a_journal_that_was_lost_brings_no_retired_firmware_back(scene: Scene) -> None:
    """The floors and the numbers of messages are forgotten: metadata and old notices are judged by what TUF keeps."""
    image, wanted, old = retire(scene)
    slots = files_in(scene.device.seen.slots, besides=STAGING)
    scene.device.kill()
    for path in scene.device.state_dir.glob("journal.db*"):
        path.write_bytes(b"damaged" * 1000)
    scene.intruder.say(TOPICS.bundle(PRODUCT), old.bundle, retain=True)
    scene.device.restart()
    scene.fleet.expect_online(scene.device)
    evil = scene.offer(wanted)
    # Retained: a device that has forgotten its groups subscribes to their notices a moment later.
    scene.intruder.say(scene.channel_topic, notice(evil, scene.key("online")), retain=True)
    wait_until(lambda: scene.device.heard(f"{scene.group}/app") == evil.seq, PATIENCE_S, "the notice was heard")

    def is_refused() -> bool:
        """Before an attempt, where the floor was found in the metadata in time, or else by the attempt."""
        reasons = [row["reason"] for row in scene.fleet.attempts(scene.device, image)]
        floors = [row["seq"] for row in scene.device.journal("SELECT seq FROM floors")]
        return reasons == ["below_floor"] or (not reasons and floors == [wanted.seq + 1])

    scene.fleet.until(is_refused, "the refusal")
    assert files_in(scene.device.seen.slots, besides=STAGING) == slots
    scene.takes_the_next_good_release()
    assert is_refused()


def start_at(scene: Scene, when: str) -> None:
    """Start the agent with another idea of what time it is: everything in its process has it, OpenSSL too."""
    if FAKETIME is None:
        missing_service("libfaketime is not installed")
    scene.device.stop()
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME": when,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    settings = scene.device.directory / "agent.toml"
    command = (AGENT, "run", "--config", settings)
    scene.device.agent = scene.device.processes.start(*command, name="agent-elsewhen", env=environment)


@pytest.fixture
def right_again(scene: Scene) -> Iterator[None]:
    """The clock is set right when the test ends."""
    yield
    scene.device.restart()
    scene.fleet.expect_online(scene.device)


@pytest.mark.usefixtures("right_again")
def test_a_clock_in_1970_refuses_what_has_expired_and_takes_what_is_good(scene: Scene, false_cloud: FalseCloud) -> None:
    """Metadata that expired before the last that was verified stays expired."""
    start_at(scene, "@1970-01-02 00:00:00")
    scene.fleet.expect_online(scene.device)
    campaign = Campaign(scene, false_cloud)
    campaign.files.date(campaign.online, expires=timedelta(hours=-2))
    campaign.expect("expired", trust=ONLINE)


def test_a_clock_two_days_ahead_refuses_everything_and_is_none_the_worse_for_it(scene: Scene) -> None:
    start_at(scene, "+2d")
    scene.fleet.expect_online(scene.device)
    image, before, counted = scene.next_image(), scene.at_rest(), refused(scene.device)
    scene.fleet.push(image, "--group", scene.group, "--immediate")
    scene.expect_refused("expired", 1, counted)
    assert all(name.removeprefix("journal/") in ATTEMPT | {"seen"} for name in before.changes(scene.rough()))
    scene.device.restart()  # by the right clock, which is behind what the device saw last
    scene.takes_the_next_good_release()


def test_a_clock_ten_years_ahead_speaks_to_nobody_and_is_none_the_worse_for_it(scene: Scene) -> None:
    before = scene.at_rest()
    start_at(scene, "+3650d")
    assert scene.device.agent is not None
    scene.device.agent.wait_for_line("this device's clock is wrong")
    assert set(before.changes(scene.rough())) <= {"journal/facts"}
    scene.device.restart()
    scene.fleet.expect_online(scene.device)
    scene.takes_the_next_good_release()
