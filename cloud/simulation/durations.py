"""Durations, shares and places in time as people write them on a command line, and as they read them in a table."""

from __future__ import annotations

import re
from typing import Final

from protocol.errors import UserError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PARTS: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,3})?[smhdw])+")
_PART: Final = re.compile(r"([\d.]+)([smhdw])")
_SHARE: Final = re.compile(r"\d{1,3}(?:\.\d{1,6})?%")
MAX_S: Final = 10 * 366 * 86_400


def parse_duration(text: str) -> float:
    """Return the seconds that `90s`, `30m`, `1h30m`, `2d` or `1w` are, ten years at most; raises UserError."""
    if text.strip() == "0":
        return 0.0
    if not _PARTS.fullmatch(text.strip()):
        raise UserError(f"{text!r:.80} is not a duration such as 90s, 30m, 1h30m, 2d or 1w. Nothing was simulated.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > MAX_S:
        raise UserError(f"{text!r:.80} is more than ten years. Nothing was simulated.")
    return seconds


def parse_share(text: str) -> float:
    """Return the part of 1 that a percentage such as `15%` or `0.5%` is; raises UserError."""
    if not _SHARE.fullmatch(text.strip()) or float(text.strip()[:-1]) > 100:
        raise UserError(
            f"{text!r:.80} is not a percentage from 0% to 100%, such as 15% or 0.5%. Nothing was simulated."
        )
    return float(text.strip()[:-1]) / 100


def spoken(seconds: float | None) -> str:
    """Return a duration in its two largest units, as `1d 3h`, `25m` or `40s`; `-` for None."""
    if seconds is None:
        return "-"
    left, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
