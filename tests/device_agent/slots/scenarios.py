"""What the traced child does: `python -m tests.device_agent.slots.scenarios NAME DIRECTORY [BUG]`, one thread only.

It says what it promises from then on, by writing marks that the trace shows:
`may V`: V may run after a power cut, too; `must V`: V must; `synced V N`: the first N bytes of V's download are kept;
`staged V`: V can be staged without another download; `free`: the last two do not hold any more; `in D`: what follows
happens in this directory; `end`: that was all. V is a version.
"""

import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from device_agent.slots import durable, records
from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import Apply, SlotError
from protocol.values import FirmwareRef
from tests.device_agent.slots.firmware import CHUNK, COMPONENT, firmware, image, install, update

_MARKS: Final = os.open(os.devnull, os.O_WRONLY)
_KILLED: Final = 9


def mark(text: str) -> None:
    os.write(_MARKS, b"mark " + text.encode())


def golden_of(directory: Path) -> Path:
    return directory.with_name("golden")


def prepare(directory: Path, versions: tuple[str, ...]) -> FilesSlots:
    """Return slots in which these versions were confirmed one after the other."""
    slots = FilesSlots(directory, COMPONENT)
    for version in versions:
        update(slots, version)
    return slots


def prepare_golden(directory: Path) -> FilesSlots:
    """Return slots whose committed image is damaged, beside a golden image 0.9.0."""
    golden = golden_of(directory)
    golden.mkdir()
    (golden / "image").write_bytes(image("0.9.0"))
    records.store(golden / "slot.json", records.SlotRecord.of(firmware("0.9.0")))
    slots = prepare(directory, ("1.0.0",))
    damaged = slots.inspect().running_image
    assert damaged is not None
    damaged.chmod(0o600)
    damaged.write_bytes(image("1.0.0")[:-1] + b"?")
    return FilesSlots(directory, COMPONENT, golden=golden)


def prepare_many(directory: Path) -> FilesSlots:
    """Return the last of many slots, each of which has 1.0.0 confirmed: one for each kill."""
    for number in range(100):
        prepare(directory / str(number), ("1.0.0",))
    return FilesSlots(directory / "0", COMPONENT)


PREPARE: Final[dict[str, Callable[[Path], FilesSlots]]] = {
    "first": lambda directory: prepare(directory, ()),
    "update": lambda directory: prepare(directory, ("1.0.0",)),
    "fall_back": lambda directory: prepare(directory, ("0.9.0", "1.0.0")),
    "supersede": lambda directory: prepare(directory, ("0.9.0", "1.0.0")),
    "give_up": lambda directory: prepare(directory, ("0.9.0", "1.0.0")),
    "golden": prepare_golden,
    "killed": prepare_many,
}


def _download(slots: FilesSlots, version: str) -> None:
    content = image(version)
    mark("free")
    target = slots.open_target(firmware(version))
    for offset in range(0, len(content), CHUNK):
        target.write(offset, content[offset : offset + CHUNK])
        if offset == CHUNK:
            target.sync()
            mark(f"synced {version} {2 * CHUNK}")
    assert target.digest() == firmware(version).digest
    mark(f"synced {version} {len(content)}")
    mark(f"staged {version}")
    target.close()


def _update(slots: FilesSlots, version: str) -> None:
    _download(slots, version)
    slots.stage(firmware(version))
    slots.activate(firmware(version))
    slots.apply(firmware(version))
    mark("free")
    mark(f"may {version}")
    slots.confirm(firmware(version))
    mark(f"must {version}")


def _fall_back(slots: FilesSlots) -> None:
    install(slots, "2.0.0")
    slots.revert()
    mark("must 1.0.0")


def _supersede(slots: FilesSlots) -> None:
    target = slots.open_target(firmware("2.0.0"))
    target.write(0, image("2.0.0")[:CHUNK])
    target.sync()
    mark(f"synced 2.0.0 {CHUNK}")
    target.close()
    _update(slots, "3.0.0")


def _give_up(slots: FilesSlots) -> None:
    real, calls = os.posix_fallocate, itertools.count()

    def full_at_first(descriptor: int, offset: int, length: int) -> None:
        if next(calls) == 0:
            raise OSError(errno.ENOSPC, "no space")
        real(descriptor, offset, length)

    os.posix_fallocate = full_at_first
    _update(slots, "2.0.0")


def _golden(slots: FilesSlots) -> None:
    slots.revert()
    mark("must 0.9.0")


def _killed(slots: FilesSlots) -> None:
    """Kill the update before each of its syncs in turn, take it up again, and promise what is promised then."""
    del slots
    here = Path(sys.argv[2])
    for number in itertools.count():
        directory = here / str(number)
        killed = os.fork()
        if killed == 0:
            _die_at_sync(number)
            update(FilesSlots(directory, COMPONENT), "2.0.0")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1])
        mark(f"in {number}")
        _take_up(FilesSlots(directory, COMPONENT), "2.0.0")
        mark("must 2.0.0")
        if status == 0:
            return
        assert status == _KILLED


