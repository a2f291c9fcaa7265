"""Slots on a real disk of 100 KiB, in a mount namespace of the test's own."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from device_agent.slots import records
from tests.device_agent.slots.firmware import firmware, golden, image
from tests.support.brokers import missing_service

REPOSITORY = Path(__file__).parents[3]


def on_a_small_disk(tmp_path: Path, body: str) -> str:
    """Run Python code in a mount namespace of its own where DISK is an empty disk of 100 KiB; return its output."""
    unshare = shutil.which("unshare")
    if unshare is None:
        missing_service("unshare (util-linux) is not installed")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom device_agent.slots.files import FilesSlots\n"
        "from device_agent.slots.ports import SlotError\nfrom tests.device_agent.slots.firmware import *\n"
        f"DISK = Path({str(disk)!r})\n" + textwrap.dedent(body),
        encoding="utf-8",
    )
    mount = 'mount -t tmpfs -o size=100k none "$1" || exit 77; exec "$2" "$3"'
    done = subprocess.run(
        [unshare, "-U", "-r", "-m", "/bin/sh", "-c", mount, "sh", disk, sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        missing_service(f"no disk can be mounted for a test here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_refuses_the_image_and_keeps_what_runs(tmp_path: Path) -> None:
    output = on_a_small_disk(
        tmp_path,
        """
        slots = FilesSlots(DISK / "app", COMPONENT)
        update(slots, "1.0.0")
        print(slots.inspect().capacity_bytes < 100 * 1024)
        content = image("2.0.0", 90 * 1024)
        try:
            slots.open_target(firmware("2.0.0", content))
        except SlotError as error:
            print(error.reason, (DISK / "app" / "target").exists(), running(slots))
        update(slots, "3.0.0")
        print(running(slots))
        """,
    )
    assert output.split() == ["True", "too_large", "False", "1.0.0", "3.0.0"]


def test_where_a_third_image_finds_no_room_the_version_before_is_given_up(tmp_path: Path) -> None:
    output = on_a_small_disk(
        tmp_path,
        """
        import hashlib
        slots = FilesSlots(DISK / "app", COMPONENT)
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            content = image(version, 36 * 1024)
            wanted = firmware(version, content)
            assert slots.inspect().capacity_bytes >= len(content)
            target = slots.open_target(wanted)
            target.write(0, content)
            slots.stage(wanted)
            target.close()
            slots.activate(wanted)
            slots.apply(wanted)
            slots.confirm(wanted)
            view = slots.inspect()
            print(view.running.version, hashlib.sha256(view.running_image.read_bytes()).hexdigest() == wanted.digest)
        """,
    )
    assert output.split() == ["1.0.0", "True", "2.0.0", "True", "3.0.0", "True"]


def test_the_version_before_is_not_given_up_for_an_image_that_would_not_fit_anyway(tmp_path: Path) -> None:
    output = on_a_small_disk(
        tmp_path,
        """
        slots = FilesSlots(DISK / "app", COMPONENT)
        update(slots, "1.0.0")
        update(slots, "2.0.0")
        try:
            slots.open_target(firmware("3.0.0", image("3.0.0", 120 * 1024)))
        except SlotError as error:
            print(error.reason, slots.inspect().other.version)
        """,
    )
    assert output.split() == ["too_large", "1.0.0"]


def test_the_golden_image_takes_the_room_of_what_failed(tmp_path: Path) -> None:
    content = image("0.9.0", 36 * 1024)
    place = golden(tmp_path)
    (place / "image").write_bytes(content)
    records.store(place / "slot.json", records.SlotRecord.of(firmware("0.9.0", content)))
    output = on_a_small_disk(
        tmp_path,
        f"""
        slots = FilesSlots(DISK / "app", COMPONENT, golden=Path({str(place)!r}))
        for version in ("1.0.0", "2.0.0"):
            content = image(version, 36 * 1024)
            wanted = firmware(version, content)
            target = slots.open_target(wanted)
            target.write(0, content)
            slots.stage(wanted)
            target.close()
            slots.activate(wanted)
            slots.apply(wanted)
            if version == "1.0.0":
                slots.confirm(wanted)
        (DISK / "app" / "a" / "image").chmod(0o600)
        (DISK / "app" / "a" / "image").write_bytes(bytes(36 * 1024))
        slots.revert()
        print(slots.inspect().running.version, slots.inspect().running_image.read_bytes() == image("0.9.0", 36 * 1024))
        """,
    )
    assert output.split() == ["0.9.0", "True"]
