"""What can be decided for many devices at once, and what came of it: values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from protocol.values import Urgency

EXAMPLES: Final = 5


class Deed(StrEnum):
    """What is done to each of the devices."""

    ADD_TO_GROUP = "add_to_group"
    REMOVE_FROM_GROUP = "remove_from_group"
    LOCK = "lock"
    UNLOCK = "unlock"
    OTA = "ota"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOrder:
    """A deed on devices of one product; `group`, or `component` and `version`, as far as the deed takes them."""

    product: str
    deed: Deed
    group: str = ""
    component: str = ""
    version: str = ""
    urgency: Urgency = Urgency.IMMEDIATE
    forced: bool = False
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class BulkOutcome:
    """What came of it: `changed` devices are as was ordered now, `unchanged` ones were so before.

    `left_out` counts the others by why they cannot be, and `examples` names some of each. `decision` is the number of
    its row in the audit; None if nothing was changed.
    """

    decision: int | None = None
    devices: int = 0
    changed: int = 0
    unchanged: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
