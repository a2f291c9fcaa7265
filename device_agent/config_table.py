"""A table of a TOML file that says where each mistake is: file, line and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.errors import FleetliftError, UserError
from protocol.identity import check_id

MAX_CONFIG_BYTES: Final = 256 * 1024
T = TypeVar("T")


def read_table(path: Path, *, known: Collection[str]) -> Table:
    """Return the table that is the whole file; raises UserError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the agent's settings with --config") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also thousands of digits, and of brackets
        raise UserError(f"{path}: not TOML: {error}") from error
    return Table(path, text, (), values, known=known)


class Table:
    """One table of the file. A key that is not known is told before anything else: it may be another one, mistyped."""

    def __init__(
        self, path: Path, text: str, names: tuple[str, ...], values: Mapping[str, Any], *, known: Collection[str] | None
    ) -> None:
        self.path = path
        self.names = names
        self._text = text
        self._values = values
        for key in values:
            if known is not None and key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
                raise self.error(key, f"not a key of this table; {hint}")

    def keys(self) -> list[str]:
        """Return the names of its keys."""
        return list(self._values)

    def table(self, key: str, default: Any = ..., *, known: Collection[str] | None) -> Table:
        """Return a table in it; `known` are its keys, None: any."""
        return Table(self.path, self._text, (*self.names, key), self.take(key, dict, default), known=known)

    def take(self, key: str, kind: type[T] | tuple[type, ...], default: Any = ...) -> Any:
        """Return a value that is a `kind`; without a default, it must be there. All that follow raise UserError."""
        if key not in self._values:
            if default is ...:
                raise self.error(None, f"{'.'.join((*self.names, key))} is missing")
            return default
        value = self._values[key]
        # bool is an int to Python, and not to a person.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(_KINDS.get(item, item.__name__) for item in kinds)
            raise self.error(key, f"{wanted} is expected, not {value!r:.60}")
        return value

    def text(self, key: str, default: Any = ..., *, one_of: tuple[str, ...] = ()) -> Any:
        """Return a text."""
        value = self.take(key, str, default)
        if one_of and value not in one_of:
            raise self.error(key, f"{value!r:.60} is not one of {', '.join(one_of)}")
        return value

    def id(self, key: str, default: Any = ...) -> Any:
        """Return an id (`[a-z0-9-]{1,64}`)."""
        value = self.take(key, str, default)
        return None if value is None else self.checked(key, lambda: check_id(value))

    def seconds(self, key: str, default: float, *, low: float = 0.0, high: float = 366 * 86_400.0) -> float:
        """Return a time."""
        value = float(self.take(key, (int, float), default))
        if not low <= value <= high:
            raise self.error(key, f"{value:g} is not {low:g} to {high:g} seconds")
        return value

    def whole(self, key: str, default: int | None, *, low: int, high: int) -> Any:
        """Return a whole number."""
        value = self.take(key, int, default)
        if value is not None and not low <= value <= high:
            raise self.error(key, f"{value} is not {low} to {high}")
        return value

    def file(self, key: str, default: Any = ...) -> Any:
        """Return a path, relative to the file's directory."""
        value = self.take(key, str, default)
        return None if value is None else (self.path.parent / value).absolute()

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of words that is empty or begins with a program."""
        value = self.take(key, list, [])
        if not all(isinstance(word, str) for word in value) or (value and not value[0]):
            raise self.error(key, "a list of words is expected, the program first")
        return tuple(value)

    def texts(self, key: str) -> Mapping[str, str]:
        """Return a table of texts."""
        value = self.take(key, dict, {})
        if not all(isinstance(item, str) for item in value.values()):
            raise self.error(key, "a table of texts is expected")
        return dict(value)

    def checked(self, key: str, check: Callable[[], T]) -> T:
        """Return what `check` returns; what it raises is told of this key."""
        try:
            return check()
        except FleetliftError as error:
            raise self.error(key, str(error)) from error

    def error(self, key: str | None, what: str) -> UserError:
        """Return a UserError that says where."""
        name = ".".join((*self.names, key) if key else self.names)
        line = self._line(key)
        return UserError(f"{self.path}{f':{line}' if line else ''}: {f'{name}: ' if key else ''}{what}")

    def _line(self, key: str | None) -> int | None:
        """Return the line, from 1, on which the key stands, or the header of its table."""
        table, inside, header_line = ".".join(self.names), "", None
        if not key and not table:
            return None
        assignment = re.compile(rf"(?:^|[\s{{,.])[\"']?{re.escape(key or self.names[-1])}[\"']?\s*[=.]")
        for number, line in enumerate(self._text.splitlines(), start=1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                inside = re.sub(r"[\s\"']", "", header[1])
                if key and inside == f"{table}.{key}".lstrip("."):
                    return number
                header_line = number if inside == table else header_line
            elif table.startswith(inside) and assignment.search(line.split("#")[0]):
                return number
        return header_line


_KINDS: Final[Mapping[type, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}
