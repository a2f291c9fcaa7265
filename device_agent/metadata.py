"""python-tuf's client as a device needs it: fed from a bundle, durable against power cuts, told what time it is.

python-tuf (7.0) never calls fsync: after a power cut its files may be empty, and then it takes old metadata for new.
So two private methods of its Updater are overridden here, and a test fails when they are renamed. What is lost all the
same is fetched again, from the bootstrap root on; the floors, which are kept elsewhere, outlive that.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # exported without saying so
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from protocol.patches import Patch
from protocol.values import check_metadata_name

Ask = Callable[[str], bytes | None]
"""Fetches a metadata file by its name; None when the cloud says that there is none. Whatever it raises is no answer."""

CONFIG: Final = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=8,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=1_000_000,
    targets_max_length=5_000_000,
)
"""Limits in bytes. A file that other metadata states the length of is read to that length only."""
_BASE_URL: Final = "metadata:/"


class BundleFetcher(FetcherInterface):
    """Serves files from a bundle, and asks for what is not in it.

    `root_version` is the root that the bundle stands on: newer ones are not asked for, so that an update costs no
    round trip. Who says it lower than it is can hide a new root until the timestamp expires, and not longer.
    `patches` are applied to the roles in `directory`, where they stand on these.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        root_version: int | None,
        ask: Ask,
        patches: Mapping[str, Patch] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._files = files
        self._root_version = root_version
        self._ask = ask
        self._patches = patches or {}
        self._directory = directory

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file of at most `max_length` bytes (python-tuf's own goes through a temporary file)."""
        data = b"".join(self.fetch(url))
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url} has {len(data)} bytes, at most {max_length} are read")
        return data

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        data = self._files.get(name) or self._patched(name)
        if data is None and not self._is_newer_root(name):
            data = self._ask(check_metadata_name(name))
        if data is None:
            raise DownloadHTTPError(f"there is no {name}", 404)
        return iter((data,))

    def _patched(self, name: str) -> bytes | None:
        patch = self._patches.get(name)
        if patch is None or self._directory is None:
            return None
        try:
            return patch.apply((self._directory / check_metadata_name(name.partition(".")[2])).read_bytes())
        except OSError:
            return None

    def _is_newer_root(self, name: str) -> bool:
        version, _, rest = name.partition(".")
        return self._root_version is not None and rest == "root.json" and int(version) > self._root_version


class DurableUpdater(Updater):
    """python-tuf's Updater over files that survive a power cut, by a clock that is given to it."""

    def __init__(self, directory: Path, bootstrap: bytes, fetcher: BundleFetcher, now: datetime) -> None:
        make_private(directory)
        make_private(directory / "root_history")
        super().__init__(str(directory), _BASE_URL, fetcher=fetcher, config=CONFIG, bootstrap=bootstrap)
        self._trusted_set.reference_time = now

    @property
    def root(self) -> Root:
        """The root that is trusted now."""
        return self._trusted_set.root

    @property
    def expires(self) -> datetime:
        """When the first of all that was verified so far expires."""
        expires: datetime = min(signed.expires for signed in self._trusted_set)
        return expires

    def role(self, name: str) -> Targets | None:
        """Return a verified delegated role that was looked into, or None."""
        role = self._trusted_set.get(name)
        return role if isinstance(role, Targets) else None

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        with contextlib.suppress(OSError):  # what cannot be read is replaced: the disk may be good everywhere else
            if path.read_bytes() == data:
                return
        write_durably(path, data)

    def _update_root_symlink(self) -> None:
        # Nobody reads this link, the bootstrap root is always given; python-tuf's own is gone for a moment each time.
        link, fresh = Path(self._dir, "root.json"), Path(self._dir, "root.json.new")
        current = Path("root_history", f"{self._trusted_set.root.version}.root.json")
        if link.is_symlink() and link.readlink() == current:
            return
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(current)
        fresh.replace(link)
        sync_directory(link.parent)


def newest_root(directory: Path, bootstrap: bytes) -> Root:
    """Return the newest root that is stored, as far as each is signed by the one before; raises RepositoryError."""
    root = _verified_root(bootstrap, None)
    while True:
        path = directory / "root_history" / f"{root.version + 1}.root.json"
        try:
            root = _verified_root(path.read_bytes(), root)
        except (OSError, RepositoryError):
            return root


def _verified_root(data: bytes, before: Root | None) -> Root:
    metadata = Metadata[Root].from_bytes(data)
    root: object = metadata.signed
    if not isinstance(root, Root):
        raise RepositoryError(f"metadata of type {metadata.signed.type}, not root")
    if before is not None:
        if root.version != before.version + 1:
            raise RepositoryError(f"root version {root.version} where {before.version + 1} comes next")
        before.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    return root


def make_private(directory: Path) -> None:
    """Make a directory if it is not there, and nobody else's business (0700)."""
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
        sync_directory(directory.parent)
    directory.chmod(0o700)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file (0600) by `data`, so that after a power cut either the old or the new one is there whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make durable which files a directory has."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
