"""A thermostat: reads a simulated sensor, switches the heating, and shows what it does.

What it owes to updates is one line: it confirms itself when it has read its sensor well for a while. Everything else,
that it may be stopped at any moment and takes care of nothing, is why it needs no more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from device_agent.sdk import UpdatesError
from firmware_samples import appliance
from firmware_samples.appliance import Command, Surroundings

GOOD_READINGS_TO_CONFIRM: Final = 3
PLAUSIBLE_C: Final = (-30.0, 60.0)
OUTSIDE_C: Final = 5.0


class Room:
    """A room with a radiator: what the sensor measures. A minute of its time passes in a second."""

    def __init__(self, temperature_c: float) -> None:
        self.temperature_c = temperature_c

    def live(self, duration_s: float, *, heating: bool) -> None:
        """Lose warmth to the outside, and gain what the radiator gives."""
        loss = (self.temperature_c - OUTSIDE_C) / 30
        self.temperature_c += ((1.5 if heating else 0.0) - loss) * duration_s

    def read(self, elapsed_s: float) -> float:
        """Return what the sensor says: the temperature, with a ripple."""
        return round(self.temperature_c + 0.05 * math.sin(elapsed_s * 7), 2)


class Thermostat:
    """Keeps a room at its set point, within a band."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._parameters = surroundings.version["parameters"]
        self._updates = surroundings.updates
        self._room = Room(18.0)
        self._set_point_c: float = self._parameters["set_point_c"]
        self._heating = False
        self._readings: deque[float] = deque(maxlen=10)
        self._good_readings = 0
        self._elapsed_s = 0.0

    def step(self, elapsed_s: float) -> Mapping[str, Any]:
        """Read, switch, show."""
        self._room.live(elapsed_s - self._elapsed_s, heating=self._heating)
        self._elapsed_s = elapsed_s
        reading_c = self._room.read(elapsed_s)
        self._readings.append(reading_c)
        self._heating = decide(reading_c, self._set_point_c, heating=self._heating)
        if PLAUSIBLE_C[0] < reading_c < PLAUSIBLE_C[1]:
            self._good_readings += 1
            if self._good_readings == GOOD_READINGS_TO_CONFIRM:
                self._confirm()
        shown = {"temperature_c": reading_c, "set_point_c": self._set_point_c, "heating": self._heating}
        display = self._parameters["display"].format(**shown, state="heating" if self._heating else "resting")
        return {**shown, "display": display, "readings_c": list(self._readings)}

    def healthy(self, elapsed_s: float) -> bool:
        """Tell whether it works; a version that is broken on purpose says so after a while, and for ever."""
        fails_after_s: float = self._parameters.get("fails_after_s", math.inf)
        return elapsed_s < fails_after_s

    def commands(self) -> Mapping[str, Command]:
        """Take a set point."""
        return {"/set-point": lambda body: self._set(float(body["celsius"]))}

    def _set(self, celsius: float) -> float:
        if not 5.0 <= celsius <= 30.0:
            raise ValueError("a set point is 5 to 30 degrees Celsius")
        self._set_point_c = celsius
        return celsius

    def _confirm(self) -> None:
        # Not before it is known to work: a version on trial that never gets here is taken back.
        try:
            self._updates.confirm()
        except UpdatesError as error:
            appliance.say(f"not confirmed: {error}")


def decide(reading_c: float, set_point_c: float, *, heating: bool) -> bool:
    """Return whether to heat: on below the band of half a degree, off above it, else as before."""
    if reading_c < set_point_c - 0.25:
        return True
    if reading_c > set_point_c + 0.25:
        return False
    return heating


def main() -> None:
    """Run it until SIGTERM."""
    appliance.run(Thermostat)
