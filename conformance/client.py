"""What the conformance suite has a client do: the agent's updater and its fetcher, over a broker.

Trusted metadata lies in one directory as python-tuf lays it out, and beside it, as `initial-root`, the root that the
client was initialised with. A target lies in its directory under the SHA-256 of its path: no name of a repository's
becomes a path here either.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # exported without saying so

from conformance.names import to_wire
from conformance.wire import wire
from device_agent.metadata import Ask, BundleFetcher, DurableUpdater, make_private, write_durably
from protocol.errors import FleetliftError

INITIAL_ROOT: Final = "initial-root"


class ClientError(FleetliftError):
    """The command failed; what was trusted before still is."""


class SuiteFetcher(BundleFetcher):
    """The agent's fetcher without a bundle, for roles of any name."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        base, _, name = url.rpartition("/")
        return super()._fetch(f"{base}/{to_wire(name)}")


def init(metadata_directory: Path, root: bytes) -> None:
    """Keep the root that everything is to be verified from; it is looked at when it is used."""
    make_private(metadata_directory)
    write_durably(metadata_directory / INITIAL_ROOT, root)


@dataclass(frozen=True, slots=True)
class Client:
    """The client that `init` began, for one command.

    What python-tuf raises comes through; ClientError where there is no root, or nothing to download.
    """

    metadata_directory: Path
    metadata_url: str
    now: datetime

    def refresh(self) -> None:
        """Bring the metadata up to date."""
        with wire(self._directory(), self.metadata_url, {}) as ask:
            self._updater(ask).refresh()

    def download(self, path: str, targets_url: str, directory: Path) -> Path:
        """Bring the metadata up to date, and return where the target lies, fetched if it was not there, and whole."""
        agreed: dict[str, str] = {}
        with wire(self._directory(), self.metadata_url, agreed) as ask:
            updater = self._updater(ask)
            updater.refresh()
            target = updater.get_targetinfo(path)
            if target is None:
                raise ClientError(f"the repository has no target {path!r:.200}")
            name = hashlib.sha256(path.encode()).hexdigest()
            destination = directory / name
            if not _is_there(target, destination):
                alias = f"target-{name[:32]}.json"
                agreed[alias] = f"{targets_url.rstrip('/')}/{_published_as(target, updater.root.consistent_snapshot)}"
                data = ask(alias)
                if data is None:
                    raise ClientError(f"{path!r:.200} is signed, but the repository does not have it")
                target.verify_length_and_hashes(data)
                make_private(directory)
                write_durably(destination, data)
        return destination

    def _directory(self) -> Path:
        if not (self.metadata_directory / INITIAL_ROOT).is_file():
            raise ClientError(f"{self.metadata_directory} has no initial root: `init` comes first; nothing was done")
        return self.metadata_directory

    def _updater(self, ask: Ask) -> DurableUpdater:
        bootstrap = (self.metadata_directory / INITIAL_ROOT).read_bytes()
        return DurableUpdater(self.metadata_directory, bootstrap, SuiteFetcher({}, None, ask), self.now)


def _is_there(target: TargetFile, path: Path) -> bool:
    try:
        target.verify_length_and_hashes(path.read_bytes())
    except (OSError, LengthOrHashMismatchError):
        return False
    return True


def _published_as(target: TargetFile, consistent: bool | None) -> str:
    """Return the target's path in a repository's URL (TUF 1.0.34, section 6.2: its digest before its name)."""
    directory, slash, name = target.path.rpartition("/")
    path = f"{directory}{slash}{next(iter(target.hashes.values()))}.{name}" if consistent else target.path
    return quote(path, safe="/%")
