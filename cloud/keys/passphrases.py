"""Passphrases of private keys: asked for once in a command, remembered while it runs, and written nowhere."""

import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from protocol.errors import FleetliftError

MIN_LENGTH: Final = 8
HOW: Final = "Say it at a terminal, or keep it in a file of yours alone and name that with --passphrase-file"

T = TypeVar("T")
Ask = Callable[[str], str | None]
"""Returns the passphrase of what is named, or None when nobody can be asked."""


class PassphraseError(FleetliftError):
    """A passphrase is missing, wrong or too weak; no key was used or changed."""


def nobody(_what: str) -> str | None:
    """Ask nobody."""
    return None


class Passphrases:
    """What was said is tried on every key that comes after; a person is asked again only where none of it fits.

    `ask` is asked for the passphrase of keys that exist, `choose` for one that keys to be made are to have (None:
    they get none).
    """

    def __init__(self, ask: Ask = nobody, choose: Callable[[], str | None] = lambda: None) -> None:
        self._ask, self._choose = ask, choose
        self._known: list[bytes] = []
        self._secrets: dict[str, bytes] = {}
        self._chosen: bytes | None = None
        self._has_chosen = False

    def unlock(self, what: str, attempt: Callable[[bytes], T]) -> T:
        """Return what `attempt` makes of the passphrase of `what`; it raises ValueError for a wrong one.

        Raises:
            PassphraseError: nobody says it, or what is said is wrong.
        """
        for known in self._known:
            with contextlib.suppress(ValueError):
                return attempt(known)
        said = self.secret(what)
        try:
            opened = attempt(said)
        except ValueError:  # the library's texts may quote what it was given
            raise PassphraseError(
                f"that is not the passphrase of {what}; nothing was signed or changed. {HOW}"
            ) from None
        self._known.insert(0, said)
        return opened

    def secret(self, what: str) -> bytes:
        """Return the passphrase, or PIN, of `what`, asking for it once; raises PassphraseError."""
        if what not in self._secrets:
            said = self._ask(what)
            if said is None:
                raise PassphraseError(f"{what} is protected by a passphrase; nothing was signed or changed. {HOW}")
            self._secrets[what] = said.encode()
        return self._secrets[what]

    def for_new_keys(self) -> bytes | None:
        """Return the passphrase for keys that are made now: the one that opened another key, else one that is chosen.

        Raises PassphraseError for a weak one.
        """
        if self._known and not self._has_chosen:
            return self._known[0]
        if not self._has_chosen:
            chosen = self._choose()
            self._chosen = None if chosen is None else check_passphrase(chosen).encode()
            self._has_chosen = True
            if self._chosen is not None:
                self._known.insert(0, self._chosen)
        return self._chosen


def check_passphrase(text: str) -> str:
    """Return `text` if it may protect a key; raises PassphraseError."""
    if len(text) < MIN_LENGTH:
        raise PassphraseError(f"a passphrase has {MIN_LENGTH} characters or more; no key was made or changed")
    return text
