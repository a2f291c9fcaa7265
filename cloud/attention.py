"""Which devices need somebody, and why: frozen values, worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.phases import Wait


class Trouble(StrEnum):
    """Why a device needs somebody; the worst first."""

    TAKEN_BACK = "taken_back"
    """It reported success, and then that it runs another image."""
    FAILED = "failed"
    """Its newest attempt at some component failed."""
    ROLLED_BACK = "rolled_back"
    """Its newest attempt at some component was rolled back."""
    REFUSED = "refused"
    """It sent messages within the last day that were refused."""
    CERTIFICATE = "certificate"
    """Its certificate expires soon, or has expired: it should have renewed it long ago."""
    BLOCKED = "blocked"
    """What it is to take needs something else first."""
    QUIET = "quiet"
    """It has been away for long."""
    HELD = "held"
    """Its application holds back for long what was decided."""
    TURN = "turn"
    """It waits for its turn in a redundancy set."""


AT: Final[Mapping[Trouble, str]] = {
    Trouble.TAKEN_BACK: "reported",
    Trouble.FAILED: "ended",
    Trouble.ROLLED_BACK: "ended",
    Trouble.REFUSED: "last",
    Trouble.CERTIFICATE: "ends",
    Trouble.BLOCKED: "decided",
    Trouble.QUIET: "last heard",
    Trouble.HELD: "decided",
    Trouble.TURN: "",
}
"""What `DeviceInNeed.at_ms` is the time of."""
BLOCKING: Final = frozenset({Wait.REQUIREMENT, Wait.BREAKS, Wait.DATA_SCHEMA, Wait.BASE_FIRST})
HOLDING: Final = frozenset({Wait.HELD, Wait.DISABLED})
DAY_MS: Final = 86_400_000
HELD_LONG_MS: Final = DAY_MS
"""From when on something that was decided is held back for long."""
EXPIRES_SOON_MS: Final = 14 * DAY_MS
"""A device renews its certificate when a third of its life is left, a month: it has failed to for two weeks."""
REFUSED_LATELY_MS: Final = DAY_MS
MAX_NAMED: Final = 100
"""Devices of one product that are named for each trouble; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInNeed:
    """A device that needs somebody; AT tells what `at_ms` is; None where nobody knows."""

    device_id: str
    product: str
    at_ms: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How many devices of a product have one trouble, and some of them, the newest first."""

    trouble: Trouble
    product: str
    count: int
    devices: tuple[DeviceInNeed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataNeed:
    """A role of the signed metadata that expires soon, or has expired: why that matters, and what renews it.

    `product` is empty for what is signed for all of them; `command` is run where the keys are.
    """

    role: str
    product: str
    version: int
    expires_at_ms: int
    has_expired: bool
    why: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductNumbers:
    """A product's devices: how many there are, are connected, and have been away for long.

    `failed` are devices whose newest attempt at some component did not succeed, `failures` the same by reason (one may
    be there for two); `versions` by component and version how many devices run it, and how many of those are connected.
    """

    product: str
    devices: int
    online: int
    quiet: int
    failed: int
    failures: Mapping[str, int]
    versions: Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The whole fleet as it was counted at one time."""

    counted_at_ms: int
    products: Mapping[str, ProductNumbers]
    needs: tuple[Need, ...]
