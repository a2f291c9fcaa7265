"""Whose turn it is: never two members of one redundancy set unconfirmed at once. A pure function.

A device that has something to install waits for a turn in all its sets at once. Who asked first goes first: a device
is granted its turn when no other member of any of its sets holds one, and nobody who has waited longer waits in any of
them. So two members of a set are never granted together (only one of them has waited longest), and nobody starves: who
has waited longest of all waits for holders alone, and they end. The price is that a device may wait for one that waits
elsewhere; it is the price of being fair to devices in several sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """How a member stands in its redundancy sets."""

    FREE = "free"
    WAITS = "waits"
    """It asked for its turn."""
    HOLDS = "holds"
    """It has its turn, or is unconfirmed without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMember:
    """A member of a redundancy set, and the attempt with which it holds or waits; the lowest `asked` is next."""

    device_id: str
    product: str
    online: bool
    standing: Standing
    attempt_id: str
    asked: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedundancySetView:
    """Devices of which never two are unconfirmed at once."""

    name: str
    members: tuple[SetMember, ...]
    created_at_ms: int
    created_by: str


@dataclass(frozen=True, slots=True, order=True)
class Asked:
    """A device that waits for its turn: the lower the number, the longer. No two have the same."""

    number: int
    device_id: str


def grants(
    sets: Mapping[str, AbstractSet[str]], waiting: Iterable[Asked], holding: AbstractSet[str]
) -> tuple[str, ...]:
    """Return the devices whose turn it is now, by the rule at the head of this file, in the order in which they asked.

    `sets` names the members of each set; who is in none has its turn whenever it asks. `waiting` are those who can
    take a turn now: who is not connected neither gets one nor keeps others waiting.
    """
    taken = {name for name, members in sets.items() if members & holding}
    granted: list[str] = []
    for asked in sorted(waiting):
        mine = {name for name, members in sets.items() if asked.device_id in members}
        if not mine & taken and asked.device_id not in holding:
            granted.append(asked.device_id)
        taken |= mine  # who comes later waits for this one, whether it goes or waits itself
    return tuple(granted)
