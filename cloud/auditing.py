"""Checking an export of the record of decisions: whether any row was changed, removed or moved. Pure, and offline.

Each row's hash covers the row and the hash before it, so the rows vouch for each other from the first one on. What was
cut off at the end only the newest hash, kept somewhere else, can tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

FIRST_PREV_HASH: Final = "0" * 64
FIELDS: Final = frozenset(
    {"number", "at_ms", "actor", "action", "subject", "before", "after", "prev_hash", "hash", "origin"}
)
_NEEDED: Final = FIELDS - {"origin"}


def canonical(value: object) -> str:
    """Return the text that is hashed: JSON with sorted keys, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(fields: dict[str, Any]) -> str:
    """Return the hash that a row of these fields must have; `origin` is covered where there is one."""
    covered = {name: value for name, value in fields.items() if name != "hash"}
    return hashlib.sha256(canonical(covered).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an export is worth: `why_not` says what is wrong with which row, and is empty where nothing is.

    `rows` were read until then; the last one that is good has `number` and `hash`.
    """

    rows: int
    number: int
    hash: str
    why_not: str = ""


def verify(lines: Iterable[str], *, head: str | None = None) -> Verdict:
    """Check an export line by line; `head` is the hash that was once the newest, so one of the rows must have it."""
    number, before, rows = 0, FIRST_PREV_HASH, 0
    seen_head = head == before
    for rows, line in enumerate(lines, 1):
        if why := _why_wrong(line, number, before):
            return Verdict(rows=rows, number=number, hash=before, why_not=f"line {rows}: {why}")
        number, before = number + 1, json.loads(line)["hash"]
        seen_head = seen_head or before == head
    why = ""
    if head is not None and not seen_head:
        why = f"the end is cut off: row {number} is the last, and none has the hash {head:.64}"
    return Verdict(rows=rows, number=number, hash=before, why_not=why)


def _why_wrong(line: str, number: int, before: str) -> str:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return "it is no JSON object"
    if not isinstance(fields, dict) or not _NEEDED <= set(fields) <= FIELDS:
        return "it is no row of the record"
    found = (
        (
            line.rstrip("\n") != canonical(fields),
            f"row {fields['number']!r:.40} was changed: it is not written as the server writes it",
        ),
        (
            fields["number"] != number + 1,
            f"row {number + 1} is not here, row {fields['number']!r:.40} is: some were removed, or moved",
        ),
        (
            fields["prev_hash"] != before,
            f"row {number + 1} does not follow the row before it: one of the two was changed",
        ),
        (fields["hash"] != hash_of(fields), f"row {number + 1} was changed: its hash is not that of what it says"),
    )
    return next((why for is_wrong, why in found if is_wrong), "")
