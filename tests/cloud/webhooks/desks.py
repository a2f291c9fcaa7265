"""A deliverer in a thread of its own over a real store, with a clock that the test moves and no chance."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud.changes import Changes
from cloud.store.store import Store
from cloud.webhooks.deliverer import Deliverer
from cloud.webhooks.letters import new_secret
from cloud.webhooks.pacing import Pace
from cloud.webhooks.secret_files import SecretFiles
from cloud.webhooks.sending import Sender
from cloud.webhooks.values import DeliveryState, DeliveryView, WebhookDraft
from tests.cloud.store.fleets import ANN, Clock, release
from tests.support.processes import wait_until

SOURCE = "https://fleet.example:8321"


@dataclass
class Desk:
    """What a server has for webhooks."""

    store: Store
    clock: Clock
    secrets: SecretFiles
    changes: Changes
    directory: Path

    def add(self, url: str, name: str = "pager", **how: object) -> str:
        """Add a webhook; return its secret."""
        secret = new_secret()
        how = {"allow_private": True, "allow_plain": True} | how
        self.secrets.write(name, secret)
        self.store.webhooks.add(WebhookDraft(name=name, url=url, **how), by=ANN)  # type: ignore[arg-type]
        return secret

    def happen(self, *versions: str) -> list[str]:
        """Make releases, which are noted; return their ids."""
        made = [release(self.store, version).release_id for version in versions]
        self.changes.bump()
        return made

    def deliveries(self, name: str = "pager") -> list[DeliveryView]:
        """A webhook's deliveries, oldest event first."""
        return list(reversed(self.store.webhooks.deliveries(name)))

    def expect(self, *states: DeliveryState, name: str = "pager") -> list[DeliveryView]:
        """Wait until a webhook's deliveries are in these states."""
        wait_until(lambda: tuple(it.state for it in self.deliveries(name)) == states, what=f"deliveries {states}")
        return self.deliveries(name)

    def expect_tries(self, tries: int, name: str = "pager") -> DeliveryView:
        """Wait until the newest delivery has been tried so often."""
        wait_until(lambda: self.deliveries(name)[-1].tries == tries, what=f"{tries} tries")
        return self.deliveries(name)[-1]

    def expect_tries_of_all(self, tries: int, name: str = "pager") -> None:
        """Wait until a webhook's deliveries together have been tried so often."""
        wait_until(lambda: sum(it.tries for it in self.deliveries(name)) == tries, what=f"{tries} tries of all")

    def later(self, seconds: float) -> None:
        """Move the clock on."""
        self.clock.now_s += seconds
        self.changes.bump()

    @contextmanager
    def delivering(self, sender: Sender | None = None, pace: Pace | None = None) -> Iterator[None]:
        """Run the deliverer."""
        stops: list[Callable[[], object]] = []
        started = threading.Event()

        async def run() -> None:
            deliverer = Deliverer(
                *(self.store, self.secrets, sender or Sender(timeout_s=30), self.changes),
                source=SOURCE,
                now=self.clock,
                chance=lambda: 0.0,
                pace=pace,
            )
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            stops.append(lambda: loop.call_soon_threadsafe(stop.set))
            work = asyncio.create_task(deliverer.run())
            started.set()
            await asyncio.wait([work, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
            assert stop.is_set(), f"the deliverer ended: {work}"
            work.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        started.wait()
        try:
            yield
        finally:
            stops[0]()
            thread.join()
