"""Where a command gets passphrases from: a file of the operator's alone, or the terminal; never an argument."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from cloud.keys.passphrases import Passphrases, check_passphrase
from protocol.errors import UserError

VARIABLE: Final = "FLEETLIFT_PASSPHRASE_FILE"
MAX_BYTES: Final = 4096
UNPROTECTED: Final = (
    "Warning: nobody was there to choose a passphrase, so keys are made without one, and whoever gets their files can "
    "sign. Protect them: fleetlift key protect --all"
)


def passphrases_from(option: Path | None, warn: Callable[[str], None], *, without: bool = False) -> Passphrases:
    """Return the passphrases of a command.

    They are in the file of `option` or of FLEETLIFT_PASSPHRASE_FILE, else a person at the terminal is asked. `without`
    says that new keys are to have none.

    Raises:
        UserError: the file cannot be used.
    """
    named = option or os.environ.get(VARIABLE)
    if named:
        text = read_passphrase(Path(named).expanduser())
        return Passphrases(lambda _what: text, lambda: None if without else text)
    if sys.stdin.isatty():
        return Passphrases(_ask, (lambda: None) if without else choose_at_terminal)

    def without_anybody() -> None:
        if not without:
            warn(UNPROTECTED)

    return Passphrases(choose=without_anybody)


def read_passphrase(path: Path) -> str:
    """Return the first line of a passphrase file; raises UserError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"the passphrase file {path} cannot be read: {error.strerror}. Nothing was changed.") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UserError(
            f"the passphrase file {path} can be read by others, so it was not used. Nothing was changed; do: chmod 600 "
            f"{path}, and choose another passphrase (`fleetlift key protect`)."
        )
    try:
        text = data.decode().splitlines()[0] if len(data) <= MAX_BYTES else ""
    except (UnicodeDecodeError, IndexError):
        text = ""
    if not text:
        raise UserError(f"{path} holds no passphrase: it is the file's first line. Nothing was changed.")
    return text


def choose_at_terminal() -> str:
    """Ask a person for a new passphrase, twice."""
    said: str = click.prompt("New passphrase for the keys", hide_input=True, confirmation_prompt=True, err=True)
    return check_passphrase(said)


def _ask(what: str) -> str:
    said: str = click.prompt(f"Passphrase of {what}", hide_input=True, err=True)
    return said
