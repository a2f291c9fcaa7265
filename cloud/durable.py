"""Files that are whole or not there, also after a power cut: written beside, synced, renamed, directory synced."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
LEFTOVER: Final = ".part"
"""How the name of a file that is being written ends; what is left of one after a crash may go."""


def make_private_directory(path: Path) -> Path:
    """Make a directory that only this user may enter, and its parents; one that exists is left as it is."""
    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    return path


def beside(path: Path) -> Path:
    """Return a fresh name in the same directory, for content that is going to be `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{LEFTOVER}")


def write_durably(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a private file (0600) and return when it is on the disk; raises OSError and then leaves what was there.

    Without `replace` an existing file is never touched: FileExistsError.
    """
    temporary = beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
        sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):  # renamed already, or the disk refuses this too
            temporary.unlink()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Remove what writes that never ended left behind; only before anybody writes there."""
    for path in directory.glob(f".*{LEFTOVER}"):
        path.unlink(missing_ok=True)
