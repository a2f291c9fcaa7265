"""Starts applications that no update starts: at the agent's start, and when one ended and its supervisor gave up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from device_agent.components import Component
from device_agent.loop import Loop, Worker
from device_agent.starting import Starting
from protocol.values import ComponentState

FIRST_AGAIN_S: Final = 5.0
LONGEST_AGAIN_S: Final = 60.0
_LOG = logging.getLogger(__name__)

Runs = Callable[[str, ComponentState | None], None]


class Launcher:
    """For the loop's thread; what is slow happens in `worker`. `runs(component, state)` hears what runs."""

    def __init__(
        self, components: Mapping[str, Component], starting: Starting, loop: Loop, worker: Worker, runs: Runs
    ) -> None:
        self._components = components
        self._starting = starting
        self._loop = loop
        self._worker = worker
        self._runs = runs
        self._launching: set[str] = set()
        self._pause_s = FIRST_AGAIN_S

    def look_around(self, names: Sequence[str], *, committing: str | None, then: Callable[[], None]) -> None:
        """Undo stray trials, adopt what runs, and note what is to be started; then call `then`.

        `committing` names the component whose trial is no stray: it only was not committed yet.
        """

        def look() -> None:
            for name in names:
                adopted, recorded = self._looked_at(self._components[name], stray=name != committing)
                self._loop.post(lambda n=name, a=adopted, r=recorded: self._found(n, a, r))  # type: ignore[misc]
            self._loop.post(then)

        self._worker.submit(look)

    def launch(self, name: str) -> None:
        """Start an application, again and again if need be."""
        if name not in self._launching:
            self._launching.add(name)
            self._worker.submit(lambda: self._start(name))

    def waiting(self) -> list[str]:
        """Return the applications that are to be started and are not being started."""
        return sorted(self._starting.names - self._launching)

    @staticmethod
    def _looked_at(component: Component, *, stray: bool) -> tuple[ComponentState | None, ComponentState | None]:
        """Return what runs already, and what the slots say is to run."""
        try:
            if stray:
                component.revert_stray_trial()
            return component.adopt(), component.recorded()
        except Exception as error:  # noqa: BLE001 - whatever was found, the application is to be started
            _LOG.error("%s: what runs could not be adopted: %s", component.name, error)
            return None, None

    def _found(self, name: str, adopted: ComponentState | None, recorded: ComponentState | None) -> None:
        if adopted is not None:
            self._runs(name, adopted)
            return
        self._starting.names.add(name)
        if recorded is not None:
            self._starting.recorded[name] = recorded

    def _start(self, name: str) -> None:
        state, failure = None, None
        try:
            state = self._components[name].start()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            failure = error
        self._loop.post(lambda: self._started(name, state, failure))

    def _started(self, name: str, state: ComponentState | None, failure: Exception | None) -> None:
        if failure is None:
            self._launching.discard(name)
            self._starting.names.discard(name)
            self._pause_s = FIRST_AGAIN_S
            self._runs(name, state)
            return
        _LOG.error("%s does not start; again in %g s: %s", name, self._pause_s, failure)
        self._loop.after(f"launch {name}", self._pause_s, lambda: self._launching.discard(name))
        self._pause_s = min(2 * self._pause_s, LONGEST_AGAIN_S)
