"""What the runner works with beside its own: who fetches images, and who serves the applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from device_agent.effects import Fetches as EffectsFetches
from protocol.values import FirmwareRef


class Fetches(EffectsFetches, Protocol):
    """Fetches images (`fetching.Fetching`)."""

    @property
    def progress(self) -> tuple[int, int] | None:
        """Verified and durable bytes, and all bytes, of the image that is being fetched."""

    def received_bytes(self, firmware: FirmwareRef) -> int:
        """Return how much of an image is verified and durable."""

    def link_up(self) -> None:
        """Go on."""

    def link_down(self) -> None:
        """Wait."""

    def on_chunk(self, blob: str, payload: bytes | memoryview) -> None:
        """Take a chunk, in the link's thread."""


class Control(Protocol):
    """The control socket (`control.ControlServer`)."""

    def start(self) -> None:
        """Serve it."""

    def stop(self) -> None:
        """Stop it."""

    def publish(self, event: Mapping[str, Any]) -> None:
        """Tell the applications."""
