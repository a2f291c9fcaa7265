"""Where applications and people are heard: what stands behind the control socket, in whatever thread it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from device_agent.availability import Gatekeeper
from device_agent.control import Hold
from device_agent.loop import Loop


class Desk:
    """Implements `control.ControlHandler`. The loop's thread sets `standing`, and the three that it is called with."""

    def __init__(self, loop: Loop, gatekeeper: Gatekeeper) -> None:
        self._loop = loop
        self._gatekeeper = gatekeeper
        self.standing: Mapping[str, Any] = {}
        self.contact: Callable[[], Mapping[str, Any]] = dict
        """What else the status says: of the broker and the identity; called in any thread."""
        self.on_check: Callable[[], None] = _nothing
        self.on_confirm: Callable[[float], None] = lambda _at_s: None
        self.on_ready: Callable[[], None] = _nothing

    def status(self) -> dict[str, Any]:
        """Return how the device stood last."""
        return {**self.standing, **self.contact(), "updates_enabled": self._gatekeeper.enabled}

    def disable(self, until: float | None, why: str) -> None:
        """Let no update start; durable before it returns."""
        self._gatekeeper.disable(until, why)

    def enable(self) -> None:
        """Let updates start; durable before it returns."""
        self._gatekeeper.enable()

    def holds_changed(self, holds: tuple[Hold, ...]) -> None:
        """Hear which holds are in force."""
        self._gatekeeper.holds_changed(holds)

    def check(self) -> None:
        """Ask the cloud now."""
        self._loop.post(self.on_check)

    def confirm(self) -> None:
        """Take the version that runs for good."""
        at_s = self._loop.monotonic()
        self._loop.post(lambda: self.on_confirm(at_s))

    def ready(self) -> None:
        """Install what is downloaded now."""
        self._loop.post(self.on_ready)


def _nothing() -> None:
    pass
