"""What the machine knows, hears and asks for: the snapshot, the events and the effects; `machine` holds the rules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from protocol.phases import RETRIED_LATER, Outcome, Phase, Reason, Wait
from protocol.schedule import Terms
from protocol.values import FirmwareRef, Scope, Urgency, Via


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One firmware that the device takes, who wanted it, and what of the terms its gates heed (`admission.gated`)."""

    attempt_id: str
    source_id: str
    via: Via
    order: int
    firmware: FirmwareRef
    urgency: Urgency = Urgency.GRADUAL
    mandatory: bool = False
    forced: bool = False
    from_version: str | None = None
    from_digest: str | None = None
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a step waits, and until when if that is known (milliseconds since 1970, by the device's clock)."""

    why: Wait
    until_ms: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """How the last attempt ended."""

    attempt: Attempt
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""

    @property
    def condemns_digest(self) -> bool:
        """Tell whether the device must not try this digest again, unless told."""
        return self.outcome is Outcome.ROLLED_BACK or (
            self.outcome is Outcome.FAILED and self.reason not in RETRIED_LATER
        )

    @property
    def backs_off(self) -> bool:
        """Tell whether the device tries this digest again, later."""
        return self.outcome is Outcome.FAILED and self.reason in RETRIED_LATER


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where the device stands: all that is stored of an attempt, and (the last two) where it waits."""

    phase: Phase = Phase.IDLE
    attempt: Attempt | None = None
    told: Phase | None = None
    """The last phase that an entry of the journal told of."""
    fetched_bytes: int = 0
    """What came over the network in this attempt, as far as it is told yet."""
    received_bytes: int = 0
    """What of the image was there when it was taken, or the agent started last: more of it is progress, not a loop."""
    trials: int = 0
    stores: int = 0
    booted_digest: str | None = None
    reason: Reason | None = None
    """Why it rolls back."""
    detail: str = ""
    concluded: Conclusion | None = None
    gate: Scope | None = None
    waiting: Waiting | None = None

    @property
    def stored(self) -> Snapshot:
        """The part of it that is stored (rule 3)."""
        return replace(self, gate=None, waiting=None)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """The agent started, with so much of the image verified and durable."""

    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Taken(Event):
    """The device decided to take a firmware, of which so much is there from before."""

    attempt: Attempt
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Revised(Event):
    """The operator changed how the same decision is to be carried out."""

    urgency: Urgency
    mandatory: bool
    forced: bool
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Superseded(Event):
    """Something else is wanted now."""


@dataclass(frozen=True, slots=True)
class Withdrawn(Event):
    """Nothing is wanted any more."""


@dataclass(frozen=True, slots=True)
class Waited(Event):
    """The step at the gate may not happen now."""

    waiting: Waiting


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """The download that runs may not go on now."""

    waiting: Waiting


@dataclass(frozen=True, slots=True)
class DownloadCleared(Event):
    """The download may go on."""


@dataclass(frozen=True, slots=True)
class InstallCleared(Event):
    """The image may be written to its slot."""


@dataclass(frozen=True, slots=True)
class RestartCleared(Event):
    """The new version may be started in place of the one that runs."""


@dataclass(frozen=True, slots=True)
class Downloaded(Event):
    """All of the image is there; so many bytes of it came over the network since the agent started."""

    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verified(Event):
    """What is on the disk has the digest that was signed."""


@dataclass(frozen=True, slots=True)
class Staged(Event):
    """The image is in its slot, durably."""


@dataclass(frozen=True, slots=True)
class Activated(Event):
    """The next start is a trial of the new version, durably."""


@dataclass(frozen=True, slots=True)
class BootedNew(Event):
    """The new version runs: the digest of what was started, hashed by the device itself."""

    digest: str


@dataclass(frozen=True, slots=True)
class BootedOld(Event):
    """After a restart of the agent or the device, the new version does not run (any more)."""


@dataclass(frozen=True, slots=True)
class Proved(Event):
    """The trial is good."""


@dataclass(frozen=True, slots=True)
class Confirmed(Event):
    """The new version is the one to start from now on, durably."""


@dataclass(frozen=True, slots=True)
class Reverted(Event):
    """The version before is the one to start, durably, and is started."""


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The step could not be done, or the trial is bad."""

    reason: Reason
    detail: str = ""


class Effect(StrEnum):
    """What is to be done. Each may be done again after a power cut; each but the AWAITs answers with an event."""

    AWAIT_DOWNLOAD = "await_download"
    AWAIT_INSTALL = "await_install"
    AWAIT_RESTART = "await_restart"
    DOWNLOAD = "download"
    """Look the signed firmware up, and fetch what is missing of it: Downloaded or Failed."""
    STOP_DOWNLOAD = "stop_download"
    """Keep what was verified. Answers nothing."""
    VERIFY = "verify"
    """Hash what is on the disk: Verified or Failed."""
    DISCARD = "discard"
    """Forget what was downloaded. Answers nothing."""
    STAGE = "stage"
    """Make the other slot ready: Staged or Failed."""
    ACTIVATE = "activate"
    """Arm one trial: Activated or Failed."""
    RESTART = "restart"
    """Stop the old version and start the new one: BootedNew or Failed; or the device restarts."""
    FIND_TRIAL = "find_trial"
    """Look at what runs: BootedNew or BootedOld."""
    PROVE = "prove"
    """Judge the trial, from its start: Proved or Failed."""
    CONFIRM = "confirm"
    """Make the new version the one to start: Confirmed or Failed."""
    REVERT = "revert"
    """Make the version before the one to start, and start it: Reverted or Failed."""
    REVERT_LATER = "revert_later"
    """The same, after a while."""
