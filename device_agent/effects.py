"""Performs what the machine asks for, in the worker's thread if it is slow, and answers with an event."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from device_agent.components import Component, reason_of
from device_agent.config import ComponentSettings
from device_agent.driver import Answer
from device_agent.events import (
    Activated,
    Attempt,
    BootedNew,
    BootedOld,
    Confirmed,
    Effect,
    Event,
    Failed,
    Reverted,
    Snapshot,
    Staged,
)
from device_agent.loop import Loop, Worker
from device_agent.slots.ports import Slots
from device_agent.slots.records import state_of
from device_agent.trial import Trial
from protocol.errors import FleetliftError
from protocol.facts import DeviceFacts
from protocol.phases import Reason
from protocol.values import ComponentState, FirmwareRef

FIRST_REVERT_AGAIN_S: Final = 5.0
LONGEST_REVERT_AGAIN_S: Final = 300.0
_LOG = logging.getLogger(__name__)

Perform = Callable[[Snapshot, Answer], None]


class Fetches(Protocol):
    """Fetches an image (`fetching.Fetching`)."""

    def start(self, attempt: Attempt, facts: DeviceFacts, slots: Slots, answer: Answer) -> None:
        """Fetch it: Downloaded or Failed."""

    def stop(self) -> None:
        """Stop; what was verified is kept."""

    def verify(self, firmware: FirmwareRef, slots: Slots, answer: Answer) -> None:
        """Hash what is on the disk: Verified or Failed."""

    def drop(self, firmware: FirmwareRef, slots: Slots) -> None:
        """Forget what was downloaded, and free its space."""


@dataclass(slots=True, kw_only=True)
class Effects:
    """One device's effects. `runs(component, state)` hears, in the loop's thread, what a component runs from now on."""

    components: Mapping[str, Component]
    settings: Mapping[str, ComponentSettings]
    fetching: Fetches
    trial: Trial
    loop: Loop
    worker: Worker
    facts: Callable[[], DeviceFacts]
    clear_gate: Callable[[], None]
    runs: Callable[[str, ComponentState | None], None]
    _started_s: float = field(default=float("-inf"), init=False)
    _revert_pause_s: float = field(default=FIRST_REVERT_AGAIN_S, init=False)

    def performers(self) -> Mapping[Effect, Perform]:
        """Return what does each effect."""
        return {
            Effect.AWAIT_DOWNLOAD: self._ask_clearance,
            Effect.AWAIT_INSTALL: self._ask_clearance,
            Effect.AWAIT_RESTART: self._ask_clearance,
            Effect.DOWNLOAD: self._download,
            Effect.STOP_DOWNLOAD: lambda _snapshot, _answer: self.fetching.stop(),
            Effect.VERIFY: self._verify,
            Effect.DISCARD: self._discard,
            Effect.STAGE: self._stage,
            Effect.ACTIVATE: self._activate,
            Effect.RESTART: self._restart,
            Effect.FIND_TRIAL: self._find_trial,
            Effect.PROVE: self._prove,
            Effect.CONFIRM: self._confirm,
            Effect.REVERT: self._revert,
            Effect.REVERT_LATER: self._revert_later,
        }

    def _ask_clearance(self, _snapshot: Snapshot, _answer: Answer) -> None:
        self.loop.post(self.clear_gate)

    def _download(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)
        self.fetching.start(attempt, self.facts(), component.slots, answer)

    def _verify(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)
        self.fetching.verify(attempt.firmware, component.slots, answer)

    def _discard(self, snapshot: Snapshot, _answer: Answer) -> None:
        if snapshot.concluded is not None:
            firmware = snapshot.concluded.attempt.firmware
            self.fetching.drop(firmware, self.components[firmware.component].slots)

    def _stage(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)

        def stage() -> Event:
            component.slots.stage(attempt.firmware)
            return Staged()

        self._slowly(stage, answer, Reason.INSTALL_FAILED)

    def _activate(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)

        def activate() -> Event:
            component.activate(attempt.attempt_id, attempt.firmware)
            return Activated()

        self._slowly(activate, answer, Reason.INSTALL_FAILED)

    def _restart(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)

        def restart() -> Event:
            component.stop()
            self.loop.post(lambda: self.runs(component.name, None))
            self._started_s = self.loop.monotonic()
            digest = component.start_trial(attempt.attempt_id, attempt.firmware)
            self._tell_running(attempt, digest)
            return BootedNew(digest)

        self._slowly(restart, answer, Reason.START_FAILED)

    def _find_trial(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)

        def find() -> Event:
            digest = component.find_trial(attempt.firmware)
            if digest is None:
                return BootedOld()
            self._started_s = self.loop.monotonic()
            self._tell_running(attempt, digest)
            return BootedNew(digest)

        self._slowly(find, answer, Reason.INTERRUPTED)

    def _prove(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)
        self.trial.begin(
            self.settings[component.name],
            expected_digest=attempt.firmware.digest,
            booted_digest=snapshot.booted_digest or "",
            started_s=self._started_s,
            alive=component.application.alive,
            answer=answer,
        )

    def _confirm(self, snapshot: Snapshot, answer: Answer) -> None:
        attempt, component = self._of(snapshot)

        def confirm() -> Event:
            component.confirm(attempt.firmware)
            return Confirmed()

        self._slowly(confirm, answer, Reason.COMMIT_FAILED)

    def _revert(self, snapshot: Snapshot, answer: Answer) -> None:
        _, component = self._of(snapshot)
        self.trial.end()

        def revert() -> Event:
            self.loop.post(lambda: self.runs(component.name, None))
            state = component.go_back()
            self.loop.post(lambda: self.runs(component.name, state))
            self._revert_pause_s = FIRST_REVERT_AGAIN_S
            return Reverted()

        self._slowly(revert, answer, Reason.STORAGE_FAILED)

    def _revert_later(self, snapshot: Snapshot, answer: Answer) -> None:
        _LOG.error("going back failed; again in %g s", self._revert_pause_s)
        self.loop.after("revert", self._revert_pause_s, lambda: self._revert(snapshot, answer))
        self._revert_pause_s = min(2 * self._revert_pause_s, LONGEST_REVERT_AGAIN_S)

    def _of(self, snapshot: Snapshot) -> tuple[Attempt, Component]:
        assert snapshot.attempt is not None  # noqa: S101 - the machine performs nothing without one
        return snapshot.attempt, self.components[snapshot.attempt.firmware.component]

    def _tell_running(self, attempt: Attempt, digest: str) -> None:
        state = state_of(attempt.firmware, digest)
        self.loop.post(lambda: self.runs(state.component, state))

    def _slowly(self, work: Callable[[], Event], answer: Answer, otherwise: Reason) -> None:
        """Do it in the worker's thread; what it raises is a failure, by its own reason or `otherwise`."""

        def do() -> None:
            try:
                event = work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the update ends by it, and not the agent
                if not isinstance(error, FleetliftError | OSError):
                    _LOG.exception("an effect failed in a way that was not thought of")
                reason = Reason.STORAGE_FAILED if isinstance(error, OSError) else otherwise
                event = Failed(reason_of(error) or reason, str(error) or type(error).__name__)
            answer(event)

        self.worker.submit(do)
