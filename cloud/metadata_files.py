"""The directory of a TUF repository: what lies in it, read back with every signature checked.

`<version>.<role>.json` for each role but the timestamp (consistent snapshots), and `timestamp.json`.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf exports them without saying so
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from cloud.durable import write_durably
from cloud.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TrustError, parse, verify

KEPT_VERSIONS: Final = 20
"""Old snapshots and roles stay this long for devices in the middle of reading them; roots stay for ever."""


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """One piece of metadata: its exact bytes, and what they say."""

    data: bytes
    metadata: Metadata[Any]

    @property
    def version(self) -> int:
        """Its version."""
        return int(self.metadata.signed.version)


@dataclass(frozen=True, slots=True)
class MetadataFiles:
    """The files of one repository. Nothing here decides what is current: the timestamp does."""

    directory: Path

    def put(self, role: str, file: MetadataFile) -> None:
        """Write a role's file durably; raises OSError."""
        name = f"{TIMESTAMP}.json" if role == TIMESTAMP else f"{file.version}.{role}.json"
        write_durably(self.directory / name, file.data)

    def prune(self, role: str) -> None:
        """Remove old versions of a role; a disk that refuses is tried again another time."""
        for version in self.versions(role)[:-KEPT_VERSIONS]:
            with contextlib.suppress(OSError):
                (self.directory / f"{version}.{role}.json").unlink()

    def forget_above(self, role: str, version: int) -> None:
        """Remove what lies above a version, when versions begin anew; raises OSError."""
        for higher in self.versions(role):
            if higher > version:
                (self.directory / f"{higher}.{role}.json").unlink()

    def versions(self, role: str) -> list[int]:
        """Return the versions of a role that lie here, ascending; one that a crash left may be among them."""
        texts = (path.name.partition(".")[0] for path in self.directory.glob(f"*.{role}.json"))
        return sorted(int(text) for text in texts if text.isdecimal())

    def bytes_of(self, role: str, version: int) -> bytes | None:
        """Return the bytes of one version of a role, or None."""
        try:
            return (self.directory / f"{version}.{role}.json").read_bytes()
        except FileNotFoundError:
            return None

    def read(self, name: str, kind: type[Any]) -> MetadataFile:
        """Return a file by name, its signatures not checked; raises TrustError with what to do."""
        try:
            data = (self.directory / name).read_bytes()
            return MetadataFile(data, parse(data, kind, name))
        except FileNotFoundError:
            raise TrustError(f"{self.directory / name} is missing: restore the directory from a backup") from None
        except TrustError as error:
            raise TrustError(f"{self.directory} is damaged: {error}. Restore it from a backup") from None

    def read_root(self) -> MetadataFile:
        """Return the newest root, the chain to it verified; raises TrustError."""
        versions = self.versions(ROOT)
        if not versions:
            raise TrustError(
                f"{self.directory} is not a metadata repository: it has no root; `fleetlift init` makes one"
            )
        return verify_roots(tuple(self.read(f"{version}.{ROOT}.json", Root).data for version in versions))[-1]

    def read_snapshot(self, root: MetadataFile) -> tuple[MetadataFile | None, MetadataFile]:
        """Return timestamp and snapshot; raises TrustError.

        A timestamp that the disk lost is None: then the snapshot is the newest that the root vouches for. It may be one
        that a crash kept from becoming current; whatever it names was written before it, and is as good.
        """
        try:
            timestamp = self.read(f"{TIMESTAMP}.json", Timestamp)
        except TrustError:
            versions = self.versions(SNAPSHOT)
            if not versions:
                raise
            snapshot = self.read(f"{versions[-1]}.{SNAPSHOT}.json", Snapshot)
            verify(root.metadata, SNAPSHOT, snapshot.metadata)
            return None, snapshot
        version = timestamp.metadata.signed.snapshot_meta.version
        return timestamp, self.read(f"{version}.{SNAPSHOT}.json", Snapshot)

    def read_offline(self, root: MetadataFile, snapshot: MetadataFile) -> dict[str, MetadataFile]:
        """Return `targets` and the products' roles that a snapshot names, verified; raises TrustError."""
        meta: Mapping[str, MetaFile] = snapshot.metadata.signed.meta
        files = {
            name: self.read(f"{item.version}.{name}.json", Targets)
            for name, item in ((key.removesuffix(".json"), item) for key, item in meta.items())
        }
        damaged = [name for name, file in files.items() if not _fits(meta[f"{name}.json"], file.data)]
        if damaged or TARGETS not in files:
            what = ", ".join(damaged) or TARGETS
            raise TrustError(f"{self.directory} is damaged ({what}): restore it from a backup")
        targets = self._verified(TARGETS, files[TARGETS], root.metadata)
        others = {name: file for name, file in files.items() if name != TARGETS}
        return {TARGETS: targets} | {
            name: self._verified(name, file, targets.metadata) for name, file in others.items()
        }

    def _verified(self, name: str, file: MetadataFile, delegator: Metadata[Root] | Metadata[Targets]) -> MetadataFile:
        """Return a role's current file, or the newer one that came with new keys when a crash cut that short.

        Such a change is written before the root that names the keys, and the root is current as soon as it lies here.
        """
        try:
            verify(delegator, name, file.metadata)
        except TrustError as refused:
            for version in reversed(self.versions(name)):
                if version > file.version:
                    with contextlib.suppress(TrustError):
                        newer = self.read(f"{version}.{name}.json", Targets)
                        verify(delegator, name, newer.metadata)
                        return newer
            raise refused from None
        return file


def verify_roots(roots: tuple[bytes, ...]) -> tuple[MetadataFile, ...]:
    """Return a chain of roots, each signed by itself and by the one before it; raises TrustError."""
    chain = tuple(MetadataFile(data, parse(data, Root, ROOT)) for data in roots)
    if not chain:
        raise TrustError("there is no root to begin with")
    for before, root in zip((chain[0], *chain), chain, strict=False):
        if root is not chain[0] and root.version != before.version + 1:
            raise TrustError(f"root version {before.version + 1} is missing")
        verify(before.metadata, ROOT, root.metadata)
        verify(root.metadata, ROOT, root.metadata)
    return chain


def _fits(meta: MetaFile, data: bytes) -> bool:
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True
