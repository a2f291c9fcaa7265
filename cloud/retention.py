"""What time alone brings: devices go quiet, and what happened is kept for a while and no longer, in small batches."""

import asyncio
from typing import Final

from cloud.changes import Changes
from cloud.store.store import Store

LOOK_EVERY_S: Final = 600.0
PAUSE_S: Final = 0.2
"""Between two batches: forgetting is never in a hurry."""
LOOK_FOR_QUIET_EVERY_S: Final = 60.0
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000


class Retention:
    """Forgets events beyond the newest `max_rows` or older than `max_age_days`, and deliveries that nobody makes."""

    def __init__(self, store: Store, *, max_rows: int, max_age_days: int, give_up_s: float) -> None:
        self._store, self._max_rows, self._max_age_ms = store, max_rows, max_age_days * DAY_MS
        self._give_up_ms = int(give_up_s * 1000)

    async def step(self) -> None:
        """Forget what is due, then wait a while."""
        await asyncio.to_thread(self._store.webhooks.give_up, older_than_ms=self._give_up_ms)
        gone = 1
        while gone:
            gone = await asyncio.to_thread(
                self._store.events.prune, max_rows=self._max_rows, max_age_ms=self._max_age_ms
            )
            await asyncio.sleep(PAUSE_S if gone else LOOK_EVERY_S)


class QuietWatch:
    """Notes who has gone quiet."""

    def __init__(self, store: Store, changes: Changes, *, after_hours: int) -> None:
        self._store, self._changes, self._after_ms = store, changes, after_hours * HOUR_MS

    async def step(self) -> None:
        """Note a batch of those who have gone quiet since the last look, then wait a while."""
        noted = await asyncio.to_thread(self._store.quiet.look, after_ms=self._after_ms)
        if noted:
            self._changes.bump()
        await asyncio.sleep(PAUSE_S if noted else LOOK_FOR_QUIET_EVERY_S)
