"""What an attack must leave alone, taken from outside: slots byte for byte, trusted metadata, the journal's content.

A fingerprint holds everything that decides what a device runs or tells. Left out is what counting and talking change
by themselves: the counters of refusals (they are asserted, not compared), the session's number, how far the cloud
acknowledged the journal (an entry is the same whether it was told yet or not), and, of a Desired, what says when it was
said and not what it says. Everything else is compared to the byte.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.devices import Device

PASSING_FACTS = {"session", "acknowledged", "holders_boot"}
PASSING_OF_DESIRED = {"seq", "session", "issued_at_ms", "notices", "metadata_version"}
STAGING = {"target", "target.json", "application.json", "application.json.new", "application.log"}
"""Beside the slots: what is on its way into one, which process runs, and what it says."""
TABLES = ("installed", "floors", "failed", "backing_off", "chunks", "chunk_lists")
ATTEMPT = {"entries", "facts", "backing_off"}
"""What an attempt that is refused half-way writes: its entries, where the device stands, when to try again."""


@dataclass(frozen=True)
class Fingerprint:
    """`slots` and `trust` by path, `journal` by what it is about."""

    slots: Mapping[str, str]
    trust: Mapping[str, str]
    journal: Mapping[str, Any]

    def changes(self, other: "Fingerprint") -> dict[str, tuple[Any, Any]]:
        """Name what differs in `other`, with both values."""
        found: dict[str, tuple[Any, Any]] = {}
        for kind in ("slots", "trust", "journal"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            for name in {*mine, *theirs}:
                if mine.get(name) != theirs.get(name):
                    found[f"{kind}/{name}"] = (mine.get(name), theirs.get(name))
        return found


def fingerprint(device: Device) -> Fingerprint:
    """Take a device's fingerprint; it may run meanwhile."""
    return Fingerprint(
        slots=files_in(device.seen.slots, besides=STAGING),
        trust=files_in(device.state_dir / "metadata"),
        journal=journal_of(device),
    )


def files_in(directory: Path, besides: Iterable[str] = ()) -> dict[str, str]:
    """Each file, link and directory by its relative path: mode, and link target or SHA-256."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name not in besides:
            with suppress(FileNotFoundError):  # of a file that is just being replaced
                found[name] = _look_of(path)
    return found


def _look_of(path: Path) -> str:
    mode = f"{path.lstat().st_mode:o}"
    if path.is_symlink():
        return f"{mode} -> {path.readlink()}"
    return mode if path.is_dir() else f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def journal_of(device: Device) -> dict[str, Any]:
    """The journal's content: facts, entries (told or not), what was heard, and every table of what was learnt."""
    facts = {row["name"]: row["value"] for row in device.journal("SELECT * FROM facts")}
    entries = device.journal("SELECT seq, body FROM entries UNION SELECT seq, body FROM told ORDER BY seq")
    content: dict[str, Any] = {table: device.journal(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}  # noqa: S608
    content["facts"] = {name: value for name, value in facts.items() if name not in PASSING_FACTS}
    content["entries"] = [row["body"] for row in entries]
    content["seen"] = {row["channel"]: _heard(row) for row in device.journal("SELECT * FROM seen")}
    return content


def _heard(row: Mapping[str, Any]) -> Any:
    if row["channel"] != "desired":
        return row["seq"], row["payload"]
    message = json.loads(json.loads(row["payload"])["payload"])
    return {key: value for key, value in message.items() if key not in PASSING_OF_DESIRED}


def new_entries(before: Fingerprint, after: Fingerprint) -> list[dict[str, Any]]:
    """What the journal has to tell that it had not; fails if anything that it had is gone or altered."""
    old, new = before.journal["entries"], after.journal["entries"]
    assert new[: len(old)] == old, "entries were lost or altered"
    return [json.loads(body) for body in new[len(old) :]]


def refused(device: Device) -> dict[str, int]:
    """What the agent says that it refused, by code, since its journal began."""
    counters: dict[str, int] = device.control("status")["status"]["refused"]
    return counters
