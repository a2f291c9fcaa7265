"""Two slots of files: every step, repeated steps, and what somebody left in their directories."""

import errno
import os
from pathlib import Path

import pytest

from device_agent.slots import durable, records
from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import Apply, SlotError, Slots
from protocol.phases import Reason
from tests.device_agent.slots.firmware import COMPONENT, damage, download, firmware, image, install, running, update

REPOSITORY = Path(__file__).parents[3]


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
