"""How applications do: their crashes, counted durably for each digest, and the gauges that they report.

1. A crash is an end that nobody asked for, but with exit code 0. It counts for the digest that ran, since that digest
   was started here first, over restarts of the agent. Counts of the last KEPT_DIGESTS digests are kept.
2. A gauge is a whole number that the application names. It is told to the agent again and again, and is not stored.
3. The cloud is told of a crash at once, and of gauges that changed at most every `every_s`. Of a component that never
   crashed and reports nothing, nothing is said.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from device_agent.control_requests import ControlError
from device_agent.journal_database import JournalError
from device_agent.supervision import Exit
from protocol.identity import MAX_INTEGER, check_digest, check_id
from protocol.up import Health
from protocol.values import MAX_COMPONENTS, MAX_GAUGES, ComponentState, check_few, check_number

KEPT_DIGESTS: Final = 2 * MAX_COMPONENTS
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashes:
    """How often one digest of a component crashed."""

    component: str
    digest: str
    count: int

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_digest(self.digest)
        check_number(self.count, "count", 1)


@dataclass(frozen=True, slots=True)
class CrashCounts:
    """All of them, the newest last."""

    counts: tuple[Crashes, ...] = ()

    def __post_init__(self) -> None:
        check_few(self.counts, "counts", KEPT_DIGESTS)

    def of(self, component: str, digest: str) -> int:
        """Return how often it crashed."""
        return next((it.count for it in self.counts if (it.component, it.digest) == (component, digest)), 0)

    def one_more(self, component: str, digest: str) -> CrashCounts:
        """Return them with another crash; the oldest are forgotten."""
        others = [it for it in self.counts if (it.component, it.digest) != (component, digest)]
        count = min(self.of(component, digest) + 1, MAX_INTEGER)
        return CrashCounts((*others, Crashes(component=component, digest=digest, count=count))[-KEPT_DIGESTS:])


class Memory(Protocol):
    """Where crashes are kept, durably."""

    def crashes(self) -> CrashCounts:
        """Return them."""

    def keep_crashes(self, crashes: CrashCounts) -> None:
        """Store them."""


class Vitals:
    """`gauge` is for any thread, the rest for the loop's. `changed` is called, in whatever thread, when a gauge did."""

    def __init__(self, memory: Memory, components: Iterable[str], *, every_s: float) -> None:
        self._memory = memory
        self._crashes = memory.crashes()
        self._every_s = every_s
        self._guard = threading.Lock()  # of the gauges
        self._gauges: dict[str, dict[str, int]] = {name: {} for name in components}
        self._running: dict[str, str] = {}
        self._told: dict[str, dict[str, int]] = {name: {} for name in self._gauges}
        self._told_at = float("-inf")
        self.changed: Callable[[], None] = _nothing

    def gauge(self, name: str, value: int, component: str | None) -> None:
        """Take a gauge; raises ControlError for one too many, or where it is not clear of which component."""
        if component is None and len(self._gauges) > 1:
            raise ControlError(f"say which component: {', '.join(sorted(self._gauges))}", code="bad_value")
        gauges = self._gauges.get(component or next(iter(self._gauges)))
        if gauges is None:
            raise ControlError(f"there is no component {component!r:.70}", code="bad_value")
        with self._guard:
            if name not in gauges and len(gauges) >= MAX_GAUGES:
                raise ControlError(f"a component has at most {MAX_GAUGES} gauges", code="too_many_gauges")
            before, gauges[name] = gauges.get(name), value
        if before != value:
            self.changed()

    def runs(self, component: str, digest: str) -> None:
        """Hear what a component runs: what another version reported is not of this one."""
        if self._running.get(component) not in (None, digest):
            with self._guard:
                self._gauges[component].clear()
            self._told[component] = {}
        self._running[component] = digest

    def ended(self, component: str, digest: str | None, ended: Exit) -> None:
        """Hear that an application ended by itself."""
        if ended.code == 0 or digest is None:
            return
        self._crashes = self._crashes.one_more(component, digest)
        try:
            self._memory.keep_crashes(self._crashes)
        except JournalError as error:
            _LOG.error("%s crashed, and that is not stored, only told: %s", component, error)

    def report(self, running: Mapping[str, ComponentState], now: float) -> tuple[Health, ...]:
        """Return what the cloud is to know now of what runs (`now` in seconds of a clock that goes forward)."""
        due = self.next_due()
        if due is not None and due <= now:
            with self._guard:
                self._told = {name: dict(gauges) for name, gauges in self._gauges.items()}
            self._told_at = now
        found = (
            Health(
                component=name,
                digest=state.digest,
                crashes=self._crashes.of(name, state.digest),
                gauges=self._told.get(name, {}),
            )
            for name, state in sorted(running.items())
        )
        return tuple(health for health in found if health.crashes or health.gauges)

    def next_due(self) -> float | None:
        """Return when gauges that changed are to be told of, None if none did."""
        with self._guard:
            return None if self._gauges == self._told else self._told_at + self._every_s


def _nothing() -> None:
    pass
