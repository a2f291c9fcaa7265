"""Drives the machine: each step is stored, then told, then performed; and what a failed store means.

1. A step's snapshot, its entry for the cloud and what it teaches about the digest are one transaction. So is that an
   image which was verified whole needs no account of its chunks any more: its data is moved away next.
2. A forward step that cannot be stored is not taken: what happened is kept, and taken when the journal writes again. A
   trial that cannot be stored for STORE_TRIES tries fails.
3. A fall-back that cannot be stored goes on all the same: its entries are kept here, and stored first of all when the
   journal writes again.
4. What an effect answers counts only while that effect is the newest one: an answer that comes late is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

from device_agent.events import Conclusion, Effect, Event, Failed, Resumed, Snapshot
from device_agent.journal_database import JournalError
from device_agent.log_lines import fields_of
from device_agent.loop import Loop
from device_agent.machine import entry, legal, step
from device_agent.slots.records import state_of
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry
from protocol.values import ComponentState

STORE_AGAIN_S: Final = 5.0
STORE_TRIES: Final = 6
_ON_TRIAL: Final = frozenset({Phase.RESTARTING, Phase.PROVING})
_ENDED: Final = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.ROLLED_BACK: "been rolled back",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "been cancelled",
}
_LOG = logging.getLogger(__name__)

Answer = Callable[[Event], None]
"""Takes what an effect answers, from any thread; only the first answer counts."""


class Store(Protocol):
    """Where steps are stored."""

    def transaction(self) -> AbstractContextManager[None]:
        """Store everything written inside together, or nothing."""

    def load(self) -> Snapshot:
        """Return the snapshot stored last."""

    def save(self, snapshot: Snapshot, told: AttemptEntry | None = None) -> int | None:
        """Store a snapshot, and an entry for the cloud with it."""

    def condemn(self, digest: str, order: int) -> None:
        """Store that a digest failed here."""

    def note_failure(self, digest: str) -> None:
        """Store that a digest could not be had."""

    def pardon(self, digest: str) -> None:
        """Forget what failed with a digest."""

    def keep_installed(self, state: ComponentState) -> None:
        """Store what a component runs for good."""

    def forget_chunks(self, image: str) -> None:
        """Forget which chunks of an image were received."""


class Driver:
    """Holds the snapshot; all its methods are for the loop's thread.

    `performers` does each effect, with an Answer for those that answer; `stepped(before, after)` hears of each step
    once it is stored, before its effects are performed.
    """

    def __init__(
        self,
        store: Store,
        loop: Loop,
        performers: Mapping[Effect, Callable[[Snapshot, Answer], None]],
        stepped: Callable[[Snapshot, Snapshot], None],
    ) -> None:
        self._store = store
        self._loop = loop
        self._performers = performers
        self._stepped = stepped
        self._effects_performed = 0
        self._unstored: list[tuple[Snapshot, Snapshot]] = []
        self._store_failures = 0
        self.snapshot = store.load()

    def resume(self, received_bytes: int) -> None:
        """Go on where the agent was when it ended."""
        if self.snapshot.attempt is not None:
            self._answered(Resumed(received_bytes), self._effects_performed)

    def can(self, event: type[Event]) -> bool:
        """Tell whether such an event is legal now."""
        return legal(self.snapshot, event)

    def feed(self, event: Event) -> bool:
        """Take a step; False if it could not be stored: then nothing changed. Raises IllegalEventError."""
        before = self.snapshot
        after, effects = step(before, event)
        if not self._stored(before, after):
            return False
        self.snapshot = after
        _log_step(type(event).__name__, before, after)
        self._stepped(before, after)
        for effect in effects:
            self._perform(effect, after)
        return True

    def _perform(self, effect: Effect, snapshot: Snapshot) -> None:
        self._effects_performed += 1
        number = self._effects_performed

        def answered(event: Event) -> None:
            if number == self._effects_performed and self.can(type(event)):
                self._answered(event, number)

        self._performers[effect](snapshot, lambda event: self._loop.post(lambda: answered(event)))

    def _answered(self, event: Event, number: int) -> None:
        if self.feed(event):
            self._store_failures = 0
            return
        self._store_failures += 1
        if self._store_failures >= STORE_TRIES and self.snapshot.phase in _ON_TRIAL:
            self.feed(Failed(Reason.COMMIT_FAILED, "the journal could not be written"))
            return

        def again() -> None:
            if number == self._effects_performed and self.can(type(event)):
                self._answered(event, number)

        self._loop.after("store", STORE_AGAIN_S, again)

    def _stored(self, before: Snapshot, after: Snapshot) -> bool:
        if after.stored == before.stored and not self._unstored:
            return True
        steps = [*self._unstored, (before, after)]
        try:
            self._store_steps(steps)
        except JournalError as error:
            if Phase.ROLLING_BACK in (before.phase, after.phase):
                _LOG.error("going back without a journal: %s", error)
                self._unstored = steps
                self._loop.after("unstored", STORE_AGAIN_S, self._store_unstored)
                return True
            _LOG.error("not going on to %s: %s", after.phase, error)
            return False
        return True

    def _store_unstored(self) -> None:
        try:
            self._store_steps(self._unstored)
        except JournalError:
            self._loop.after("unstored", STORE_AGAIN_S, self._store_unstored)

    def _store_steps(self, steps: list[tuple[Snapshot, Snapshot]]) -> None:
        with self._store.transaction():
            for before, after in steps:
                self._store_step(before, after)
        self._unstored = []

    def _store_step(self, before: Snapshot, after: Snapshot) -> None:
        self._store.save(after, entry(before, after))
        if before.phase is Phase.VERIFYING and after.phase is Phase.INSTALLING and after.attempt is not None:
            self._store.forget_chunks(after.attempt.firmware.digest)
        if after.concluded is not None and before.attempt is not None and after.attempt is None:
            self._learn(after.concluded, before.booted_digest)

    def _learn(self, end: Conclusion, booted_digest: str | None) -> None:
        firmware = end.attempt.firmware
        if end.condemns_digest:
            self._store.condemn(firmware.digest, end.attempt.order)
        elif end.backs_off:
            self._store.note_failure(firmware.digest)
        elif end.outcome is Outcome.SUCCEEDED and booted_digest is not None:
            self._store.pardon(firmware.digest)
            self._store.keep_installed(state_of(firmware, booted_digest))


def _log_step(event: str, before: Snapshot, after: Snapshot) -> None:
    attempt = after.attempt or before.attempt
    if after.phase is not before.phase:
        _LOG.info("%s, so from %s to %s", event, before.phase, after.phase, extra=fields_of(attempt))
    if after.attempt is None and before.attempt is not None and (end := after.concluded) is not None:
        why = f": {end.reason}{f', {end.detail}' if end.detail else ''}" if end.reason else ""
        firmware, fields = end.attempt.firmware, fields_of(end.attempt)
        _LOG.info("%s %s has %s%s", firmware.component, firmware.version, _ENDED[end.outcome], why, extra=fields)
