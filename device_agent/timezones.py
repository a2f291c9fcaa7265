"""The device's time zone, by its name in the IANA database: what its settings say, or else its system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from protocol.schedule import zone_of
from protocol.values import MAX_TIMEZONE

UTC_NAMES: Final = frozenset({"UTC", "Etc/UTC", "Universal", "Etc/Universal", "Zulu", "GMT", "Etc/GMT"})
_DATABASE: Final = "zoneinfo/"


def system_timezone(environment: Mapping[str, str], etc: Path = Path("/etc")) -> str:
    """Return the zone of this system, the empty text (UTC) if it has none that is known.

    The environment's TZ (POSIX.1, with or without its colon), then `timezone` in /etc, then where its `localtime`
    points.
    """
    return next((name for name in (_told(environment), _written(etc), _linked(etc)) if name and is_known(name)), "")


def is_known(name: str) -> bool:
    """Tell whether this device can tell the time of a zone."""
    return len(name) <= MAX_TIMEZONE and (name in UTC_NAMES or zone_of(name) is not zone_of(""))


def _told(environment: Mapping[str, str]) -> str:
    told = environment.get("TZ", "").removeprefix(":")
    return told.rpartition(_DATABASE)[2] if told.startswith("/") else told


def _written(etc: Path) -> str:
    try:
        with (etc / "timezone").open(encoding="utf-8") as file:
            return file.read(2 * MAX_TIMEZONE).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _linked(etc: Path) -> str:
    try:
        target = str((etc / "localtime").readlink())
    except OSError:
        return ""
    return target.partition(_DATABASE)[2]
