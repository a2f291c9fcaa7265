"""What is wrong with an image, a disk or settings is said clearly; nothing is lost, and the application runs on."""

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from cloud.demo.observing import digest_of
from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images
from tests.support.processes import is_alive

pytestmark = pytest.mark.broker
MIB = 1024 * 1024


@pytest.fixture
def large(images: Images) -> Image:
    return images.thermostat("7.19.0", filler_bytes=8 * MIB)


def expect_refused(device: Watched, factory: Image, image: Image, sentence: str) -> None:
    """Have the operator wait for an image that is too large; check what she is told, and that nothing happened."""
    device.publish(image)
    answer = device.fleet.call("ota", device.device_id, image.version, "--wait", "--timeout", "60", expect=1)
    assert "too_large" in answer.err
    assert sentence in answer.err
    assert device.ends(image) == [("failed", "too_large")]
    assert device.attempts(image)[0]["fetched_bytes"] == 0
    assert not (device.slots / "target").exists()
    device.expect_only(factory)


def test_an_image_that_is_larger_than_its_slot_is_refused_before_it_is_downloaded(
    workshop: Workshop, factory: Image, images: Images, large: Image
) -> None:
    device = workshop.device(factory, "--capacity", str(MIB))
    expect_refused(device, factory, large, f"its slot {MIB}")
    fitting = images.thermostat("1.1.0")
    device.push(fitting, "--immediate")
    device.expect_success(fitting)


class Disk(Protocol):
    """A disk that can be full, as a device's agent sees it."""

    def fill(self, device: Watched) -> None:
        """Leave no byte."""

    def free(self, device: Watched) -> None:
        """Leave what was there before."""


class SmallDisk:
    """A file system of its own in memory, of 6 MiB."""

    def __init__(self, directory: Path) -> None:
        self.filler = directory / "somebody-elses"

    def fill(self, device: Watched) -> None:  # noqa: ARG002 - it is full for everybody
        with self.filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def free(self, device: Watched) -> None:  # noqa: ARG002
        self.filler.unlink()


class Quota:
    """Where nobody may mount a file system: a limit on what the agent's process may write. It is told EFBIG."""

    def fill(self, device: Watched) -> None:
        self.limit(device, 0)

    def free(self, device: Watched) -> None:
        self.limit(device, resource.RLIM_INFINITY)

    @staticmethod
    def limit(device: Watched, size_bytes: int) -> None:
        resource.prlimit(device.agent.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """Make a directory a small disk, if this process may mount one."""
    directory.mkdir(mode=0o700)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ("-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(directory))
    if not mount or not umount or subprocess.run((mount, *options), check=False, capture_output=True).returncode != 0:
        yield Quota()
        return
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run((umount, "--lazy", directory), check=True)


def test_on_a_full_disk_the_application_runs_on_and_the_update_goes_on_when_there_is_room(
    workshop: Workshop, factory: Image, images: Images, large: Image
) -> None:
    device = workshop.enrol(factory)
    with small_disk(device.state_dir) as disk:
        device.begin()
        if isinstance(disk, SmallDisk):
            expect_refused(device, factory, large, "No space left on device")
        new = images.thermostat("1.1.0")
        device.publish(new)
        running, entries = device.application()["pid"], device.device.last_entry()
        disk.fill(device)
        device.fleet.json("ota", device.device_id, new.version)
        with device.listening() as ear:
            device.wait_until(lambda: "not_stored" in ear.updates.status()["refused"], "it cannot keep what it is told")
        assert is_alive(running)
        assert device.agent.process.poll() is None
        assert device.device.last_entry() == entries
        disk.free(device)
        device.expect_success(new)
        device.expect_only(factory, new)
        workshop.close()


def test_a_second_agent_on_a_state_directory_is_refused_and_the_first_goes_on(
    device: Watched, factory: Image, images: Images
) -> None:
    second = device.begin_command("run")
    assert second.wait() == 5
    assert second.log().count("\n") == 1
    assert f"another agent runs on {device.state_dir}; nothing was changed" in second.log()
    new = images.thermostat("1.1.0")
    device.push(new, "--immediate")
    device.expect_success(new)
    device.expect_only(factory, new)


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        ("soak_s = ", "soak_seconds = ", "components.app.soak_seconds"),
        ("url = ", "uri = ", "broker.uri"),
        ("[updates]", "[update]", "update"),
        ("soak_s = 1.2", 'soak_s = "long"', "components.app.soak_s"),
    ],
)
def test_a_mistyped_setting_is_refused_by_file_line_and_key(
    workshop: Workshop, factory: Image, right: str, wrong: str, key: str
) -> None:
    device = workshop.enrol(factory, updates={"install": "available"})
    text = device.config.read_text(encoding="utf-8")
    assert right in text
    device.config.write_text(text.replace(right, wrong), encoding="utf-8")
    line = 1 + text[: text.index(right)].count("\n")
    said = device.command("run", expect=2)
    assert f"{device.config}:{line}: {key}: " in said
    assert said.count("\n") == 1
    assert not device.state_dir.exists(), "nothing was begun"


def test_a_journal_of_a_newer_agent_is_left_as_it_is(device: Watched) -> None:
    device.end()
    journal = device.state_dir / "journal.db"
    with closing(sqlite3.connect(journal)) as opened:
        opened.execute("PRAGMA user_version = 99")
    before = digest_of(journal)
    said = device.command("run", expect=2)
    assert f"{journal} was written by a newer agent (schema 99, this one knows 1); nothing was changed" in said
    assert digest_of(journal) == before
    assert len(device.starts()) == 1, "no application was started beside a journal that is not understood"
