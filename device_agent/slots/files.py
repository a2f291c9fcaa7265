"""The default slots: two directories, a symbolic link to the one that runs, and small records of what is meant.

    <directory>/a/image, a/slot.json      an image and its record; so in b/
    <directory>/current -> a              what the next start starts
    <directory>/committed.json            the slot that was confirmed last: where `revert` goes
    <directory>/trial.json                there while a version is tried and not confirmed
    <directory>/target, target.json       an image on its way, reserved in full

The rules, beside those of ports.py:

1. `committed.json` decides; `current` and `trial.json` only say how far a step had come.
2. The committed slot is never written. An image gets its `slot.json` last and loses it first.
3. Space for a third image is wanted while one streams, so that the version before stays until the new one is whole;
   where there is none, the slot that does not run is given up first, if the committed one is whole.
4. The golden image (D14) is a directory of a slot's shape, `image` and `slot.json`, packaged with the base system. It
   is copied into a slot when neither the committed version nor the one confirmed before it is whole: digest and all.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

from device_agent.slots import durable
from device_agent.slots.ports import Apply, SlotError, SlotsView
from device_agent.slots.records import Committed, SlotName, SlotRecord, Staging, Trial, load, store
from device_agent.slots.target import FileTarget, identity, storage
from protocol.identity import check_id
from protocol.phases import Reason
from protocol.values import FirmwareRef

IMAGE_MODE: Final = 0o500
"""An image may be started and not written."""
_LOG = logging.getLogger(__name__)


class FilesSlots:
    """One component's two slots under `directory`, which is made; raises SlotError if it cannot be.

    `capacity_bytes` limits an image (None: the disk alone does). Called by one thread at a time, but for `inspect`
    and the targets.
    """

    def __init__(
        self, directory: Path, component: str, *, capacity_bytes: int | None = None, golden: Path | None = None
    ) -> None:
        self._component = check_id(component, "component")
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        self._golden = golden
        self._current_link = directory / "current"
        self._committed_record = directory / "committed.json"
        self._trial_record = directory / "trial.json"
        self._target_file = directory / "target"
        self._staging_record = directory / "target.json"
        self._last_target: FileTarget | None = None
        self._check_directories()

    def inspect(self) -> SlotsView:
        """Return how the slots stand, by their records and sizes (no image is read)."""
        current, committed = self._current(), self._committed()
        running = self._recorded(current) if current else None
        beside = self._recorded(current.beside) if current else self._recorded(SlotName.A) or self._recorded(SlotName.B)
        return SlotsView(
            running=running.state if running else None,
            running_image=self._image(current) if current and running else None,
            reads_schemas=running.reads_schemas if running else (),
            other=beside.state if beside else None,
            trial=self._is_trial(current, committed),
            capacity_bytes=self._room_bytes(),
        )

    def open_target(self, firmware: FirmwareRef) -> FileTarget:
        """Return the target for this image, its whole size reserved; keeps what is there for the same digest."""
        self._check(firmware)
        wanted = Staging(digest=firmware.digest, size_bytes=firmware.size_bytes)
        if load(self._staging_record, Staging) == wanted:
            kept = self._reopen(wanted)
            if kept is not None:
                return self._remember(kept)
        self.discard()
        if self._capacity_bytes is not None and firmware.size_bytes > self._capacity_bytes:
            raise SlotError(
                Reason.TOO_LARGE,
                f"{firmware.component} {firmware.version} has {firmware.size_bytes} bytes and its slot "
                f"{self._capacity_bytes}: nothing was downloaded",
            )
        with storage(f"no room for the {firmware.size_bytes} bytes of {firmware.component} {firmware.version}"):
            descriptor = self._create_target(firmware.size_bytes)
            try:
                store(self._staging_record, wanted)
            except BaseException:
                os.close(descriptor)
                raise
        return self._remember(FileTarget(descriptor, firmware.size_bytes, kept=False))

    def stage(self, firmware: FirmwareRef) -> None:
        """Make the target, once its digest is right, the image of the slot that does not run."""
        self._check(firmware)
        slot = self._spare()
        with storage(f"{firmware.component} {firmware.version} could not be staged"):
            if self._target_is(firmware):
                if self._on_trial():
                    raise SlotError(
                        Reason.INSTALL_FAILED, "another version is on trial: not staged; confirm or revert it first"
                    )
                durable.remove(self._slot_record(slot))
                durable.move(self._target_file, self._image(slot))
            elif not self._image_is(slot, firmware.digest):
                raise SlotError(
                    Reason.DIGEST_MISMATCH,
                    f"{firmware.component} {firmware.version} is not on the disk as it was signed: not staged",
                )
            # From here on it may be a step that was cut off; the record's rename makes the image's durable, too.
            durable.seal_file(self._image(slot), IMAGE_MODE)
            store(self._slot_record(slot), SlotRecord.of(firmware))
            durable.remove(self._staging_record)

    def activate(self, firmware: FirmwareRef) -> None:
        """Arm one trial of the staged image."""
        self._check(firmware)
        slot = self._spare()
        record = self._recorded(slot)
        if record is None or record.digest != firmware.digest:
            raise SlotError(
                Reason.INSTALL_FAILED, f"{firmware.component} {firmware.version} is not staged: nothing was armed"
            )
        with storage("the trial could not be armed"):
            store(self._trial_record, Trial(slot=slot, digest=firmware.digest))

    def apply(self, firmware: FirmwareRef) -> Apply:
        """Make the next start the trial's."""
        self._check(firmware)
        trial = load(self._trial_record, Trial)
        if trial is None or trial.digest != firmware.digest or trial.slot is not self._spare():
            raise SlotError(
                Reason.INSTALL_FAILED, f"no trial of {firmware.component} {firmware.version} is armed: nothing changed"
            )
        with storage("the link to the running slot could not be changed"):
            durable.write_link(self._current_link, trial.slot)
        return Apply.RESTART_APPLICATION

    def confirm(self, firmware: FirmwareRef) -> None:
        """Make the version on trial the one that `revert` comes back to."""
        self._check(firmware)
        current, committed = self._current(), self._committed()
        record = self._recorded(current) if current else None
        if current is None or record is None or record.digest != firmware.digest:
            raise SlotError(
                Reason.COMMIT_FAILED, f"{firmware.component} {firmware.version} is not what runs: not confirmed"
            )
        previous = committed.image if committed else None
        if committed and committed.slot is current:  # said again
            previous = committed.previous
        with storage("the trial could not be made permanent", Reason.COMMIT_FAILED):
            try:
                store(self._committed_record, Committed(slot=current, image=record, previous=previous))
            except OSError:
                self._take_back(committed)
                raise
        try:
            durable.remove(self._trial_record)
        except OSError as error:  # of a slot that is committed it says nothing any more
            _LOG.warning("%s: trial.json could not be removed: %s", self._component, error)

    def revert(self) -> None:
        """Make the next start that of the committed version, or of the best that is left (rule 4), or of nothing."""
        self._check_directories()
        with storage("the way back could not be taken to its end"):
            try:
                self._revert()
            except OSError:
                self.discard()  # what was on its way is the only space that is ours to free
                self._revert()

    def discard(self) -> None:
        """Drop a target that is not staged, and the space it takes."""
        with storage("the partial download could not be dropped"):
            durable.remove(self._staging_record)
            durable.remove(self._target_file)

    def _take_back(self, committed: Committed | None) -> None:
        """Undo a confirmation that failed half-way, so that `revert` goes back and not on; as far as the disk lets."""
        with contextlib.suppress(OSError):
            if committed is None:
                durable.remove(self._committed_record)
            else:
                store(self._committed_record, committed)

    def _revert(self) -> None:
        good = self._best()
        if good is None:
            durable.remove(self._current_link)
        else:
            if self._recorded(good.slot) != good.image:
                store(self._slot_record(good.slot), good.image)
            if load(self._committed_record, Committed) != good:
                store(self._committed_record, good)
            durable.write_link(self._current_link, good.slot)
        durable.remove(self._trial_record)

    def _best(self) -> Committed | None:
        """Return what to run and to commit: the committed version, the one before it, the golden one."""
        committed = self._committed()
        if committed is not None:
            if self._image_is(committed.slot, committed.image.digest):
                return committed
            _LOG.error("%s: the committed image in slot %s is damaged", self._component, committed.slot)
            beside = committed.slot.beside
            if committed.previous is not None and self._image_is(beside, committed.previous.digest):
                return Committed(slot=beside, image=committed.previous)
        if self._golden is None:
            if committed is not None:
                _LOG.error("%s: no slot is whole and there is no golden image: nothing can run", self._component)
            return None
        return self._copy_golden(self._golden, self._spare())

    def _copy_golden(self, golden: Path, slot: SlotName) -> Committed | None:
        record = load(golden / "slot.json", SlotRecord)
        if record is None or record.component != self._component:
            _LOG.error("%s: %s holds no golden image: slot.json and image are expected", self._component, golden)
            return None
        if _digest(golden / "image") != record.digest:
            _LOG.error("%s: the golden image in %s is damaged", self._component, golden)
            return None
        _LOG.warning("%s: the golden image %s is copied into slot %s", self._component, record.version, slot)
        durable.remove(self._slot_record(slot))
        durable.remove(self._image(slot))  # what failed here makes room
        durable.copy_file(golden / "image", self._image(slot), IMAGE_MODE)
        store(self._slot_record(slot), record)
        return Committed(slot=slot, image=record)

    def _reopen(self, wanted: Staging) -> FileTarget | None:
        try:
            descriptor = durable.open_file(self._target_file, os.O_RDWR)
        except OSError:
            return None
        there = os.fstat(descriptor)
        if there.st_size != wanted.size_bytes or there.st_nlink != 1:  # never write what another name leads to
            os.close(descriptor)
            return None
        return FileTarget(descriptor, wanted.size_bytes, kept=True)

    def _create_target(self, size_bytes: int) -> int:
        try:
            return durable.create_file(self._target_file, size_bytes)
        except OSError:
            slot, committed = self._spare(), self._committed()
            spare = self._image(slot)
            if self._on_trial() or not spare.exists():
                raise
            if committed is not None and not self._image_is(committed.slot, committed.image.digest):
                raise
            if spare.lstat().st_size + durable.free_bytes(self._directory) < size_bytes:
                raise
            _LOG.info("%s: slot %s is given up to make room", self._component, slot)
            durable.remove(self._slot_record(slot))
            durable.remove(spare)
            return durable.create_file(self._target_file, size_bytes)

    def _remember(self, target: FileTarget) -> FileTarget:
        self._last_target = target
        return target

    def _target_is(self, firmware: FirmwareRef) -> bool:
        """Tell whether the target is this image whole; it is hashed unless the last target already was, as it lies."""
        staging = load(self._staging_record, Staging)
        if staging is None or staging.digest != firmware.digest:
            return False
        hashed = self._last_target.hashed if self._last_target else None
        if hashed is not None and self._target_file.exists() and hashed[0] == identity(self._target_file.lstat()):
            return hashed[1] == firmware.digest
        return _digest(self._target_file) == firmware.digest

    def _image_is(self, slot: SlotName, digest: str) -> bool:
        """Tell whether a slot's image has this digest, by reading it all."""
        return _digest(self._image(slot)) == digest

    def _recorded(self, slot: SlotName) -> SlotRecord | None:
        """Return a slot's record if the image beside it is a file of that size."""
        record = load(self._slot_record(slot), SlotRecord)
        if record is None or record.component != self._component or self._slot(slot).is_symlink():
            return None
        try:
            descriptor = durable.open_file(self._image(slot))
        except OSError:
            return None
        size_bytes = os.fstat(descriptor).st_size
        os.close(descriptor)
        return record if size_bytes == record.size_bytes else None

    def _current(self) -> SlotName | None:
        try:
            return SlotName(str(self._current_link.readlink()))
        except (OSError, ValueError):
            return None

    def _committed(self) -> Committed | None:
        """Return what was confirmed last; a damaged record is made up for by what else is known (rule 1)."""
        committed = load(self._committed_record, Committed)
        if committed is not None:
            return committed
        trial = load(self._trial_record, Trial)
        if trial is None and self._trial_record.exists():
            return None
        slot = trial.slot.beside if trial else self._current()
        record = self._recorded(slot) if slot else None
        return Committed(slot=slot, image=record) if slot and record else None

    def _spare(self) -> SlotName:
        """Return the slot that may be written."""
        committed = self._committed()
        return committed.slot.beside if committed else SlotName.A

    def _on_trial(self) -> bool:
        return self._is_trial(self._current(), self._committed())

    def _is_trial(self, current: SlotName | None, committed: Committed | None) -> bool:
        if current is not None and (committed is None or committed.slot is not current):
            return True
        if not os.path.lexists(self._trial_record):
            return False
        trial = load(self._trial_record, Trial)
        return not (committed and trial and (trial.slot, trial.digest) == (committed.slot, committed.image.digest))

    def _room_bytes(self) -> int:
        """Return the largest image that could be taken: the free space, and what a new target would give back."""
        spare = [] if self._on_trial() else [self._image(self._spare())]
        try:
            room = durable.free_bytes(self._directory) + sum(map(_used_bytes, [self._target_file, *spare]))
        except OSError:
            room = 0
        return room if self._capacity_bytes is None else min(room, self._capacity_bytes)

    def _slot(self, slot: SlotName) -> Path:
        return self._directory / slot.value

    def _image(self, slot: SlotName) -> Path:
        return self._directory / slot.value / "image"

    def _slot_record(self, slot: SlotName) -> Path:
        return self._directory / slot.value / "slot.json"

    def _check(self, firmware: FirmwareRef) -> None:
        if firmware.component != self._component:
            raise SlotError(
                Reason.INCOMPATIBLE,
                f"an image of {firmware.component} is not for the slots of {self._component}: nothing changed",
            )
        self._check_directories()

    def _check_directories(self) -> None:
        """Make the directories that are missing; one that is a link, or anything else, is refused."""
        with storage(f"the slots of {self._component} in {self._directory} cannot be used"):
            missing = [parent for parent in self._directory.parents if not parent.exists()]
            for path in (*reversed(missing), self._directory, self._slot(SlotName.A), self._slot(SlotName.B)):
                durable.make_directory(path)


def _digest(path: Path) -> str | None:
    """Return the digest of a regular file, or None if there is none that can be read."""
    try:
        return durable.digest_file(path)
    except OSError:
        return None


def _used_bytes(path: Path) -> int:
    """Return the space that a file takes; 0 if there is none (any more: a step may be under way)."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
