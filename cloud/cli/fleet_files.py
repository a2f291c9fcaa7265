"""Files of whole fleets that come from another tool: CSV with a head line, or one JSON object a line.

    device_id,product,hardware_model,groups,attributes,installed
    kiosk-1,kiosk,raspberrypi4,berlin;test,site=berlin;floor=3,app=1.4.0;os=2.0.0

`device` is another name for `device_id`. Of the columns only that one must be there; lists are separated by `;`, `|` or
blanks. An installed version may be followed by its build and its digest: `app=1.4.0#17@<sha-256>`. An attribute whose
text has blanks stands in a column of its own, `attributes.site`. JSON lines have the same fields: `groups` is a list,
`attributes` an object of texts, `installed` an object of versions or of `{"version", "build", "digest"}`.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.cli.device_lists import read_text
from protocol.errors import ProtocolError, UserError
from protocol.identity import MAX_INTEGER, check_digest, check_id, check_version
from protocol.values import MAX_ATTRIBUTES, MAX_COMPONENTS, MAX_GROUPS, check_text

MAX_BYTES: Final = 128 * 1024 * 1024
MAX_SHOWN: Final = 20
"""How many wrong lines are named."""
FIELDS: Final = ("device_id", "product", "hardware_model", "groups", "attributes", "installed")
_ALIASES: Final = {"device": "device_id"}
_ATTRIBUTE: Final = "attributes."
_SEPARATORS = re.compile(r"[\s;|]+")
_INSTALLED = re.compile(r"(?P<version>[^#@]+)(?:#(?P<build>\d{1,16}))?(?:@(?P<digest>.+))?")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A line that cannot be taken, and why."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class FleetFile:
    """A file that was read: each device as the API takes it, and the lines that are wrong."""

    devices: tuple[Record, ...]
    wrong: tuple[Wrong, ...]


class _LineError(ProtocolError):
    """A line says something that cannot be meant."""


def read_fleet(path: Path, product: str | None) -> FleetFile:
    """Return the devices of a file, in its order; `product` is that of lines that name none.

    Raises UserError for a file that cannot be read at all.
    """
    text = read_text(path, MAX_BYTES)
    rows = _json_lines(text) if text.lstrip()[:1] in ("{", "[") else _csv(path, text)
    devices: list[Record] = []
    wrong: list[Wrong] = []
    lines: dict[str, int] = {}
    for line, read in rows:
        try:
            device = _device(read(), product) | {"line": line}
            if (before := lines.setdefault(device["device_id"], line)) != line:
                raise _LineError(f"{device['device_id']} stands in line {before} already")
            devices.append(device)
        except ProtocolError as error:
            wrong.append(Wrong(line, str(error)))
    if not devices and not wrong:
        raise UserError(f"{path} names no device. Nothing was changed.")
    return FleetFile(tuple(devices), tuple(wrong))


def refusal(path: Path, wrong: list[Wrong]) -> UserError:
    """Return the error that names the wrong lines, as many as are good to read."""
    shown = [f"  line {it.line}: {it.why}" for it in sorted(wrong, key=lambda it: it.line)[:MAX_SHOWN]]
    more = [f"  and {len(wrong) - MAX_SHOWN} more"] if len(wrong) > MAX_SHOWN else []
    count = "1 line is" if len(wrong) == 1 else f"{len(wrong)} lines are"
    head = f"{path}: {count} wrong, and nothing was changed. Correct the file and try again."
    return UserError("\n".join([head, *shown, *more]))


Reading = tuple[int, Callable[[], Record]]


def _csv(path: Path, text: str) -> Iterator[Reading]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    head: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if head is None:
                head = _head(path, reader.line_num, cells)
            else:
                yield reader.line_num, lambda cells=cells, head=head: _from_csv(head, cells)  # type: ignore[misc]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}. Nothing was changed.") from None


def _head(path: Path, line: int, cells: list[str]) -> list[str]:
    head = [_ALIASES.get(cell.strip(), cell.strip()) for cell in cells]
    odd = [name for name in head if name not in FIELDS and not name.startswith(_ATTRIBUTE)]
    if not odd and "device_id" in head and len(set(head)) == len(head):
        return head
    missing = "device_id is not there" if "device_id" not in head else "one is there twice"
    what = f"{odd[0]!r:.60} is none" if odd else missing
    known = f"{', '.join(FIELDS)}, {_ATTRIBUTE}NAME"
    raise UserError(f"{path}, line {line}: the head line names the columns, of {known}: {what}. Nothing was changed.")


def _from_csv(head: list[str], cells: list[str]) -> Record:
    if len(cells) > len(head):
        raise _LineError(f"there are {len(cells)} columns, and the head line has {len(head)}")
    row: Record = {}
    for name, cell in zip(head, (cell.strip() for cell in cells), strict=False):
        if name.startswith(_ATTRIBUTE):
            attributes = row.setdefault("attributes", {})
            if cell:
                attributes[name.removeprefix(_ATTRIBUTE)] = cell
        elif name == "groups":
            row[name] = _parts(cell)
        elif name == "attributes":
            row["attributes"] = row.get("attributes", {}) | dict(_pair(part, "attributes") for part in _parts(cell))
        elif name == "installed":
            row[name] = {key: _installed_text(value) for key, value in (_pair(part, name) for part in _parts(cell))}
        elif cell:
            row[name] = cell
    return row


def _parts(cell: str) -> list[str]:
    return [part for part in _SEPARATORS.split(cell) if part]


def _pair(part: str, column: str) -> tuple[str, str]:
    name, separator, value = part.partition("=")
    if not (name and separator and value):
        raise _LineError(f"{column}: NAME=VALUE is expected, not {part!r:.60}")
    return name, value


def _installed_text(text: str) -> Record:
    match = _INSTALLED.fullmatch(text)
    if match is None:
        raise _LineError(f"installed: VERSION, VERSION#BUILD or VERSION@DIGEST is expected, not {text!r:.60}")
    found: Record = {key: value for key, value in match.groupdict().items() if value is not None}
    return found | ({"build": int(found["build"])} if "build" in found else {})


def _json_lines(text: str) -> Iterator[Reading]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, lambda content=content: _from_json(content)  # type: ignore[misc]


def _from_json(content: str) -> Record:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _LineError(f"not JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise _LineError("a JSON object is expected in each line")
    row = {_ALIASES.get(name, name): value for name, value in row.items() if value is not None}
    if unknown := sorted(set(row) - set(FIELDS)):
        raise _LineError(f"{unknown[0]!r:.50} is not known here ({', '.join(FIELDS)})")
    if not isinstance(row.get("groups", []), list):
        raise _LineError("groups is a list")
    for name in ("attributes", "installed"):
        if not isinstance(row.get(name, {}), dict):
            raise _LineError(f"{name} is an object")
    installed = row.get("installed", {})
    if "installed" in row:
        row["installed"] = {key: {"version": it} if isinstance(it, str) else it for key, it in installed.items()}
    return row


def _device(row: Record, product: str | None) -> Record:
    """Return a line's device as the API takes it, everything in it being what it should be."""
    device: Record = {"product": product} | row
    if device["product"] is None:
        raise _LineError("no product: name it in the file, or with --product")
    for name in ("device_id", "product", "hardware_model"):
        if name in device or name != "hardware_model":
            check_id(device.get(name, ""), name)
    groups = device.setdefault("groups", [])
    if len(groups) >= MAX_GROUPS:
        raise _LineError(f"groups are {MAX_GROUPS - 1} at most")
    for group in groups:
        check_id(group, "group")
    attributes, installed = device.get("attributes") or {}, device.get("installed") or {}
    if len(attributes) > MAX_ATTRIBUTES or len(installed) > MAX_COMPONENTS:
        raise _LineError(f"at most {MAX_ATTRIBUTES} attributes and {MAX_COMPONENTS} components")
    for name, value in attributes.items():
        if not isinstance(value, str):
            raise _LineError(f"attributes.{name}: a text is expected")
        check_text(name, "an attribute's name", 64)
        check_text(value, f"attributes.{name}", 200)
        if (name + value).encode(errors="replace").decode() != name + value:
            raise _LineError(f"attributes.{name!r:.60}: half a character, a lone surrogate, is not text")
    for name, fact in installed.items():
        _check_installed(check_id(name, "installed"), fact)
    return device


def _check_installed(name: str, fact: object) -> None:
    known = {"version", "build", "digest"}
    if not isinstance(fact, dict) or not {"version"} <= set(fact) <= known:
        raise _LineError(f"installed.{name}: a version is expected, or an object of version, build and digest")
    check_version(fact["version"], f"the version of {name}")
    if "digest" in fact:
        check_digest(fact["digest"], f"the digest of {name}")
    if type(fact.get("build", 0)) is not int or not 0 <= fact.get("build", 0) <= MAX_INTEGER:
        raise _LineError(f"the build of {name} is a whole number")
