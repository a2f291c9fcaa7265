"""Keeps the data of one component together with the version that it belongs to, whatever is cut off when.

Beside the data directory D, on its file system:

    .<name>.snapshot            D as the version before left it, whole and durable
    .<name>.snapshot.new        a snapshot that is being made
    .<name>.failed              what a version that failed left in D, until it is removed
    <name>.set-aside-<n>        data that no version here can read; never removed

and `data.json`, the record, in the agent's own directory. The rules:

1. `keep` comes before anything is switched: until `hand_over` D is the old version's, and the snapshot worth nothing.
2. From `hand_over` on D is the new version's to change, and the snapshot is what the old one goes back to: D is put
   back by one rename of the snapshot, which is the moment at which it is; while there is a snapshot, it is not.
3. `settle` is called when the slots have decided what runs next, before it does: with the new version for good, the
   snapshot is dropped; with any other, D is put back. A version that does not run over its own data, or over data that
   it says it reads, does not run over it at all: the data is set aside, and it begins with none.
4. Each call that was cut off is simply made again. A record that is gone makes nobody remove a snapshot.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from device_agent.data.trees import TreeError, copy_tree, remove_tree, size_of
from device_agent.slots import durable
from device_agent.slots.records import load, store
from protocol.errors import FleetliftError
from protocol.identity import check_digest, check_id
from protocol.phases import Reason
from protocol.values import FirmwareRef, check_number

_LOG = logging.getLogger(__name__)


class DataError(FleetliftError):
    """The data could not be saved, or put back; `reason` is what an attempt fails of by that."""

    reason = Reason.DATA_FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A version, as the data sees it: the digest of its image, the schema that it writes, and others that it reads."""

    digest: str
    schema: int
    reads: tuple[int, ...] = ()

    def can_read(self, schema: int) -> bool:
        """Tell whether it can work with data of a schema."""
        return schema == self.schema or schema in self.reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A snapshot: the attempt that it was made for, the digest that is tried, and whether that one had the data."""

    attempt_id: str
    digest: str
    handed_over: bool = False

    def __post_init__(self) -> None:
        check_id(self.attempt_id, "attempt_id")
        check_digest(self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """`data.json`: the digest of the version for good that had the data last, and the schema of what it left."""

    digest: str
    schema: int
    kept: Kept | None = None

    def __post_init__(self) -> None:
        check_digest(self.digest)
        check_number(self.schema, "schema")


class DataKeeper:
    """One component's data in `directory`; every call may be slow. Raises DataError unless it says otherwise."""

    def __init__(self, directory: Path, record: Path) -> None:
        self.directory = directory
        self._record_path = record
        self._snapshot = directory.with_name(f".{directory.name}.snapshot")
        self._failed = directory.with_name(f".{directory.name}.failed")

    def changes(self, firmware: FirmwareRef, running: Reader | None) -> bool:
        """Tell whether a firmware writes data of another schema than there is; without any, it does not."""
        record = self._load()
        schema = record.schema if record is not None else running.schema if running is not None else None
        return schema not in (None, firmware.data_schema)

    def keep(self, attempt_id: str, firmware: FirmwareRef, running: Reader | None) -> None:
        """Save the data for the way back from a firmware that changes its schema; nothing may use it now.

        Once that firmware had the data, it is not saved any more.
        """
        record = self._load()
        if record is None and running is not None:
            record = DataRecord(digest=running.digest, schema=running.schema)
        if record is None:
            raise DataError("nothing says of which schema the data is; nothing was switched")
        if record.kept is not None and record.kept.handed_over:
            if record.kept.attempt_id != attempt_id:
                raise DataError("another update of this component still has the data; nothing was switched")
            return
        record = replace(record, kept=None)
        if not firmware.reads(record.schema):
            raise DataError(
                f"{firmware.version} cannot read data of schema {record.schema}, which is there; nothing was switched"
            )
        try:
            self._store(record)
            self._sweep()
            self._check_directory()
            self._check_room()
            copy_tree(self.directory, self._snapshot)
            self._store(replace(record, kept=Kept(attempt_id=attempt_id, digest=firmware.digest)))
        except (OSError, TreeError) as error:
            raise DataError(f"the data could not be saved: {error}; nothing was switched") from error

    def hand_over(self, attempt_id: str) -> None:
        """Note that from now on the new version may change the data, of which there is a snapshot."""
        record = self._load()
        if record is None or record.kept is None or record.kept.attempt_id != attempt_id:
            raise DataError("there is no snapshot of the data; the version before keeps it")
        if record.kept.handed_over:
            return
        try:
            self._store(replace(record, kept=replace(record.kept, handed_over=True)))
        except OSError as error:
            raise DataError(f"the data could not be handed over: {error}; the version before keeps it") from error

    def owes(self, digest: str) -> bool:
        """Tell whether the data is to be put back before a version of this digest may run."""
        record = self._load()
        kept = record.kept if record is not None else None
        return kept is not None and kept.handed_over and kept.digest != digest

    def settle(self, running: Reader) -> None:
        """Make the data that of the version which is to run for good, and which does not run yet."""
        try:
            record = self._load()
            if self.owes(running.digest) and record is not None:
                self._put_back()
                self._store(replace(record, kept=None))
            if record is not None and record.digest != running.digest:
                handed = record.kept is not None and record.kept.handed_over and record.kept.digest == running.digest
                if not handed and not running.can_read(record.schema):
                    self._set_aside(self.directory, f"no version here reads its schema {record.schema}")
                    self.directory.mkdir(durable.DIRECTORY_MODE, parents=True, exist_ok=True)
            self._settled(running)
        except OSError as error:
            raise DataError(f"the data could not be put back: {error}; it is tried again") from error

    def committed(self, running: Reader) -> None:
        """Hear that a version is the one to run for good, and may run; raises nothing: `settle` makes up for it."""
        try:
            self._settled(running)
        except OSError as error:
            _LOG.warning("the snapshot of the data stays for now: %s", error)

    def _settled(self, running: Reader) -> None:
        record = DataRecord(digest=running.digest, schema=running.schema)
        before = self._load()
        if before is None and os.path.lexists(self._snapshot):
            self._set_aside(self._snapshot, "nothing says whose snapshot it is")
        if before != record:
            self._store(record)
        self._sweep()

    def _put_back(self) -> None:
        if not os.path.lexists(self._snapshot):
            if not os.path.lexists(self.directory):
                _LOG.error("neither %s nor its snapshot is there: the data is gone", self.directory)
                self.directory.mkdir(durable.DIRECTORY_MODE, parents=True)
            durable.sync_directory(self.directory.parent)
            return  # it was, and the record does not say so yet
        remove_tree(self._failed)
        if os.path.lexists(self.directory):
            durable.move(self.directory, self._failed)
        durable.move(self._snapshot, self.directory)
        _LOG.warning("the data in %s is as the version before left it", self.directory)

    def _set_aside(self, path: Path, why: str) -> None:
        if not os.path.lexists(path):
            return
        number = 1
        while os.path.lexists(aside := self.directory.with_name(f"{self.directory.name}.set-aside-{number}")):
            number += 1
        durable.move(path, aside)
        _LOG.error("%s is set aside as %s: %s", path, aside, why)

    def _sweep(self) -> None:
        """Remove what nothing needs any more: the record says that no snapshot is kept."""
        for path in (self._snapshot, self._snapshot.with_name(f"{self._snapshot.name}.new"), self._failed):
            remove_tree(path)

    def _check_directory(self) -> None:
        self.directory.parent.mkdir(durable.DIRECTORY_MODE, parents=True, exist_ok=True)
        if not os.path.lexists(self.directory):
            self.directory.mkdir(durable.DIRECTORY_MODE)
        there = self.directory.lstat()
        if not stat.S_ISDIR(there.st_mode):
            raise TreeError(f"{self.directory} is not a directory, and links are not followed")
        if there.st_dev != self.directory.parent.lstat().st_dev:
            raise TreeError(f"{self.directory} is a file system of its own: name a directory in it as data_dir")

    def _check_room(self) -> None:
        wanted, free = size_of(self.directory), durable.free_bytes(self.directory.parent)
        if wanted > free:
            raise TreeError(f"its snapshot takes {wanted} bytes, and {free} are free")

    def _load(self) -> DataRecord | None:
        return load(self._record_path, DataRecord)

    def _store(self, record: DataRecord) -> None:
        store(self._record_path, record)
