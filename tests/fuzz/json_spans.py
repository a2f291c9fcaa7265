"""Where the values of a JSON text lie, so that a mutation is a cut and a splice and not a parse."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_TOKEN = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Spans:
    """(begin, end) of every value, of every key, and of every member or list item that stands with its comma."""

    values: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    items: tuple[tuple[int, int], ...]
    texts: tuple[tuple[int, int], ...]
    """Those of the values that are strings which hold JSON themselves."""


def spans_of(text: bytes) -> Spans:
    """Return the spans of a text that is JSON, or of as much of it as looks like it."""
    values: list[tuple[int, int]] = []
    keys: list[tuple[int, int]] = []
    items: list[tuple[int, int]] = []
    texts: list[tuple[int, int]] = []
    open_at: list[int] = []
    item_at: list[int] = []
    position = 0
    pending: tuple[int, int] | None = None
    while match := _TOKEN.match(text, position):
        begin, end = match.span(1)
        position, token = match.end(), match[1]
        if token in (b"{", b"["):
            open_at.append(begin)
            item_at.append(end)
        elif token in (b"}", b"]"):
            if open_at:
                values.append((open_at.pop(), end))
                last = item_at.pop()
                if last < begin:
                    items.append((last, begin))
        elif token == b",":
            if item_at:
                items.append((item_at[-1], end))
                item_at[-1] = end
        elif token == b":":
            if pending and values and values[-1] == pending:
                keys.append(values.pop())
        else:
            values.append((begin, end))
            if token[:1] == b'"' and token[1:2] in (b"{", b"["):
                texts.append((begin, end))
        pending = (begin, end)
    return Spans(tuple(values), tuple(keys), tuple(items), tuple(texts))


def unquoted(token: bytes) -> bytes | None:
    """Return what a string's token says, or None if it is none."""
    try:
        value = json.loads(token)
        return value.encode() if isinstance(value, str) else None
    except ValueError:
        return None


def quoted(content: bytes) -> bytes:
    """Return bytes as a JSON string's token."""
    return json.dumps(content.decode("utf-8", errors="replace"), ensure_ascii=False).encode()
