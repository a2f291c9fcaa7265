"""The loop that keeps rollouts going: it looks when something changed, and when time alone may have changed something.

Rule: it only wakes. What is to be done is computed from the rows each time, so a look that is lost, late or doubled
costs time and nothing else.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cloud.changes import Changes
from cloud.guard.guarding import LOOK_S
from cloud.store.store import Store
from cloud.tally import Tally
from protocol.errors import FleetliftError

CALM_S: Final = 0.25
"""The shortest time between two looks: a busy fleet changes all the time."""
SHARE: Final = 9
"""A look that took long is followed by so many times its duration without one, so that others find the store free."""


class RolloutsLoop:
    """Reconciles every open rollout, again and again."""

    def __init__(self, store: Store, changes: Changes, tally: Tally, *, is_connected: Callable[[], bool]) -> None:
        self._store, self._changes, self._tally, self._is_connected = store, changes, tally, is_connected
        self._listening_since: float | None = None

    async def step(self) -> None:
        """Look once, then wait until there is a reason to look again."""
        seen, began = self._changes.revision, time.monotonic()
        due_in_s = await asyncio.to_thread(self._look)
        await asyncio.sleep(max(CALM_S, SHARE * (time.monotonic() - began)))
        await self._changes.wait(seen, due_in_s)

    def reconnected(self) -> None:
        """What devices said in the meantime has yet to arrive: their silence says nothing for a while."""
        self._listening_since = time.monotonic()

    def _listening_for_ms(self) -> int:
        if not self._is_connected() or self._listening_since is None:
            return 0
        return int(1000 * (time.monotonic() - self._listening_since))

    def _look(self) -> float:
        """Reconcile each open rollout; return in how many seconds one of them is due again."""
        due_in_s = float(LOOK_S)
        for release_id in self._store.rollouts.open():
            try:
                look = self._store.rollouts.reconcile(release_id, listening_for_ms=self._listening_for_ms())
            except FleetliftError as error:
                self._tally.fail("rollout", str(getattr(error, "code", "failed")), release_id, error)
                continue
            if look.acted:
                self._changes.bump()
            if look.due_in_ms is not None:
                due_in_s = min(due_in_s, max(0.0, look.due_in_ms / 1000))
        return due_in_s
