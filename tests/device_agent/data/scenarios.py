"""What the traced child does: `python -m tests.device_agent.data.scenarios NAME DIRECTORY [BUG]`, one thread only.

It says what must be found from then on, by writing marks that the trace shows: `old`: the version before may run next,
over its data as it left it, or the attempt goes on; `back`: it does not go on; `later`: the same, and the version
before has worked on since; `new`: the new version runs for good, over whatever it made of the data; `end`: that was
all.
"""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from device_agent.data import trees
from device_agent.data.keeper import DataKeeper, Reader
from device_agent.slots import durable
from protocol.values import FirmwareRef
from tests.device_agent.slots.firmware import COMPONENT

OLD: Final = Reader(digest="a" * 64, schema=1)
NEW: Final = Reader(digest="b" * 64, schema=2, reads=(1,))
ATTEMPT: Final = "attempt-1"
DATA: Final = {"book": b"page one, as it was", "index/first": b"1", "index/second": b"2"}
LATER: Final = DATA | {"book": b"page one, and what came later"}
_MARKS: Final = os.open(os.devnull, os.O_WRONLY)


def firmware_of(reader: Reader) -> FirmwareRef:
    return FirmwareRef(
        component=COMPONENT,
        version="2.0.0",
        build=1,
        seq=1,
        digest=reader.digest,
        size_bytes=1,
        hardware_models=("*",),
        data_schema=reader.schema,
        reads_schemas=reader.reads,
    )


def mark(text: str) -> None:
    os.write(_MARKS, b"mark " + text.encode())


def keeper_of(directory: Path) -> DataKeeper:
    return DataKeeper(directory / "data", directory / "data.json")


def prepare(directory: Path) -> None:
    """Make the data of a version that runs for good."""
    (directory / "data" / "index").mkdir(parents=True)
    for name, content in DATA.items():
        (directory / "data" / name).write_bytes(content)
    keeper_of(directory).settle(OLD)


def begin(keeper: DataKeeper) -> None:
    """Go as far as the new version's start."""
    keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
    keeper.hand_over(ATTEMPT)


def migrate(keeper: DataKeeper) -> None:
    """Do what a new version does to data, and not durably."""
    (keeper.directory / "book").write_bytes(b"all is different")
    (keeper.directory / "index" / "first").unlink(missing_ok=True)
    (keeper.directory / "index" / "third").write_bytes(b"3")


def _fall_back(keeper: DataKeeper) -> None:
    mark("old")
    begin(keeper)
    migrate(keeper)
    mark("back")
    keeper.settle(OLD)
    durable.write_file(keeper.directory / "book", LATER["book"])
    mark("later")
    keeper.settle(OLD)


def _fall_back_after_a_second_trial(keeper: DataKeeper) -> None:
    mark("old")
    begin(keeper)
    migrate(keeper)
    begin(keeper)
    mark("back")
    keeper.settle(OLD)


def _update(keeper: DataKeeper) -> None:
    mark("old")
    begin(keeper)
    migrate(keeper)
    mark("new")
    keeper.committed(NEW)


def _call_off(keeper: DataKeeper) -> None:
    mark("old")
    keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
    keeper.settle(OLD)
    durable.write_file(keeper.directory / "book", LATER["book"])
    mark("later")
    keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
    keeper.settle(OLD)


SCENARIOS: Final[dict[str, Callable[[DataKeeper], None]]] = {
    "fall_back": _fall_back,
    "second_trial": _fall_back_after_a_second_trial,
    "update": _update,
    "call_off": _call_off,
}


def _sync_only(wanted: Callable[[int], bool]) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if wanted(os.fstat(descriptor).st_mode):
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def _removed_in_place() -> None:
    """Put the data back by removing what is there, and then moving the snapshot, with no record of either."""

    def settle(self: DataKeeper, running: Reader) -> None:
        trees.remove_tree(self.directory)
        if self._snapshot.exists():
            durable.move(self._snapshot, self.directory)
        self._settled(running)

    DataKeeper.settle = settle  # type: ignore[method-assign]


BUGS: Final[dict[str, Callable[[], None]]] = {
    "no_file_sync": lambda: _sync_only(stat.S_ISDIR),
    "no_directory_sync": lambda: _sync_only(stat.S_ISREG),
    "never_handed_over": lambda: setattr(DataKeeper, "hand_over", lambda _keeper, _attempt: None),
    "removed_in_place": _removed_in_place,
}

if __name__ == "__main__":
    scenario, place, *bug = sys.argv[1:]
    for name in bug:
        BUGS[name]()
    SCENARIOS[scenario](keeper_of(Path(place)))
    mark("end")
