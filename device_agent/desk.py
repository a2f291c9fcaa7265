"""Where applications and people are heard: what stands behind the control socket, in whatever thread it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from device_agent.availability import Gatekeeper
from device_agent.consent import Consents
from device_agent.control import ControlError, Hold
from device_agent.events import Waiting
from device_agent.loop import Loop
from device_agent.reasoning import reasoned
from protocol.selection import Decision


class Desk:
    """Implements `control.ControlHandler`. The loop's thread sets `standing`, and the three that it is called with."""

    def __init__(self, loop: Loop, gatekeeper: Gatekeeper, consents: Consents) -> None:
        self._loop = loop
        self._gatekeeper = gatekeeper
        self._consents = consents
        self.standing: Mapping[str, Any] = {}
        self.contact: Callable[[], Mapping[str, Any]] = dict
        """What else the status says: of the broker and the identity; called in any thread."""
        self.on_check: Callable[[], None] = _nothing
        self.on_confirm: Callable[[float], None] = lambda _at_s: None
        self.on_ready: Callable[[], None] = _nothing
        self.on_data_synced: Callable[[bool], None] = lambda _synced: None
        self.on_gauge: Callable[[str, int, str | None], None] = lambda _name, _value, _component: None
        """Takes a gauge, in any thread; raises ControlError."""
        self.decisions: Callable[[], tuple[tuple[Decision, Waiting | None], ...]] = tuple
        """What is to be done about each component, and for what it waits; called in any thread."""

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

    def data_synced(self, synced: bool) -> None:
        """Hear that the application's data is synced and rests, or does not any more."""
        self._loop.post(lambda: self.on_data_synced(synced))

    def gauge(self, name: str, value: int, component: str | None) -> None:
        """Take a gauge; raises ControlError."""
        self.on_gauge(name, value, component)

    def consent(self, component: str | None) -> None:
        """Let what asks for attention be installed; durable before it returns."""
        self._consents.consent(component)

    def defer(self, seconds: int, component: str | None) -> float:
        """Put it off; durable before it returns until when. Raises ConsentError."""
        return self._consents.defer(seconds, component)

    def decline(self, component: str | None) -> None:
        """Do not install it; durable before it returns. Raises ConsentError."""
        self._consents.decline(component)

    def why(self, component: str | None) -> list[dict[str, Any]]:
        """Return the decision about a component, or about each; raises ControlError."""
        found = [item for item in self.decisions() if component in (None, item[0].component)]
        if component is not None and not found:
            raise ControlError(f"nothing is known of a component {component}; nothing was changed")
        return reasoned(found)


def _nothing() -> None:
    pass
