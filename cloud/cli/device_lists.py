"""Lists of devices that are to be enrolled: CSV with a head line, or one JSON object a line."""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import IdentityError, UserError
from protocol.identity import check_id
from protocol.values import MAX_GROUPS

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEVICES: Final = 2000
COLUMNS: Final = ("device_id", "hardware_model", "groups")
_SEPARATORS = re.compile(r"[\s;|]+")


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A device, and the line that names it; `hardware_model` is None for the product's only one."""

    line: int
    device_id: str
    hardware_model: str | None
    groups: tuple[str, ...]


def read_devices(path: Path) -> tuple[ListedDevice, ...]:
    """Return the devices of a list, in its order; raises UserError with the line that is wrong.

    CSV has the columns `device_id`, `hardware_model` and `groups` (separated by blanks, `;` or `|`), of which only the
    first must be there; JSON lines have fields of these names, `groups` being a list.
    """
    text = read_text(path, MAX_BYTES)
    rows = _json_lines(path, text) if text.lstrip()[:1] == "{" else _csv(path, text)
    found: list[ListedDevice] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        device = _device(path, line, row)
        if (before := lines.setdefault(device.device_id, line)) != line:
            raise _wrong(path, line, f"{device.device_id} stands in line {before} already")
        found.append(device)
        if len(found) > MAX_DEVICES:
            raise _wrong(path, line, f"a list has {MAX_DEVICES} devices at most; cut it into several")
    if not found:
        raise UserError(f"{path} names no device. Nothing was changed.")
    return tuple(found)


def read_text(path: Path, max_bytes: int) -> str:
    """Return a list's text; raises UserError for one that is too large, or is no text."""
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from None
    if len(raw) > max_bytes:
        raise UserError(f"{path} has more than {max_bytes} bytes. Nothing was changed.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, raw[: error.start].count(b"\n") + 1, "the text is not UTF-8") from None


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    head: list[str] | None = None
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if head is None:
                head = [cell.strip() for cell in cells]
                if "device_id" not in head or not set(head) <= set(COLUMNS) or len(set(head)) < len(head):
                    raise _wrong(path, line, f"the head line names columns of {', '.join(COLUMNS)}, device_id for one")
            elif len(cells) > len(head):
                raise _wrong(path, line, f"there are {len(cells)} columns, and the head line has {len(head)}")
            else:
                row: dict[str, Any] = {name: cell.strip() for name, cell in zip(head, cells, strict=False)}
                row["groups"] = [group for group in _SEPARATORS.split(row.get("groups", "")) if group]
                yield line, row
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"not CSV: {error}") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, line, f"not JSON: {str(error)[:100]}") from None
        if not isinstance(row, dict):
            raise _wrong(path, line, "a JSON object is expected")
        yield line, row


def _device(path: Path, line: int, row: dict[str, Any]) -> ListedDevice:
    if unknown := sorted(set(row) - set(COLUMNS)):
        raise _wrong(path, line, f"{unknown[0]!r:.50} is not known here ({', '.join(COLUMNS)})")
    groups = row.get("groups", [])
    if not isinstance(groups, list) or len(groups) >= MAX_GROUPS:
        raise _wrong(path, line, f"groups are a list of {MAX_GROUPS - 1} at most")
    model = row.get("hardware_model") or None
    try:
        check_id(row.get("device_id", ""), "device")
        if model is not None:
            check_id(model, "hardware model")
        for group in groups:
            check_id(group, "group")
    except IdentityError as error:
        raise _wrong(path, line, str(error)) from None
    return ListedDevice(line, row["device_id"], model, tuple(groups))


def _wrong(path: Path, line: int, why: str) -> UserError:
    return UserError(f"{path}, line {line}: {why}. Nothing was changed; correct the file and try again.")
