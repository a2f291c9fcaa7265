"""Two slots of files: every step, repeated steps, and what somebody left in their directories."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from device_agent.slots import durable, records
from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import Apply, SlotError, Slots
from protocol.phases import Reason
from tests.device_agent.slots.firmware import COMPONENT, download, firmware, image, install, running, update
from tests.support.brokers import missing_service

REPOSITORY = Path(__file__).parents[3]


def damage(path: Path) -> None:
    """Flip the last byte of a file, whose size stays."""
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def golden(tmp_path: Path, version: str = "0.9.0") -> Path:
    directory = tmp_path / "golden"
    directory.mkdir()
    (directory / "image").write_bytes(image(version))
    records.store(directory / "slot.json", records.SlotRecord.of(firmware(version)))
    return directory


def test_files_slots_are_slots(slots: FilesSlots) -> None:
    conforming: Slots = slots
    assert conforming is slots


def test_empty_slots_run_nothing(slots: FilesSlots) -> None:
    for _ in range(2):
        view = slots.inspect()
        assert (view.running, view.running_image, view.other, view.trial) == (None, None, None, False)
        slots.revert()


def test_an_update_runs_only_from_apply_on(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    before = slots.inspect()
    download(slots, "2.0.0")
    slots.stage(firmware("2.0.0"))
    assert running(slots) == "1.0.0"
    assert not slots.inspect().trial
    slots.activate(firmware("2.0.0"))
    assert running(slots) == "1.0.0"
    assert slots.inspect().trial
    assert slots.apply(firmware("2.0.0")) is Apply.RESTART_APPLICATION
    view = slots.inspect()
    assert running(slots) == "2.0.0"
    assert view.trial
    assert view.other == before.running
    slots.confirm(firmware("2.0.0"))
    assert running(slots) == "2.0.0"
    assert not slots.inspect().trial
    assert (directory / "current").readlink() == Path("b")
    assert sorted(path.name for path in directory.iterdir()) == ["a", "b", "committed.json", "current"]


def test_every_step_may_be_repeated_even_by_another_process(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    wanted = firmware("2.0.0")
    download(slots, "2.0.0")
    for step in (
        FilesSlots.stage,
        FilesSlots.activate,
        FilesSlots.apply,
        FilesSlots.confirm,
    ):
        views = []
        for _ in range(2):
            step(slots, wanted)
            slots = FilesSlots(directory, COMPONENT)
            views.append(slots.inspect())
        assert views[0].running == views[1].running
        assert views[0].trial == views[1].trial
    assert running(slots) == "2.0.0"
    slots.revert()
    assert running(slots) == "2.0.0"


def test_a_confirmation_said_twice_keeps_the_version_before(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    update(slots, "2.0.0")
    slots.confirm(firmware("2.0.0"))
    damage(directory / "b" / "image")
    slots.revert()
    assert running(slots) == "1.0.0"


@pytest.mark.parametrize("progress", ["open", "write", "stage", "activate", "apply"])
def test_revert_comes_back_from_every_step(slots: FilesSlots, directory: Path, progress: str) -> None:
    update(slots, "1.0.0")
    slots.open_target(firmware("2.0.0")).close()
    if progress != "open":
        download(slots, "2.0.0")
    steps = {"stage": slots.stage, "activate": slots.activate, "apply": slots.apply}
    for name in list(steps)[: list(steps).index(progress) + 1] if progress in steps else ():
        steps[name](firmware("2.0.0"))
    for fresh in (slots, FilesSlots(directory, COMPONENT)):
        fresh.revert()
        assert running(fresh) == "1.0.0"
        assert not fresh.inspect().trial
    update(slots, "3.0.0")
    assert running(slots) == "3.0.0"


def test_a_first_version_that_fails_leaves_nothing_that_runs(slots: FilesSlots) -> None:
    install(slots, "1.0.0")
    assert slots.inspect().trial
    slots.revert()
    assert slots.inspect().running is None
    assert not slots.inspect().trial
    update(slots, "1.1.0")
    assert running(slots) == "1.1.0"


def test_a_download_is_kept_for_the_same_digest_only(slots: FilesSlots, directory: Path) -> None:
    assert not slots.open_target(firmware("1.0.0")).kept
    (directory / "target").write_bytes(image("1.0.0"))
    fresh = FilesSlots(directory, COMPONENT)
    assert fresh.open_target(firmware("1.0.0")).kept
    assert not fresh.open_target(firmware("1.1.0")).kept
    assert (directory / "target").read_bytes() == bytes(len(image("1.1.0"))), "it holds another version's bytes"
    fresh.discard()
    fresh.discard()
    assert not (directory / "target").exists()
    assert not fresh.open_target(firmware("1.1.0")).kept


def test_what_was_not_downloaded_whole_is_not_staged(slots: FilesSlots, directory: Path) -> None:
    update(slots, "1.0.0")
    target = slots.open_target(firmware("2.0.0"))
    target.write(0, image("2.0.0")[:-1])
    target.close()
    with pytest.raises(SlotError) as refused:
        slots.stage(firmware("2.0.0"))
    assert refused.value.reason is Reason.DIGEST_MISMATCH
    assert not (directory / "b" / "slot.json").exists()
    assert slots.open_target(firmware("2.0.0")).kept


def test_what_was_changed_after_it_was_hashed_is_not_staged(slots: FilesSlots, directory: Path) -> None:
    download(slots, "1.0.0")
    damage(directory / "target")
    with pytest.raises(SlotError) as refused:
        slots.stage(firmware("1.0.0"))
    assert refused.value.reason is Reason.DIGEST_MISMATCH


def test_steps_out_of_order_change_nothing(slots: FilesSlots) -> None:
    update(slots, "1.0.0")
    before = slots.inspect()
    wanted = firmware("2.0.0")
    for step, reason in (
        (slots.stage, Reason.DIGEST_MISMATCH),
        (slots.activate, Reason.INSTALL_FAILED),
        (slots.apply, Reason.INSTALL_FAILED),
        (slots.confirm, Reason.COMMIT_FAILED),
    ):
        with pytest.raises(SlotError) as refused:
            step(wanted)
        assert refused.value.reason is reason
        assert slots.inspect().running == before.running
        assert slots.inspect().trial == before.trial


def test_a_trial_is_not_overwritten_by_another_version(slots: FilesSlots) -> None:
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    download(slots, "3.0.0")
    with pytest.raises(SlotError):
        slots.stage(firmware("3.0.0"))
    assert running(slots) == "2.0.0"
    slots.revert()
    slots.stage(firmware("3.0.0"))
    assert slots.inspect().other == records.SlotRecord.of(firmware("3.0.0")).state


def test_an_image_larger_than_its_slot_is_refused_before_anything_is_written(directory: Path) -> None:
    slots = FilesSlots(directory, COMPONENT, capacity_bytes=len(image("1.0.0")) - 1)
    with pytest.raises(SlotError) as refused:
        slots.open_target(firmware("1.0.0"))
    assert refused.value.reason is Reason.TOO_LARGE
    assert sorted(path.name for path in directory.iterdir()) == ["a", "b"]
    assert slots.inspect().capacity_bytes == len(image("1.0.0")) - 1
    FilesSlots(directory, COMPONENT, capacity_bytes=len(image("1.0.0"))).open_target(firmware("1.0.0")).close()


def test_another_components_image_is_refused(directory: Path) -> None:
    slots = FilesSlots(directory, "os")
    with pytest.raises(SlotError) as refused:
        slots.open_target(firmware("1.0.0"))
    assert refused.value.reason is Reason.INCOMPATIBLE


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


def test_a_running_image_is_never_written_in_place(slots: FilesSlots, directory: Path, tmp_path: Path) -> None:
    """A process keeps the file that it was started from, whatever happens to the slot's name."""
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    with (directory / "b" / "image").open("rb") as still_open:
        slots.revert()
        update(slots, "3.0.0")
        assert still_open.read() == image("2.0.0")


