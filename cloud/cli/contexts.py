"""Named contexts: servers that an operator has logged in to, in a directory of the operator's alone.

`$XDG_CONFIG_HOME/fleetlift/contexts/NAME.toml` says where (cloud/config.py's OperatorContext), `NAME.token` holds the
API token, `NAME.crt` what the server's certificate is checked by; `current` names the one that is used by itself.
"""

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.config import Home, OperatorContext, load_context
from cloud.durable import make_private_directory, write_durably
from protocol.errors import IdentityError, UserError
from protocol.identity import check_id

CONTEXT_VARIABLE: Final = "FLEETLIFT_CONTEXT"
SETTINGS, TOKEN, AUTHORITY = ".toml", ".token", ".crt"
MAX_NAME_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a context's settings and token are; `name` is None for a home's own."""

    name: str | None
    settings: Path
    token: Path

    def load(self) -> OperatorContext:
        """Return the context; raises UserError."""
        return load_context(self.settings)


def place_in(home: Home) -> Place:
    """Return the place of a home's own context."""
    return Place(None, home.context_file, home.token_file)


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts in a directory; names are checked before they become paths."""

    directory: Path

    @classmethod
    def of_user(cls) -> "Contexts":
        """Return the contexts of whoever runs this."""
        config = os.environ.get("XDG_CONFIG_HOME", "")
        root = Path(config) if config.startswith("/") else Path("~/.config").expanduser()
        return cls(root / "fleetlift")

    def names(self) -> list[str]:
        """Return the names of all contexts; raises UserError when they cannot be read."""
        try:
            found = sorted(path.stem for path in self._contexts.iterdir() if path.suffix == SETTINGS)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self._contexts} cannot be read: {error.strerror}. Nothing was sent.") from None
        return [name for name in found if _is_name(name)]

    def place(self, name: str) -> Place:
        """Return the place of a context, which need not be there; raises UserError for what is no name."""
        if not _is_name(name):
            raise UserError(
                f"{name!r:.80} is not a context's name: small letters, digits and hyphens. Nothing was sent."
            )
        return Place(name, self._contexts / f"{name}{SETTINGS}", self._contexts / f"{name}{TOKEN}")

    def find(self, name: str) -> Place:
        """Return the place of a context; raises UserError where there is none, with the one that may be meant."""
        place = self.place(name)
        if name in (names := self.names()):
            return place
        close = difflib.get_close_matches(name, names, n=1)
        known = f"Did you mean {close[0]!r}?" if close else f"There is {', '.join(names) or 'none at all'}."
        raise UserError(f"there is no context {name!r}. {known} Nothing was sent; `fleetlift login URL` makes one.")

    def current(self) -> str | None:
        """Return the name of the context that is used by itself, if there is one."""
        try:
            with self._current.open(encoding="ascii") as file:
                name = file.read(MAX_NAME_BYTES).strip()
        except (OSError, UnicodeDecodeError):
            return None
        return name if name in self.names() else None

    def use(self, name: str) -> None:
        """Let a context be used by itself; raises UserError."""
        self.find(name)
        with _written(self._current):
            write_durably(self._current, f"{name}\n".encode())

    def write(self, name: str, context: OperatorContext, token: str, authority: bytes | None) -> Place:
        """Write a context, the settings last, in place of one of the same name; raises UserError."""
        place = self.place(name)
        crt = self._contexts / f"{name}{AUTHORITY}"
        said = context.model_dump(exclude_none=True) | ({"ca": crt.name} if authority is not None else {})
        lines = ["# What commands assume with this context; `fleetlift login` wrote it."]
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]
        with _written(place.settings):
            make_private_directory(self._contexts)
            if authority is not None:
                write_durably(crt, authority)
            write_durably(place.token, f"{token}\n".encode())
            write_durably(place.settings, "\n".join([*lines, ""]).encode())
        return place

    def forget_token(self, name: str) -> bool:
        """Remove a context's token from this machine; return whether there was one. Raises UserError."""
        place = self.find(name)
        with _written(place.token):
            there = place.token.exists()
            place.token.unlink(missing_ok=True)
        return there

    def remove(self, name: str) -> None:
        """Remove a context, its token first; raises UserError."""
        place = self.find(name)
        was_current = self.current() == name
        with _written(place.settings):
            place.token.unlink(missing_ok=True)
            place.settings.unlink(missing_ok=True)
            (self._contexts / f"{name}{AUTHORITY}").unlink(missing_ok=True)
            if was_current:
                self._current.unlink(missing_ok=True)

    @property
    def _contexts(self) -> Path:
        return self.directory / "contexts"

    @property
    def _current(self) -> Path:
        return self.directory / "current"


def _is_name(name: str) -> bool:
    try:
        return bool(check_id(name))
    except IdentityError:
        return False


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} could not be written: {why}. Nothing was changed there.", exit_code=1) from None
