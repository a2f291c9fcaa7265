"""The planner: which releases a notice carries, which devices a release would reach, and why each other one waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cloud.fleet import FleetView
from protocol.down import NoticeRelease
from protocol.errors import FleetliftError
from protocol.identity import EVERYONE
from protocol.values import FirmwareRef, Via


class TooManyReleasesError(FleetliftError):
    """A channel has more enabled releases that may still reach somebody than one notice can carry."""


class HoldReason(StrEnum):
    """Why a device is not moved."""

    # nothing to do
    UP_TO_DATE = "up_to_date"
    NOTHING_RELEASED = "nothing_released"
    # the operator's decisions
    OTA_OFF = "ota_off"
    NOT_IN_GROUP = "not_in_group"
    PINNED = "pinned"
    SINGLE_DEVICE = "single_device"
    HIGHER_RANK = "higher_rank"
    PERCENTAGE = "percentage"
    TARGET_RANGE = "target_range"
    # what the device is
    HARDWARE = "hardware"
    FLOOR = "floor"
    REQUIREMENT = "requirement"
    FAILED_BEFORE = "failed_before"
    # what the device is doing
    OFFLINE = "offline"
    DISABLED = "disabled"
    HELD = "held"
    NEXT_SESSION = "next_session"
    NEXT_START = "next_start"
    BACKING_OFF = "backing_off"
    BUSY = "busy"
    UNDER_WAY = "under_way"


@dataclass(frozen=True, slots=True)
class Hold:
    """A device that is not moved, and why; `detail` is a sentence for people."""

    device_id: str
    component: str
    reason: HoldReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Who would take a candidate: `takes` sooner or later, by their ids, and why each other device would not."""

    takes: tuple[str, ...]
    holds: tuple[Hold, ...]
    sentence: str
    """For the operator: how many devices it reaches, or that it reaches nobody, and why."""

    @property
    def reach(self) -> int:
        """The number of devices that would take it."""
        return len(self.takes)


@dataclass(frozen=True, slots=True)
class Move:
    """A device that takes a firmware now."""

    device_id: str
    component: str
    firmware: FirmwareRef
    via: Via
    source_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens next in a fleet: every device and component is in one of the two, once."""

    actions: tuple[Move, ...]
    holds: tuple[Hold, ...]


def notice_releases(releases: Sequence[NoticeRelease]) -> tuple[NoticeRelease, ...]:
    """Return the releases that a notice must carry; raises TooManyReleasesError."""
    raise NotImplementedError


def forecast(view: FleetView, candidate: NoticeRelease, group: str = EVERYONE) -> Forecast:
    """Return who would take `candidate` if it were released to `group` now."""
    raise NotImplementedError


def plan(view: FleetView, now_ms: int) -> Plan:
    """Return what happens next, and a typed reason for every device that is not moved."""
    raise NotImplementedError
