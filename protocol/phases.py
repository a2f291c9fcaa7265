"""One vocabulary for the life of an update: on the wire, in the journal, in the database, on the screen."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a device is with an update; also the states of the device's machine."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    INSTALLING = "installing"
    RESTARTING = "restarting"
    PROVING = "proving"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why an attempt did not succeed."""

    # before anything was changed: outcome `failed`
    UNTRUSTED = "untrusted"
    """The signed metadata does not vouch for this firmware."""
    BELOW_FLOOR = "below_floor"
    """Release managers retired firmware with this sequence number."""
    INCOMPATIBLE = "incompatible"
    """The signed hardware models, requirements or formats do not admit this device."""
    TOO_LARGE = "too_large"
    """The image is larger than the slot, or than the space left."""
    STORAGE_FAILED = "storage_failed"
    """The disk refused to write or to make durable."""
    DOWNLOAD_FAILED = "download_failed"
    """The chunks could not be had, in the time allowed."""
    DIGEST_MISMATCH = "digest_mismatch"
    """What was written does not have the digest that was signed."""
    INSTALL_FAILED = "install_failed"
    """The slot could not be made ready."""
    DATA_FAILED = "data_failed"
    """The application's data could not be drained or saved before its schema changes."""
    # after the switch: outcome `rolled_back`
    INTERRUPTED = "interrupted"
    """Power or the agent went away at a point from which going back is the safe way."""
    START_FAILED = "start_failed"
    """The new version did not start, or ended by itself."""
    WRONG_BOOT = "wrong_boot"
    """What runs is not what was to be tried."""
    HEALTH_FAILED = "health_failed"
    """The health check did not pass, or did not go on passing."""
    NOT_CONFIRMED = "not_confirmed"
    """The application was to confirm the trial, and did not."""
    BROKER_UNREACHED = "broker_unreached"
    """The new version ran, and the broker was not reached again."""
    COMMIT_FAILED = "commit_failed"
    """The trial was good and could not be made permanent."""
    # outcome `cancelled`
    SUPERSEDED = "superseded"
    """Something else is wanted now."""
    WITHDRAWN = "withdrawn"
    """Nothing is wanted any more."""


class Wait(StrEnum):
    """Why a device that has something to take does not take it now."""

    DISABLED = "disabled"
    """The application disabled updates."""
    HELD = "held"
    """Somebody holds updates for a reason of their own."""
    NEXT_SESSION = "next_session"
    """A gradual release: taken at the start of the next session, or at the next check."""
    NEXT_START = "next_start"
    """Downloaded: installed when the application starts again, or says it is ready."""
    FAILED_BEFORE = "failed_before"
    """This digest failed on this device, which does not try it again unless told."""
    BACKING_OFF = "backing_off"
    """The last attempt at it failed for want of something that may come back."""
    BUSY = "busy"
    """Another component's update is under way."""
    WINDOW = "window"
    """Outside the maintenance windows of the release, by the device's own time."""
    CONSENT = "consent"
    """Somebody at the device is asked, and has not agreed, or deferred it."""
    DECLINED = "declined"
    """Somebody at the device declined it."""
    TURN = "turn"
    """Another member of a redundancy set is being updated, or the cloud has not said yet that none is."""
    DATA_SYNC = "data_sync"
    """It changes the schema of the data, and the application has not said that its data is synced."""
    REQUIREMENT = "requirement"
    """It needs another component, or agent, than is installed."""
    BREAKS = "breaks"
    """Another component that is installed would not work with it."""
    DATA_SCHEMA = "data_schema"
    """It cannot read the data that is there."""
    BASE_FIRST = "base_first"
    """A release of another component comes first."""


RETRIED_LATER: Final = frozenset({Reason.TOO_LARGE, Reason.STORAGE_FAILED, Reason.DOWNLOAD_FAILED, Reason.UNTRUSTED})
"""Failures that say nothing about the digest: the device tries again, with back-off."""

LWM2M_STATE: Final = {
    Phase.IDLE: 0,
    Phase.DOWNLOADING: 1,
    Phase.VERIFYING: 1,
    Phase.INSTALLING: 2,
    Phase.RESTARTING: 3,
    Phase.PROVING: 3,
    Phase.COMMITTING: 3,
    Phase.ROLLING_BACK: 3,
}
"""OMA LwM2M object 5, resource 3 (State): 0 Idle, 1 Downloading, 2 Downloaded, 3 Updating."""

LWM2M_RESULT: Final = {
    Outcome.SUCCEEDED: 1,
    Reason.TOO_LARGE: 2,
    Reason.STORAGE_FAILED: 2,
    Reason.DOWNLOAD_FAILED: 4,
    Reason.DIGEST_MISMATCH: 5,
    Reason.UNTRUSTED: 5,
    Reason.BELOW_FLOOR: 5,
    Reason.INCOMPATIBLE: 6,
    Reason.INSTALL_FAILED: 8,
    Reason.DATA_FAILED: 8,
    Reason.INTERRUPTED: 8,
    Reason.START_FAILED: 8,
    Reason.WRONG_BOOT: 8,
    Reason.HEALTH_FAILED: 8,
    Reason.NOT_CONFIRMED: 8,
    Reason.BROKER_UNREACHED: 8,
    Reason.COMMIT_FAILED: 8,
    Reason.SUPERSEDED: 10,
    Reason.WITHDRAWN: 10,
}
"""OMA LwM2M object 5, resource 5 (Update Result): 1 success, 2 no storage, 4 connection lost, 5 integrity,
6 unsupported package, 8 update failed, 10 cancelled."""