def _die_at_sync(number: int) -> None:
    left = itertools.count(number, -1)
    real_fsync, real_fdatasync = os.fsync, os.fdatasync

    def dying(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            if next(left) == 0:
                os._exit(_KILLED)
            real(descriptor)

        return sync

    os.fsync, os.fdatasync = dying(real_fsync), dying(real_fdatasync)  # type: ignore[assignment]


def _take_up(slots: FilesSlots, version: str) -> None:
    """Go on as an agent would that does not know how far it came."""
    try:
        slots.confirm(firmware(version))
    except SlotError:
        try:
            slots.stage(firmware(version))
        except SlotError:
            update(slots, version)
            return
        slots.activate(firmware(version))
        slots.apply(firmware(version))
        slots.confirm(firmware(version))


def primitives(directory: Path) -> Iterator[Callable[[], object]]:
    """Yield each call of `durable`; afterwards all of it has to be durable."""
    yield lambda: durable.make_directory(directory / "made")
    yield lambda: durable.write_file(directory / "file", b"old")
    yield lambda: durable.write_file(directory / "file", b"new")
    yield lambda: durable.write_link(directory / "link", "old")
    yield lambda: durable.write_link(directory / "link", "new")
    yield lambda: os.close(durable.create_file(directory / "space", 10_000))
    yield lambda: durable.copy_file(directory / "file", directory / "made" / "copy", 0o600)
    yield lambda: durable.move(directory / "made" / "copy", directory / "copy")
    yield lambda: durable.remove(directory / "copy")


def durable_calls(directory: Path) -> None:
    """Make each of them, and mark its end."""
    for call in primitives(directory):
        call()
        mark("done")


SCENARIOS: Final[dict[str, Callable[[FilesSlots], None]]] = {
    "first": lambda slots: _update(slots, "1.0.0"),
    "update": lambda slots: _update(slots, "2.0.0"),
    "fall_back": _fall_back,
    "supersede": _supersede,
    "give_up": _give_up,
    "golden": _golden,
    "killed": _killed,
}


def _sync_only(wanted: Callable[[int], bool]) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if wanted(os.fstat(descriptor).st_mode):
            real(descriptor)

    os.fsync = os.fdatasync = fsync  # type: ignore[assignment]


def _no_image_sync() -> None:
    os.fdatasync = lambda _descriptor: None  # type: ignore[assignment]
    durable.seal_file = lambda path, mode: path.chmod(mode)


def _no_record_sync() -> None:
    def write_file(path: Path, content: bytes) -> None:
        replacement = path.with_name(path.name + ".new")
        replacement.write_bytes(content)
        durable.move(replacement, path)

    durable.write_file = write_file


def _no_slot_directory_sync() -> None:
    real = durable.sync_directory
    durable.sync_directory = lambda path: None if path.name in set(records.SlotName) else real(path)


def _wrong_slot() -> None:
    real = FilesSlots._spare
    FilesSlots._spare = lambda self: real(self).beside  # type: ignore[method-assign]


def _unlinked_first() -> None:
    def write_link(path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        durable.sync_directory(path.parent)
        path.symlink_to(text)
        durable.sync_directory(path.parent)

    durable.write_link = write_link


def _record_first() -> None:
    real_move, real_store = durable.move, records.store

    def move(source: Path, destination: Path) -> None:
        if destination.name == "image":
            real_store(destination.with_name("slot.json"), records.SlotRecord.of(firmware("2.0.0")))
        real_move(source, destination)

    durable.move = move


def _committed_early() -> None:
    real = FilesSlots.apply

    def apply(self: FilesSlots, wanted: FirmwareRef) -> Apply:
        applied, slot = real(self, wanted), self._spare()
        records.store(self._committed_record, records.Committed(slot=slot, image=records.SlotRecord.of(wanted)))
        return applied

    FilesSlots.apply = apply  # type: ignore[method-assign,assignment]


def _synced_late() -> None:
    """Report bytes as durable before they are: only staging makes them so."""
    os.fdatasync = lambda _descriptor: None  # type: ignore[assignment]


def _content_with_what_is_found() -> None:
    """Believe a record that an interrupted step left, and that may not be durable."""
    real = FilesSlots.stage

    def stage(self: FilesSlots, wanted: FirmwareRef) -> None:
        found = self._recorded(self._spare())
        if found is None or found.digest != wanted.digest:
            real(self, wanted)

    FilesSlots.stage = stage  # type: ignore[method-assign,assignment]


BUGS: Final[dict[str, Callable[[], None]]] = {
    "no_sync": lambda: _sync_only(lambda _mode: False),
    "no_file_sync": lambda: _sync_only(stat.S_ISDIR),
    "no_directory_sync": lambda: _sync_only(stat.S_ISREG),
    "no_image_sync": _no_image_sync,
    "no_record_sync": _no_record_sync,
    "no_slot_directory_sync": _no_slot_directory_sync,
    "wrong_slot": _wrong_slot,
    "unlinked_first": _unlinked_first,
    "record_first": _record_first,
    "committed_early": _committed_early,
    "synced_late": _synced_late,
    "content_with_what_is_found": _content_with_what_is_found,
}
SHOWN_BY: Final = {"record_first": "fall_back", "content_with_what_is_found": "killed"}
"""The scenario in which a bug can be seen, where that is not `update`."""

if __name__ == "__main__":
    scenario, place, *bug = sys.argv[1:]
    for name in bug:
        BUGS[name]()
    if scenario == durable_calls.__name__:
        durable_calls(Path(place))
    else:
        golden = golden_of(Path(place))
        SCENARIOS[scenario](FilesSlots(Path(place), COMPONENT, golden=golden if golden.exists() else None))
    mark("end")
