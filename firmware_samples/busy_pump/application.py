"""A pump that works in strokes, and disables updates only while a stroke lasts.

The rules that it follows, and that an application of this kind should:
1. Disable first, work after: between the two nothing can start.
2. Say for how long at most. If this process is killed in a stroke, `disable` outlives it (that is what it is for), and
   nobody is left to enable; the limit then does. Where dying should free the device at once, use `hold` instead.
3. Enable at the start: what a killed predecessor left is void, for its stroke ended with it.
4. An operator can force an update. Then the agent says `restarting`, and there is a moment to come to rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from device_agent.sdk import Event, Updates, UpdatesError
from firmware_samples import appliance
from firmware_samples.appliance import Command, Surroundings


class Pump:
    """Rests for `FLEETLIFT_PUMP_IDLE_S` seconds (3), works for `FLEETLIFT_PUMP_BUSY_S` (2), and so on."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._updates: Updates = surroundings.updates
        self._idle_s = float(surroundings.environ.get("FLEETLIFT_PUMP_IDLE_S", "3"))
        self._busy_s = float(surroundings.environ.get("FLEETLIFT_PUMP_BUSY_S", "2"))
        self._litres_per_s: float = surroundings.version["parameters"]["litres_per_s"]
        self._busy = False
        self._parked = False
        self._pumped_l = 0.0
        self._strokes = 0
        self._elapsed_s = 0.0
        self._updates.on("restarting", self._park)  # rule 4
        with contextlib.suppress(UpdatesError):  # an agent that refuses is asked again after the first stroke
            self._updates.enable_updates()  # rule 3
            self._updates.confirm()

    def step(self, elapsed_s: float) -> Mapping[str, Any]:
        """Begin, go on with or end a stroke."""
        due = not self._parked and busy_at(elapsed_s, self._idle_s, self._busy_s)
        if due and not self._busy:
            self._begin()
        elif self._busy and not due:
            self._end()
        if self._busy:
            self._pumped_l += self._litres_per_s * (elapsed_s - self._elapsed_s)
        self._elapsed_s = elapsed_s
        return {
            "busy": self._busy,
            "parked": self._parked,
            "strokes": self._strokes,
            "pumped_l": round(self._pumped_l, 3),
        }

    def healthy(self, elapsed_s: float) -> bool:  # noqa: ARG002 - a pump that turns is healthy at any age
        """Tell whether it works."""
        return True

    def commands(self) -> Mapping[str, Command]:
        """Take none."""
        return {}

    def _begin(self) -> None:
        try:
            self._updates.disable_updates(until_s=self._busy_s + 10, why="pumping")  # rules 1 and 2
        except UpdatesError as error:
            # The agent would not promise: this stroke is left out, the next is tried.
            appliance.say(f"no stroke: {error}")
            return
        self._busy = True
        self._strokes += 1

    def _end(self) -> None:
        self._busy = False
        try:
            self._updates.enable_updates()
        except UpdatesError as error:
            appliance.say(f"updates stay disabled until the limit: {error}")

    def _park(self, _event: Event) -> None:
        self._parked = True


def busy_at(elapsed_s: float, idle_s: float, busy_s: float) -> bool:
    """Return whether a stroke is due: after each rest, for as long as a stroke lasts."""
    return elapsed_s % (idle_s + busy_s) >= idle_s


def main() -> None:
    """Run it until SIGTERM."""
    appliance.run(Pump)
