"""Watches one trial: probes the application, collects what else is seen of it, and has `health.judge` decide."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from device_agent.config import ComponentSettings
from device_agent.driver import Answer
from device_agent.events import Failed, Proved
from device_agent.health import Health, Observations, ProofFailed, ProvePolicy, Undecided, judge, probe
from device_agent.health import Proved as ProvedGood
from device_agent.loop import Loop, Worker

LATE_S: Final = 1.0
"""An agent that wakes later than this did not run: it was stopped, or the device was too busy."""
MAX_FORGIVEN: Final = 3
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """The trial that is being watched."""

    settings: ComponentSettings
    alive: Callable[[], bool]
    answer: Answer
    seen: Observations
    policy: ProvePolicy
    awake_s: float
    judge_s: float = math.inf
    probe_s: float = math.inf
    forgiven: int = 0

    def wake(self, now_s: float) -> None:
        """Give the version the time back in which the agent, which was to wake long ago, stood still."""
        late_s = now_s - max(self.awake_s, min(self.judge_s, self.probe_s))
        if late_s > LATE_S and self.forgiven < MAX_FORGIVEN:
            timeout_s = self.policy.prove_timeout_s + now_s - self.awake_s
            self.policy = replace(self.policy, prove_timeout_s=timeout_s)
            self.forgiven += 1
            self.judge_s = self.probe_s = math.inf
        self.awake_s = now_s


class Trial:
    """At most one trial at a time. All methods are for the loop's thread; probes run in `prober`."""

    def __init__(self, loop: Loop, prober: Worker) -> None:
        self._loop = loop
        self._prober = prober
        self._watched: _Watched | None = None
        self._probing = False
        # What happens between the application's start and `begin` counts, too; what happened before it, to the version
        # before, does not, however late it is heard of.
        self._ended: dict[str, tuple[float, str]] = {}
        self._confirmed_at = float("-inf")
        self._answered_at = float("-inf")

    def begin(
        self,
        settings: ComponentSettings,
        *,
        expected_digest: str,
        booted_digest: str,
        started_s: float,
        alive: Callable[[], bool],
        answer: Answer,
    ) -> None:
        """Watch a version that was started at `started_s`, until it is proved or fails.

        `alive` is called in the prober's thread.
        """
        seen = Observations(started_s=started_s, expected_digest=expected_digest, booted_digest=booted_digest)
        ended_at, detail = self._ended.get(settings.name, (float("-inf"), ""))
        seen = seen.ended_by_itself(detail) if ended_at > started_s else seen
        seen = seen.was_confirmed() if self._confirmed_at > started_s else seen
        seen = seen.reached_broker() if self._answered_at > started_s else seen
        policy = ProvePolicy(
            soak_s=settings.soak_s,
            prove_timeout_s=settings.prove_timeout_s,
            needs_confirm=settings.confirm,
            needs_broker=settings.needs_broker,
            probe_s=settings.health.interval_s + settings.health.timeout_s,
        )
        self._watched = _Watched(settings, alive, answer, seen, policy, awake_s=self._loop.monotonic())
        self._judge()
        self._probe()

    def end(self) -> None:
        """Watch it no longer."""
        self._watched = None
        self._loop.at("judge", None, self._judge)
        self._loop.at("probe", None, self._probe)

    def application_ended(self, component: str, detail: str, at_s: float) -> None:
        """Hear that an application ended by itself."""
        self._ended[component] = (at_s, detail)
        watched = self._watched
        if watched is not None and watched.settings.name == component and at_s > watched.seen.started_s:
            self._see(watched.seen.ended_by_itself(detail))

    def broker_answered(self, at_s: float) -> None:
        """Hear that the broker sent something."""
        self._answered_at = at_s
        watched = self._watched
        if watched is not None and not watched.seen.broker_reached and at_s > watched.seen.started_s:
            self._see(watched.seen.reached_broker())

    def confirmed(self, at_s: float) -> None:
        """Hear that the application finds itself good."""
        self._confirmed_at = at_s
        watched = self._watched
        if watched is not None and not watched.seen.confirmed and at_s > watched.seen.started_s:
            self._see(watched.seen.was_confirmed())

    def _see(self, seen: Observations) -> None:
        if self._watched is not None:
            self._watched.seen = seen
            self._judge()

    def _probe(self) -> None:
        watched = self._watched
        if watched is None or self._probing:
            return
        self._probing = True
        health, began_s = watched.settings.health, self._loop.monotonic()
        watched.wake(began_s)
        watched.probe_s = math.inf

        def ask() -> None:
            found = probe(health.check, health.timeout_s, alive=watched.alive)
            self._loop.post(lambda: self._probed(watched, began_s, found))

        self._prober.submit(ask)

    def _probed(self, watched: _Watched, began_s: float, found: Health) -> None:
        self._probing = False
        if watched is not self._watched:
            self._probe()  # of the trial that has begun since then, if one has
            return
        if not found.passed:
            _LOG.info("the version on trial did not pass a probe: %s", found.detail)
        self._see(watched.seen.probed(began_s, found))
        if watched is self._watched:
            watched.probe_s = began_s + watched.settings.health.interval_s
            self._loop.at("probe", watched.probe_s, self._probe)

    def _judge(self) -> None:
        watched = self._watched
        if watched is None:
            return
        now = self._loop.monotonic()
        watched.wake(now)
        match judge(watched.seen, watched.policy, now):
            case Undecided(until_s):
                watched.judge_s = until_s
                self._loop.at("judge", until_s, self._judge)
            case ProvedGood():
                self.end()
                watched.answer(Proved())
            case ProofFailed(reason, detail):
                self.end()
                watched.answer(Failed(reason, detail))
