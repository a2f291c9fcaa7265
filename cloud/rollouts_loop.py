"""The loop that keeps rollouts going: it looks when something changed, and when time alone may have changed something.

Rule: it only wakes. What is to be done is computed from the rows each time, so a look that is lost, late or doubled
costs time and nothing else. What is completed is looked at seldom: when something changed, and at most every few
minutes, or a hundredth of the time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from structlog.contextvars import bound_contextvars

from cloud.changes import Changes
from cloud.guard.guarding import LOOK_S, REST_S
from cloud.store.rollouts import Look
from cloud.store.store import Store
from cloud.tally import Tally
from protocol.errors import FleetliftError

CALM_S: Final = 0.25
"""The shortest time between two looks: a busy fleet changes all the time."""
SHARE: Final = 9
"""A look that took long is followed by so many times its duration without one, so that others find the store free."""
REST_SHARE: Final = 99
"""The same for a release that is completed."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """When a release that is completed was looked at, and when it is again: if something changed, or whatever did."""

    revision: int
    not_before_s: float
    due_s: float | None

    def is_over(self, revision: int, now_s: float) -> bool:
        has_changed = revision != self.revision and now_s >= self.not_before_s
        return has_changed or (self.due_s is not None and now_s >= self.due_s)


class RolloutsLoop:
    """Reconciles every open rollout, again and again, and now and then those that are completed."""

    def __init__(
        self,
        store: Store,
        changes: Changes,
        tally: Tally,
        *,
        is_connected: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts; `clock` gives seconds that only rise."""
        self._store, self._changes, self._tally, self._is_connected = store, changes, tally, is_connected
        self._clock = clock
        self._listening_since: float | None = None
        self._rests: dict[str, _Rest] = {}
        self._listed_s: float | None = None

    async def step(self) -> None:
        """Look once, then wait until there is a reason to look again."""
        seen, began_s = self._changes.revision, self._clock()
        due_in_s = await asyncio.to_thread(self.look)
        await asyncio.sleep(max(CALM_S, SHARE * (self._clock() - began_s)))
        await self._changes.wait(seen, due_in_s)

    def reconnected(self) -> None:
        """What devices said in the meantime has yet to arrive: their silence says nothing for a while."""
        self._listening_since = self._clock()

    def _listening_for_ms(self) -> int:
        if not self._is_connected() or self._listening_since is None:
            return 0
        return int(1000 * (self._clock() - self._listening_since))

    def look(self) -> float:
        """Reconcile what is due; return in how many seconds an open rollout is due again."""
        due_in_s = float(LOOK_S)
        for release_id in self._store.rollouts.open():
            look = self._reconcile(release_id)
            if look.due_in_ms is not None:
                due_in_s = min(due_in_s, max(0.0, look.due_in_ms / 1000))
        self._look_at_completed()
        return due_in_s

    def _look_at_completed(self) -> None:
        """Reconcile the completed releases that have rested for long enough; they are listed now and then."""
        if self._listed_s is None or self._clock() - self._listed_s >= LOOK_S:
            self._listed_s = self._clock()
            rests = self._rests
            self._rests = {it: rests.get(it, _Rest(-1, 0.0, None)) for it in self._store.rollouts.completed()}
        for release_id, rest in self._rests.items():
            revision, began_s = self._changes.revision, self._clock()
            if not rest.is_over(revision, began_s):
                continue
            due_in_ms = self._reconcile(release_id).due_in_ms
            ended_s = self._clock()
            not_before_s = ended_s + max(REST_S, REST_SHARE * (ended_s - began_s))
            due_s = None if due_in_ms is None else max(not_before_s, ended_s + due_in_ms / 1000)
            self._rests[release_id] = _Rest(revision=revision, not_before_s=not_before_s, due_s=due_s)

    def _reconcile(self, release_id: str) -> Look:
        with bound_contextvars(release_id=release_id):
            try:
                look = self._store.rollouts.reconcile(release_id, listening_for_ms=self._listening_for_ms())
            except FleetliftError as error:
                self._tally.fail("rollout", str(getattr(error, "code", "failed")), release_id, error)
                return Look()
        if look.acted:
            self._changes.bump()
        return look
