"""Whether an application's data is synced, where an update changes its schema: what it said, and for which attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from device_agent.config import ComponentSettings
from device_agent.events import Attempt, Waiting
from protocol.facts import DeviceFacts
from protocol.phases import Wait
from protocol.values import Scope

APPLICATION: Final = "application"


class DataSync:
    """All its methods are for the loop's thread.

    What was said counts for the attempt under way alone, and until the application starts again, takes it back, or the
    agent starts again.
    """

    def __init__(self, settings: Mapping[str, ComponentSettings]) -> None:
        self._settings = settings
        self._synced: tuple[str, str] | None = None

    def said(self, attempt: Attempt | None, *, synced: bool) -> None:
        """Hear that the data is synced and rests, or that it does not any more; without an attempt, nothing."""
        self._synced = (attempt.attempt_id, attempt.firmware.component) if attempt is not None and synced else None

    def started(self, component: str) -> None:
        """Hear that an application started, and may write."""
        if self._synced is not None and self._synced[1] == component:
            self._synced = None

    def waiting(self, attempt: Attempt, scope: Scope | None, facts: DeviceFacts) -> Waiting | None:
        """Return that a step waits for the application's word, or None. Who forces an update does not wait for it."""
        firmware = attempt.firmware
        settings, installed = self._settings.get(firmware.component), facts.components.get(firmware.component)
        if settings is None or settings.data_dir is None or settings.data_sync != APPLICATION or installed is None:
            return None
        if (
            scope not in (Scope.INSTALL, Scope.RESTART)
            or attempt.forced
            or installed.data_schema == firmware.data_schema
        ):
            return None
        if self._synced == (attempt.attempt_id, firmware.component):
            return None
        change = f"the schema of its data goes from {installed.data_schema} to {firmware.data_schema}"
        return Waiting(Wait.DATA_SYNC, detail=change)
