"""Tells the applications what happens to their device: the events of docs/control-socket.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_agent.consent import Asking, Question
from device_agent.events import Attempt, Snapshot
from protocol.phases import Outcome, Phase, Wait
from protocol.selection import Wanted
from protocol.values import Scope

Publish = Callable[[Mapping[str, Any]], None]


class Announcer:
    """Publishes each thing once, when it changes.

    Whoever hears of a step asks for the status: it is published once the status knows of it (`pending` says when).
    """

    def __init__(self, publish: Publish, *, enabled: bool) -> None:
        self._publish = publish
        self._enabled = enabled
        self._steps: list[Mapping[str, Any]] = []
        self._pending: dict[str, tuple[str, bool, bool]] = {}
        self._asked: frozenset[tuple[str, str]] = frozenset()

    def stepped(self, before: Snapshot, after: Snapshot) -> None:
        """Hear of a step of the machine."""
        attempt, end = after.attempt, after.concluded
        if attempt is not None:
            if attempt.forced and not (before.attempt and before.attempt.forced):
                self._tell("forced", attempt)
            if before.phase is Phase.VERIFYING and after.phase is Phase.INSTALLING:
                self._tell("update_ready", attempt)
            if _awaits_sync(after) and not _awaits_sync(before):
                self._tell("data_sync_wanted", attempt, data_schema=attempt.firmware.data_schema)
            if before.gate is Scope.INSTALL and after.gate is None and after.phase is Phase.INSTALLING:
                self._tell("installing", attempt)
            if before.phase is Phase.INSTALLING and after.phase is Phase.RESTARTING:
                self._tell("restarting", attempt)
        elif before.attempt is not None and end is not None:
            if end.outcome is Outcome.SUCCEEDED:
                self._tell("update_installed", end.attempt)
            elif end.outcome is Outcome.ROLLED_BACK:
                self._tell("update_rolled_back", end.attempt, reason=end.reason)

    def pending(self, waiting: Sequence[Wanted], questions: Sequence[Question] = ()) -> None:
        """Hear what is newer and waits, and what is asked of people, in a status that is the newest."""
        steps, self._steps = self._steps, []
        for event in steps:
            self._publish(event)
        now = {
            wanted.firmware.component: (wanted.firmware.digest, wanted.mandatory, wanted.forced) for wanted in waiting
        }
        for wanted in waiting:
            component = wanted.firmware.component
            if self._pending.get(component) != now[component]:
                self._publish({"event": "firmware_update_pending", **describe(wanted)})
        self._pending = now
        asked = {(item.source_id, item.digest): item for item in questions if item.state is Asking.ASKED}
        for key, question in asked.items():
            if key not in self._asked:
                self._publish({"event": "attention_required", **question.described()})
        self._asked = frozenset(asked)

    def enabled(self, enabled: bool) -> None:
        """Hear whether updates are enabled."""
        if enabled is not self._enabled:
            self._enabled = enabled
            self._publish({"event": "updates_enabled" if enabled else "updates_disabled"})

    def _tell(self, event: str, attempt: Attempt, **more: Any) -> None:
        firmware = attempt.firmware
        self._steps.append({"event": event, "component": firmware.component, "version": firmware.version, **more})


def _awaits_sync(snapshot: Snapshot) -> bool:
    return snapshot.waiting is not None and snapshot.waiting.why is Wait.DATA_SYNC


def describe(wanted: Wanted) -> dict[str, Any]:
    """Return what applications are told of a firmware that waits."""
    return {
        "component": wanted.firmware.component,
        "version": wanted.firmware.version,
        "mandatory": wanted.mandatory,
        "forced": wanted.forced,
    }
