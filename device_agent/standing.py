"""How the device stands, as the cloud and the applications are told: built from what the runner knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from device_agent.announcing import describe
from device_agent.consent import Question
from device_agent.events import Snapshot
from protocol.codec import to_plain
from protocol.phases import Wait
from protocol.selection import Wanted
from protocol.up import Availability, DeviceState, Health, Pending, Progress
from protocol.values import ComponentState

PROGRESS_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All of it, at one moment."""

    session: int
    """The number of the session, 0 without a broker."""
    snapshot: Snapshot
    components: tuple[ComponentState, ...]
    availability: Availability
    pending: tuple[tuple[Wanted, Pending], ...]
    progress: tuple[int, int] | None
    failed: tuple[str, ...]
    refused: Mapping[str, int]
    questions: tuple[Question, ...] = ()
    """What waits for somebody at the device, or was declined."""
    declined: tuple[str, ...] = ()
    health: tuple[Health, ...] = ()

    def state(self, session: int, seq: int) -> DeviceState:
        """Return it as the cloud is told."""
        attempt, progress = self.snapshot.attempt, None
        if attempt is not None and self.progress is not None:
            progress = Progress(
                attempt_id=attempt.attempt_id,
                component=attempt.firmware.component,
                done_bytes=self.progress[0],
                total_bytes=self.progress[1],
            )
        return DeviceState(
            session=session,
            seq=seq,
            phase=self.snapshot.phase,
            components=self.components,
            availability=self.availability,
            pending=tuple(pending for _, pending in self.pending),
            progress=progress,
            failed=self.failed,
            refused=self.refused,
            declined=self.declined,
            health=self.health,
            waits_for_turn=attempt.attempt_id if attempt is not None and self._waits(Wait.TURN) else "",
        )

    def _waits(self, why: Wait) -> bool:
        return self.snapshot.waiting is not None and self.snapshot.waiting.why is why

    def _data_sync(self) -> dict[str, Any] | None:
        """Return the update that waits until the application says that its data is synced."""
        attempt = self.snapshot.attempt
        if attempt is None or not self._waits(Wait.DATA_SYNC):
            return None
        firmware = attempt.firmware
        return {
            "component": firmware.component,
            "version": firmware.version,
            "data_schema": firmware.data_schema,
        }

    def status(self) -> dict[str, Any]:
        """Return it as the control socket tells: JSON values."""
        attempt, end = self.snapshot.attempt, self.snapshot.concluded
        first = self.pending[0] if self.pending else None
        return {
            "online": self.session > 0,
            "updates_enabled": self.availability.enabled,
            "disabled_until_ms": self.availability.disabled_until_ms,
            "updates_forced": bool(attempt and attempt.forced) or any(wanted.forced for wanted, _ in self.pending),
            "pending": {**describe(first[0]), "why": first[1].why.value, "detail": first[1].detail} if first else None,
            "attention": self.questions[0].described() if self.questions else None,
            "data_sync": self._data_sync(),
            "phase": self.snapshot.phase.value,
            "update": None
            if attempt is None
            else {
                "attempt_id": attempt.attempt_id,
                "component": attempt.firmware.component,
                "version": attempt.firmware.version,
                "source_id": attempt.source_id,
                "done_bytes": self.progress[0] if self.progress else None,
                "total_bytes": self.progress[1] if self.progress else None,
            },
            "last": None
            if end is None
            else {
                "component": end.attempt.firmware.component,
                "version": end.attempt.firmware.version,
                "outcome": end.outcome.value,
                "reason": end.reason.value if end.reason else None,
                "detail": end.detail,
            },
            "components": {state.component: to_plain(state) for state in self.components},
            "failed": list(self.failed),
            "declined": list(self.declined),
            "health": {it.component: {"crashes": it.crashes, "gauges": dict(it.gauges)} for it in self.health},
            "refused": dict(self.refused),
        }


class StateSender:
    """Sends the device's state when it changed; if only the download got on, at most once a second."""

    def __init__(self, send: Callable[[DeviceState], bool]) -> None:
        self._send = send
        self._session = 0
        self._seq = 0
        self._sent: Standing | None = None
        self._sent_at = float("-inf")

    def begin(self, session: int) -> None:
        """Begin a session: the numbers start again."""
        self._session, self._seq, self._sent = session, 0, None

    def end(self) -> None:
        """End it: nothing is sent."""
        self._session = 0

    def for_hello(self, standing: Standing, now: float) -> DeviceState:
        """Return the state that a hello carries, which counts as sent."""
        self._sent, self._sent_at = standing, now
        self._seq += 1
        return standing.state(self._session, self._seq)

    def changed(self, standing: Standing, now: float) -> float | None:
        """Send what changed; return when to come again, if something waits."""
        if not self._session or self._sent is None or _told(standing) == _told(self._sent):
            return None
        due = self._sent_at + PROGRESS_EVERY_S
        if now < due and _told(dataclasses.replace(standing, progress=self._sent.progress)) == _told(self._sent):
            return due
        if self._send(standing.state(self._session, self._seq + 1)):
            self._seq += 1
            self._sent, self._sent_at = standing, now
            return None
        return now + PROGRESS_EVERY_S


def _told(standing: Standing) -> DeviceState:
    return standing.state(1, 0)
