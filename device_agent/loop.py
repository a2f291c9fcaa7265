"""The agent's one loop: a queue of things that happened, timers, and a thread beside it for what takes long.

1. Everything that changes the agent's mind happens in the loop's thread, one thing at a time; other threads only post.
2. The loop sleeps until something is posted or the next timer is due; it never polls.
3. What a single thing raises is handed to `failed`; the loop goes on. After each thing `settle` is called.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final, Protocol

Call = Callable[[], None]
_LONGEST_SLEEP_S: Final = 3600.0
_LOG = logging.getLogger(__name__)


class Loop:
    """A queue and timers, over a clock that only goes forward (seconds). `post` is for any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.failed: Callable[[Exception], None] = _log
        self.settle: Call = lambda: None
        self._posted: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._timers: dict[str, tuple[float, Call]] = {}
        self._stopping = False

    def post(self, call: Call) -> None:
        """Have `call` called in the loop's thread, after what was posted before."""
        self._posted.put(call)

    def at(self, name: str, due: float | None, call: Call) -> None:
        """Have `call` called at `due` (of `monotonic`), in place of the timer of this name before; None: never."""
        if due is None:
            self._timers.pop(name, None)
        else:
            self._timers[name] = (due, call)

    def after(self, name: str, pause_s: float, call: Call) -> None:
        """Have `call` called in a while."""
        self.at(name, self.monotonic() + pause_s, call)

    def stop(self) -> None:
        """End `run` after what is under way; from any thread, a signal's handler too."""
        self._stopping = True
        self._posted.put(None)

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopping:
            self.turn()

    def turn(self, *, wait: bool = True) -> bool:
        """Do what is due, or else the next thing that is posted; tell whether there was anything."""
        if self._fire():
            return True
        try:
            call = self._posted.get(timeout=self._pause_s()) if wait else self._posted.get_nowait()
        except queue.Empty:
            return False
        if call is not None:
            self._guarded(call)
        return True

    def next_due(self) -> float | None:
        """Return when the next timer is due."""
        return min((when for when, _ in self._timers.values()), default=None)

    def _fire(self) -> bool:
        now = self.monotonic()
        due = sorted((when, name) for name, (when, _) in self._timers.items() if when <= now)
        for _, name in due:
            timer = self._timers.pop(name, None)
            if timer is not None:  # not cancelled by one before it
                self._guarded(timer[1])
        return bool(due)

    def _pause_s(self) -> float:
        due = self.next_due()
        return _LONGEST_SLEEP_S if due is None else min(max(0.0, due - self.monotonic()), _LONGEST_SLEEP_S)

    def _guarded(self, call: Call) -> None:
        for part in (call, self.settle):
            try:
                part()
            except Exception as error:  # noqa: BLE001 - rule 3
                self.failed(error)


def _log(error: Exception) -> None:
    _LOG.error("something failed", exc_info=error)


class Worker(Protocol):
    """Does one slow thing after the other."""

    def submit(self, call: Call) -> None:
        """Have `call` called after what was submitted before; what it raises is logged."""

    def stop(self, timeout_s: float) -> None:
        """Let it end what was submitted, for at most so long."""


class WorkerThread:
    """A Worker that is a thread."""

    def __init__(self, name: str) -> None:
        self._posted: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Have `call` called after what was submitted before; what it raises is logged."""
        self._posted.put(call)

    def stop(self, timeout_s: float) -> None:
        """Let it end what it does, for at most so long."""
        self._posted.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (call := self._posted.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - as in the loop: the next one is done
                _log(error)
