"""What every slots backend offers: six steps and a target, each safe to repeat and to be cut off at any point.

The order of an update is `open_target`, `Target.write` and `Target.digest`, `stage`, `activate`, `apply`, and then
`confirm` or `revert`. The rules:

1. What runs is not touched before `apply`; nothing that was not hashed from the disk is staged.
2. Whatever a step did is durable when it returns; a step that was cut off is repeated, or undone by `revert`.
3. Until `confirm` returned, `revert` brings back the version before, from whatever it finds.
4. A step that fails raises SlotError with the Reason that the attempt ends with; it says what was not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from protocol.errors import FleetliftError
from protocol.phases import Reason
from protocol.values import ComponentState, FirmwareRef

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) at least once for each mebibyte; may raise to stop the work."""


class SlotError(FleetliftError):
    """A slot did not do what it was asked to; `reason` is what the attempt failed of."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Apply(StrEnum):
    """What makes the applied version run."""

    NONE = "none"
    """It runs already."""
    RESTART_APPLICATION = "restart_application"
    """The application's next start."""
    REBOOT = "reboot"
    """The device's next boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsView:
    """How a component's slots stand.

    `running` and `running_image` are what the next start starts (None: nothing that is whole); `other` is the slot
    beside it. `trial` tells of a version that was activated or applied and not confirmed: without an attempt that
    knows of it, it is to be reverted. `capacity_bytes` is the largest image that could be taken now; `reads_schemas`
    are the schemas of data that what runs takes over, besides its own.
    """

    running: ComponentState | None
    running_image: Path | None
    other: ComponentState | None
    trial: bool
    capacity_bytes: int
    reads_schemas: tuple[int, ...] = ()


class Target(Protocol):
    """Where an image is written, in any order and from any thread; it never is what runs."""

    @property
    def kept(self) -> bool:
        """Whether what was written before is still there.

        If not, whatever was remembered of this image's chunks is void.
        """

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset` (bytes); raises SlotError, also beyond the image's end or after `close`."""

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there; fewer bytes, or none, beyond the image's end; raises SlotError."""

    def sync(self) -> None:
        """Make durable all that was written before the call.

        Raises SlotError; once it has, it always does: what the disk lost then is not known.
        """

    def read_back(self, durable_bytes: int) -> None:
        """Hear how much of the image, from its beginning, is durable and complete; returns at once, raises nothing.

        It may be read back from the disk from now on, so that `digest` has only the rest to read.
        """

    def digest(self, progress: Progress | None = None) -> str:
        """Return the SHA-256 (hexadecimal) of the image as the disk has it, past the page cache; raises SlotError.

        Every byte is read after it was made durable; those of which `read_back` was told maybe before this call.
        """

    def close(self) -> None:
        """Let go of the file when the calls in progress have ended; what was written stays."""


class Slots(Protocol):
    """One component's slots. Every step but `inspect` raises SlotError."""

    def inspect(self) -> SlotsView:
        """Return how the slots stand; never raises for what it finds."""

    def open_target(self, firmware: FirmwareRef) -> Target:
        """Return the target for this image, its whole size reserved; keeps what is there for the same digest.

        Raises SlotError (TOO_LARGE) before anything is written if the image is larger than the slot or the disk.
        """

    def stage(self, firmware: FirmwareRef) -> None:
        """Make the target, once its digest is right, the image of the slot that does not run."""

    def activate(self, firmware: FirmwareRef) -> None:
        """Arm one trial of the staged image."""

    def apply(self, firmware: FirmwareRef) -> Apply:
        """Make the next start the trial's, and return what that start is."""

    def confirm(self, firmware: FirmwareRef) -> None:
        """Make the version on trial the one that `revert` comes back to."""

    def revert(self) -> None:
        """Make the next start that of the committed version, or of the best that is left."""

    def discard(self) -> None:
        """Drop a target that is not staged, and the space it takes."""
