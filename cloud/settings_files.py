"""Files of settings, read strictly: what is wrong is named with its file, line and key, and nothing is half read."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from protocol.errors import UserError

MAX_SETTINGS_BYTES: Final = 256 * 1024
_TABLE = re.compile(r"\s*\[\s*([A-Za-z0-9_.\"' -]+?)\s*\]")
_KEY = re.compile(r"\s*(?:\"([^\"]+)\"|'([^']+)'|([A-Za-z0-9_-]+))\s*(?:\.[^=]*)?=")
_SYNTAX_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")

M = TypeVar("M", bound=BaseModel)


def read_settings(path: Path, kind: type[M]) -> M:
    """Return what a file says; a missing one gives the defaults.

    Raises:
        UserError: it cannot be read, is not TOML, or has a key or value that is not known or not possible; the text
            names the file, the line and the key.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was started or changed.") from error
    if len(raw) > MAX_SETTINGS_BYTES:
        raise UserError(f"{path} has more than {MAX_SETTINGS_BYTES} bytes. Nothing was started or changed.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refusal(path, raw[: error.start].count(b"\n") + 1, "the text is not UTF-8") from None
    try:
        return kind.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        location = tuple(str(part) for part in first["loc"])
        raise _refusal(path, _line_of(text, location), _explain(kind, location, dict(first))) from None
    except (ValueError, RecursionError) as error:  # also thousands of digits, and of brackets
        raise _syntax_refusal(path, text, str(error)) from None


def _refusal(path: Path, line: int, why: str) -> UserError:
    return UserError(f"{path}, line {line}: {why}. Nothing was started or changed; correct the file and try again.")


def _syntax_refusal(path: Path, text: str, problem: str) -> UserError:
    where = _SYNTAX_LINE.search(problem)
    line = int(where[1]) if where else text.count("\n") + 1
    key = _KEY.match((text.splitlines() or [""])[min(line, len(text.splitlines()) or 1) - 1])
    at_key = f"at the key '{next(name for name in key.groups() if name)}': " if key else ""
    return _refusal(path, line, f"{at_key}not TOML: {_SYNTAX_LINE.sub('', problem)}")


def _explain(kind: type[BaseModel], location: tuple[str, ...], problem: dict[str, Any]) -> str:
    name = ".".join(location)
    if problem["type"] != "extra_forbidden":
        why = str(problem["msg"]).removeprefix("Value error, ")
        return f"the key '{name}': {why[:1].lower()}{why[1:]}"
    known = _known_keys(kind, location[:-1])
    close = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
    return f"the key '{name}' is not known ({hint})"


def _known_keys(kind: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    return sorted(kind.model_fields)


def _line_of(text: str, location: tuple[str, ...]) -> int:
    """Return the line on which a key stands: TOML readers tell values, not places."""
    table: tuple[str, ...] = ()
    best = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = tuple(part.strip(" \"'") for part in header[1].split("."))
            if table == location[: len(table)]:
                best = number
        elif (key := _KEY.match(line)) and (*table, next(name for name in key.groups() if name)) == location:
            return number
    return best