def test_a_full_disk_does_not_keep_revert_from_coming_back(
    slots: FilesSlots, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a download is given up for it."""
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    slots.open_target(firmware("3.0.0")).close()
    real = Path.symlink_to

    def full(self: Path, text: str) -> None:
        if (directory / "target").exists():
            raise OSError(errno.ENOSPC, "no space left on device")
        real(self, text)

    monkeypatch.setattr(Path, "symlink_to", full)
    slots.revert()
    assert running(slots) == "1.0.0"


def test_a_confirmation_whose_record_is_not_durable_is_taken_back(
    slots: FilesSlots, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record's rename went through and its sync did not: going back must not go on."""
    update(slots, "1.0.0")
    install(slots, "2.0.0")
    real = durable.sync_directory
    failures: list[Path] = []

    def fail_once(path: Path) -> None:
        if path == directory and not failures and b'"slot":"b"' in (directory / "committed.json").read_bytes():
            failures.append(path)
            raise OSError(errno.EIO, "input/output error")
        real(path)

    with monkeypatch.context() as broken:
        broken.setattr(durable, "sync_directory", fail_once)
        with pytest.raises(SlotError) as failed:
            slots.confirm(firmware("2.0.0"))
    assert failures
    assert failed.value.reason is Reason.COMMIT_FAILED
    assert slots.inspect().trial
    slots.revert()
    assert running(slots) == "1.0.0"


def test_a_confirmation_does_not_fail_of_what_is_only_tidied_up(
    slots: FilesSlots, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(slots, "1.0.0")
    install(slots, "2.0.0")

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "input/output error", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(durable, "remove", fail)
        slots.confirm(firmware("2.0.0"))
    assert (directory / "trial.json").exists()
    assert not slots.inspect().trial
    update(slots, "3.0.0")
    assert running(slots) == "3.0.0"


def test_a_target_that_another_name_leads_to_is_not_written(slots: FilesSlots, directory: Path) -> None:
    """A file system may keep both names of a rename that a power cut interrupts: one of them is a slot's."""
    slots.open_target(firmware("1.0.0")).close()
    os.link(directory / "target", directory / "a" / "image")
    target = slots.open_target(firmware("1.0.0"))
    assert not target.kept
    target.write(0, image("1.0.0"))
    target.close()
    assert (directory / "a" / "image").read_bytes() == bytes(len(image("1.0.0")))


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
