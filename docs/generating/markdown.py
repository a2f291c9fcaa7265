"""Pieces of Markdown: cells, tables and headings whose anchors do not depend on what stands around them."""

import re
from collections.abc import Iterable, Sequence

_SPACES = re.compile(r"\s+")


def plain(text: str) -> str:
    """Return a text for people, so that nothing in it is taken for markup but what stands between backticks."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", part)
        for part in re.split(r"(`[^`\n]+`)", text)
    )


def code(text: object) -> str:
    """Return a text as code; backticks in it are kept apart."""
    said = str(text)
    return f"`` {said} ``" if "`" in said else f"`{said}`"


def cell(text: str) -> str:
    """Return what stands in a table: one line, and no bar that would end it."""
    return re.sub(r"(?<!\\)\|", r"\\|", _SPACES.sub(" ", text).strip())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or nothing without a row."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, ""])


def heading(level: int, text: str) -> str:
    """Return a heading."""
    return f"{'#' * level} {text}"


def page(parts: Iterable[str]) -> str:
    """Return parts with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())
