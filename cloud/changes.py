"""A counter that goes up whenever something changed, and wakes whoever waits for that; any thread, any event loop."""

import asyncio
import threading


class Changes:
    """What long polls and the outbox wait on. It only wakes: the truth is read from the store afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revision = 0
        self.closed = False
        """Whether the server ends: nobody is to wait any more."""
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def revision(self) -> int:
        """How many changes there were."""
        return self._revision

    def bump(self) -> None:
        """Something changed."""
        with self._lock:
            self._revision += 1
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_finish, future)

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.closed = True
        self.bump()

    async def wait(self, seen: int, timeout_s: float) -> int:
        """Return the revision as soon as it is not `seen`, or after the timeout whatever it is."""
        with self._lock:
            if self._revision != seen:
                return self._revision
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._waiting.append((loop, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            with self._lock:
                self._waiting = [item for item in self._waiting if item[1] is not future]
        return self._revision


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
