"""What somebody, or a dying disk, left in the slots' directories: links, fifos, garbled records, damaged images."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import SlotError
from protocol.phases import Reason
from tests.device_agent.slots.firmware import COMPONENT, damage, firmware, golden, image, install, running, update


def test_nobody_else_may_read_or_write(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    update(slots, "2.0.0")
    slots.open_target(firmware("3.0.0")).close()
    modes = {
        str(path.relative_to(directory)): stat.S_IMODE(path.lstat().st_mode)
        for path in directory.rglob("*")
        if not path.is_symlink()
    }
    assert {modes.pop(name) for name in ("a", "b")} == {0o700}
    assert {modes.pop(name) for name in ("a/image", "b/image")} == {0o500}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_link_in_place_of_a_slot_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    slots = FilesSlots(directory, COMPONENT)
    update(slots, "1.0.0")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(directory / name, elsewhere)
    shutil.rmtree(directory / name)
    (directory / name).symlink_to(elsewhere)
    before = sorted((path.name, path.read_bytes()) for path in elsewhere.iterdir())
    slots.inspect()
    for refused in (lambda: slots.open_target(firmware("2.0.0")), slots.revert):
        with pytest.raises(SlotError) as error:
            refused()
        assert error.value.reason is Reason.STORAGE_FAILED
    with pytest.raises(SlotError):
        FilesSlots(directory, COMPONENT)
    assert sorted((path.name, path.read_bytes()) for path in elsewhere.iterdir()) == before


@pytest.mark.parametrize("name", ["a/image", "a/slot.json", "b/image", "b/slot.json", "target", "target.json"])
def test_links_and_fifos_in_place_of_files_are_not_followed(directory: Path, tmp_path: Path, name: str) -> None:
    slots = FilesSlots(directory, COMPONENT, golden=golden(tmp_path))
    update(slots, "1.0.0")
    slots.open_target(firmware("2.0.0")).close()
    victim = tmp_path / "victim"
    content = (directory / name).read_bytes() if (directory / name).exists() else image("2.0.0")
    for plant in (lambda path: path.symlink_to(victim), os.mkfifo):
        victim.write_bytes(content)
        (directory / name).unlink(missing_ok=True)
        plant(directory / name)
        fresh = FilesSlots(directory, COMPONENT, golden=tmp_path / "golden")
        assert name != "a/image" or fresh.inspect().running is None
        fresh.revert()
        update(fresh, "2.0.0")
        assert running(fresh) == "2.0.0"
        assert victim.read_bytes() == content
        fresh.open_target(firmware("3.0.0")).close()


@pytest.mark.parametrize("text", ["../../elsewhere", "/etc", "c", "a/../b", ""])
def test_a_current_that_leads_elsewhere_runs_nothing(slots: FilesSlots, directory: Path, text: str) -> None:
    update(slots, "1.0.0")
    (directory / "current").unlink()
    if text:
        (directory / "current").symlink_to(text)
    assert slots.inspect().running is None
    slots.revert()
    assert running(slots) == "1.0.0"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff" * 100, b"{" * 5000, b'{"slot": "../x"}'])
@pytest.mark.parametrize("name", ["committed.json", "trial.json", "a/slot.json", "b/slot.json", "target.json"])
def test_a_garbled_record_costs_no_version(slots: FilesSlots, directory: Path, name: str, content: bytes) -> None:
    update(slots, "1.0.0")
    update(slots, "2.0.0")
    slots.open_target(firmware("3.0.0")).close()
    (directory / name).write_bytes(content)
    slots.inspect()
    slots.revert()
    assert running(slots) == "2.0.0"
    update(slots, "3.0.0")
    assert running(slots) == "3.0.0"


def test_a_garbled_record_during_a_trial_still_leads_back(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    (directory / "committed.json").write_bytes(b"")
    assert slots.inspect().trial
    slots.revert()
    assert running(slots) == "1.0.0"


def test_a_truncated_image_does_not_run(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    os.truncate(directory / "a" / "image", 10)
    assert slots.inspect().running is None


def test_the_golden_image_is_the_last_resort(directory: Path, tmp_path: Path) -> None:
    """D14: both slots in turn are damaged; each time the best that is left comes back."""
    slots = FilesSlots(directory, COMPONENT, golden=golden(tmp_path))
    update(slots, "1.0.0")
    update(slots, "2.0.0")
    damage(directory / "b" / "image")
    slots.revert()
    assert running(slots) == "1.0.0"
    damage(directory / "a" / "image")
    slots.revert()
    assert running(slots) == "0.9.0"
    slots.revert()
    assert running(slots) == "0.9.0"
    damage(directory / slots.inspect().running_image.relative_to(directory))  # type: ignore[union-attr]
    slots.revert()
    assert running(slots) == "0.9.0"
    update(slots, "3.0.0")
    assert running(slots) == "3.0.0"


def test_a_trial_that_never_was_confirmed_is_no_resort(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    damage(directory / "a" / "image")
    slots.revert()
    assert slots.inspect().running is None
    update(slots, "3.0.0")
    assert running(slots) == "3.0.0"


def test_a_new_device_starts_from_its_golden_image(directory: Path, tmp_path: Path) -> None:
    slots = FilesSlots(directory, COMPONENT, golden=golden(tmp_path))
    assert slots.inspect().running is None
    slots.revert()
    assert running(slots) == "0.9.0"
    install(slots, "1.0.0")
    slots.revert()
    assert running(slots) == "0.9.0"


@pytest.mark.parametrize("wrong", ["image", "record", "component", "nothing"])
def test_a_damaged_golden_image_is_not_run(directory: Path, tmp_path: Path, wrong: str) -> None:
    place = golden(tmp_path)
    if wrong == "image":
        damage(place / "image")
    elif wrong == "record":
        (place / "slot.json").write_bytes(b"{")
    elif wrong == "component":
        fields = json.loads((place / "slot.json").read_bytes())
        (place / "slot.json").write_text(json.dumps({**fields, "component": "os"}), encoding="ascii")
    else:
        shutil.rmtree(place)
    slots = FilesSlots(directory, COMPONENT, golden=place)
    slots.revert()
    assert slots.inspect().running is None
