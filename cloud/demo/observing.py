"""Looking at a device from outside: its slots on disk, its running application, never the agent's own word."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BLOCK_BYTES: Final = 1 << 20


def digest_of(path: Path) -> str | None:
    """Return a file's SHA-256, or None where there is none."""
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                whole.update(block)
    except OSError:
        return None
    return whole.hexdigest()


@contextmanager
def read_only(database: Path) -> Iterator[sqlite3.Connection]:
    """Open somebody else's SQLite database for reading."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Observed:
    """A device's directory, looked at from outside."""

    state_dir: Path
    component: str = "app"

    @property
    def slots(self) -> Path:
        """The component's slots."""
        return self.state_dir / "components" / self.component

    @property
    def status_file(self) -> Path:
        """What the sample application writes about itself."""
        return self.state_dir / "data" / self.component / "status.json"

    def current_digest(self) -> str | None:
        """Return the SHA-256 of the image in the current slot, computed here and now."""
        return digest_of(self.slots / "current" / "image")

    def current_slot(self) -> str | None:
        """Return the name of the current slot."""
        try:
            return (self.slots / "current").readlink().name
        except OSError:
            return None

    def application(self) -> dict[str, Any]:
        """Return what the running application last wrote, or nothing if no application runs."""
        try:
            status = json.loads(self.status_file.read_text(encoding="utf-8"))
            # A process id is soon somebody else's: it has to run an image out of these slots.
            command = Path(f"/proc/{int(status['pid'])}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return dict(status) if os.fsencode(self.slots.absolute()) in command else {}

    def running_version(self) -> str | None:
        """Return the version that the living application says of itself."""
        version = self.application().get("version")
        return str(version) if version is not None else None

    def runs(self, version: str, digest: str) -> bool:
        """Tell whether the living application is this version, and the current slot holds this very image."""
        return self.running_version() == version and self.current_digest() == digest
