"""The loop that tells webhooks: each by a task of its own, so that a slow receiver holds up no other.

At least once: a delivery is struck out when the receiver's 2xx is in the database, so a server that dies in between
sends it again, under the same `webhook-id`. In order, loosely: the oldest events first, a few at a time; one that is
refused is tried later while others go on. A receiver that fails rests, and is tried with one delivery at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cloud.changes import Changes
from cloud.store.store import Store
from cloud.webhooks.letters import body_of, headers_of
from cloud.webhooks.pacing import Pace
from cloud.webhooks.secret_files import SecretFiles
from cloud.webhooks.sending import Answer, Sender
from cloud.webhooks.values import Due, Tried, WebhookView
from protocol.errors import FleetliftError

_log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 2.0
"""How often is looked for what is due when nothing wakes it."""
GATHER_S: Final = 0.05
"""How long what happens gathers: a busy fleet changes all the time."""
AT_ONCE: Final = 8
"""Deliveries to one webhook at a time."""
OVERALL: Final = 64
"""Deliveries at a time, to all webhooks."""
LONGEST_REST_S: Final = 60.0
"""A receiver that failed is looked at again after this long at the latest."""


class Deliverer:
    """Delivers what is due; `now` is the time of day in seconds, `chance` a number from 0 up to 1 each time."""

    def __init__(
        self,
        store: Store,
        secrets: SecretFiles,
        sender: Sender,
        changes: Changes,
        *,
        source: str,
        now: Callable[[], float],
        chance: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        self._store, self._secrets, self._sender, self._changes = store, secrets, sender, changes
        self._source, self._now, self._chance, self._pace = source, now, chance, pace or Pace()
        self._busy: set[str] = set()
        self._rests: dict[str, tuple[int, float]] = {}
        """Webhooks that failed: how often in a row, and when they are tried again (seconds since 1970)."""
        self._places = asyncio.Semaphore(OVERALL)

    async def run(self) -> None:
        """Deliver until cancelled."""
        self._busy.clear()
        async with asyncio.TaskGroup() as tasks:
            while True:
                seen = self._changes.revision
                for hook, deliveries in await self._due():
                    some = [min(deliveries, key=_tries)] if hook.name in self._rests else deliveries
                    self._busy.add(hook.name)
                    tasks.create_task(self._serve(hook, some), name=f"webhook {hook.name}")
                await self._changes.wait(seen, LOOK_AGAIN_S)
                await asyncio.sleep(GATHER_S)

    async def _due(self) -> Sequence[tuple[WebhookView, Sequence[Due]]]:
        try:
            return await asyncio.to_thread(self._store.webhooks.due, skip=self._not_now(), limit=AT_ONCE)
        except FleetliftError as error:
            _log.warning("what webhooks are to be told could not be read, and is tried again: %s", error)
            await asyncio.sleep(LOOK_AGAIN_S)
            return ()

    def _not_now(self) -> frozenset[str]:
        now = self._now()
        # A rest that is far beyond the longest was set by a clock that has been put back.
        resting = {name for name, (_, until) in self._rests.items() if now < until < now + 2 * LONGEST_REST_S}
        return frozenset(self._busy | resting)

    async def _serve(self, hook: WebhookView, due: Sequence[Due]) -> None:
        try:
            answers = await asyncio.gather(*(self._deliver(hook, one) for one in due))
            await self._settle(hook, [(one, answer) for one, answer in zip(due, answers, strict=True)])
        except (FleetliftError, OSError) as error:
            self._rest(hook.name)
            _log.warning("webhook %s could not be served, and is tried again: %s", hook.name, error)
        except Exception:  # noqa: BLE001 - one webhook, whatever is wrong with it, ends nothing
            self._rest(hook.name)
            _log.exception("webhook %s could not be served, and is tried again", hook.name)
        finally:
            self._busy.discard(hook.name)
            self._changes.bump()

    async def _deliver(self, hook: WebhookView, due: Due) -> Answer:
        try:
            secret = await asyncio.to_thread(self._secrets.read, hook.name)
        except FleetliftError as error:
            return Answer(taken=False, words=str(error))
        body = body_of(due.event, self._source)
        async with self._places:
            return await self._sender.send(hook, body, headers_of(due.event, body, secret, self._now()))

    async def _settle(self, hook: WebhookView, answers: Sequence[tuple[Due, Answer]]) -> None:
        now_ms = int(self._now() * 1000)
        tried = [
            Tried(
                event=due.event.number,
                taken=answer.taken,
                answer=answer.words,
                due_at_ms=self._pace.next_ms(
                    due.event.at_ms, due.tries + 1, now_ms, self._chance(), at_least_s=answer.after_s
                ),
            )
            for due, answer in answers
        ]
        if any(answer.taken for _, answer in answers):
            self._rests.pop(hook.name, None)
        if not all(answer.taken for _, answer in answers):
            self._rest(hook.name)
        left = await asyncio.to_thread(self._store.webhooks.settle, hook.name, tried)
        if left is None:
            self._rests.pop(hook.name, None)
            return
        last = answers[-1][1]
        failing_ms = now_ms - (left.failing_since_ms if left.failing_since_ms is not None else now_ms)
        if any(answer.gone for _, answer in answers):
            await self._give_way(hook.name, "its receiver answered 410 Gone: it wants no more")
        elif failing_ms >= self._pace.give_up_s * 1000:
            days = f"{self._pace.give_up_s / 86_400:g}"
            await self._give_way(hook.name, f"nothing was taken for {days} days; the last answer was: {last.words}")

    def _rest(self, name: str) -> None:
        failed = self._rests.get(name, (0, 0.0))[0] + 1
        rest_s = min(self._pace.wait_s(failed, self._chance()), LONGEST_REST_S)
        self._rests[name] = (failed, self._now() + rest_s)

    async def _give_way(self, name: str, why: str) -> None:
        self._rests.pop(name, None)
        await asyncio.to_thread(self._store.webhooks.give_way, name, why)
        _log.warning("webhook %s is disabled: %s", name, why)


def _tries(due: Due) -> int:
    return due.tries
