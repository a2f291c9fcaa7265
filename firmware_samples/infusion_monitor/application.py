"""A medical device: updates are disabled by default, and enabled in a window, if no infusion runs.

The rules that it follows, and that an application of this kind should:
1. Disabled is the normal state. It is told to the agent as soon as this process runs, and lasts when it does not. For
   the time before that, the agent's settings say `enabled_at_start = false` under `[updates]`.
2. Only this device's state decides: the hour, or a person at it who opens the window; and never during an infusion.
3. An infusion is also a hold, over download, installation and restart: should an update have begun in the window, it
   goes no further. A hold ends with the process that has it, as the infusion does.
4. Somebody is told what waits: the release is shown at the bedside, not installed behind anybody's back.
5. A release that requires attention is asked about there, and its answer is a nurse's: this program gives none itself.

The window is `FLEETLIFT_UPDATE_WINDOW`, in seconds of the day (UTC), from and to: `7200-14400` is from 2 to 4 o'clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from device_agent.sdk import Event, Updates, UpdatesError
from firmware_samples import appliance
from firmware_samples.appliance import Command, Surroundings

DAY_S: Final = 86_400
SCOPE: Final = ("download", "install", "restart")


@dataclass(frozen=True)
class Window:
    """A part of each day, in seconds of the day; one that ends before it begins goes over midnight."""

    begin_s: float
    end_s: float

    def contains(self, second_of_day: float) -> bool:
        """Tell whether it is open."""
        if self.begin_s <= self.end_s:
            return self.begin_s <= second_of_day < self.end_s
        return second_of_day >= self.begin_s or second_of_day < self.end_s


def parse_window(text: str) -> Window:
    """Return the window that `FLEETLIFT_UPDATE_WINDOW` says, by default one that never opens; raises ValueError."""
    if not text:
        return Window(0, 0)
    begin, _, end = text.partition("-")
    window = Window(float(begin), float(end))
    if not (0 <= window.begin_s <= DAY_S and 0 <= window.end_s <= DAY_S):
        raise ValueError(f"the window {text!r} is not within a day of {DAY_S} seconds")
    return window


def why_not(*, infusing: bool, opened: bool, window: Window, second_of_day: float) -> str | None:
    """Return why updates are disabled, or None if they may come."""
    if infusing:
        return "infusion runs"
    if opened or window.contains(second_of_day):
        return None
    return "outside the update window"


class InfusionMonitor:
    """Watches an infusion, and lets updates in only when it is safe."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._updates: Updates = surroundings.updates
        self._window = parse_window(surroundings.environ.get("FLEETLIFT_UPDATE_WINDOW", ""))
        self._rate_ml_per_h: float = surroundings.version["parameters"]["rate_ml_per_h"]
        self._opened = False
        self._start_wanted = False
        self._infused_ml = 0.0
        self._infusion = contextlib.ExitStack()  # closed: no infusion
        self._infusing = False
        self._told: tuple[str | None, ...] = ()  # what the agent was told last
        self._prompt = ""
        self._elapsed_s = 0.0
        self._updates.on("firmware_update_pending", self._show)  # rule 4
        self._updates.on("attention_required", self._ask)  # rule 5
        self._updates.on("update_installed", lambda event: self._say(f"version {event['version']} is installed"))
        self._tell_agent()  # rule 1
        with contextlib.suppress(UpdatesError):
            self._updates.confirm()

    def step(self, elapsed_s: float) -> Mapping[str, Any]:
        """Begin or end the infusion as it was asked, and keep the agent told."""
        if self._start_wanted and not self._infusing:
            self._begin()
        elif self._infusing and not self._start_wanted:
            self._end()
        if self._infusing:
            self._infused_ml += self._rate_ml_per_h * (elapsed_s - self._elapsed_s) / 3600
        self._elapsed_s = elapsed_s
        self._tell_agent()
        return {"infusing": self._infusing, "infused_ml": round(self._infused_ml, 4), "prompt": self._prompt}

    def healthy(self, elapsed_s: float) -> bool:  # noqa: ARG002 - its age says nothing of its health
        """Tell whether it works."""
        return True

    def commands(self) -> Mapping[str, Command]:
        """Take what a person does at the device."""
        return {
            "/window/open": lambda _: self._open(opened=True),
            "/window/close": lambda _: self._open(opened=False),
            "/infusion/start": lambda _: self._want(start=True),
            "/infusion/stop": lambda _: self._want(start=False),
        }

    def _open(self, *, opened: bool) -> bool:
        self._opened = opened
        return opened

    def _want(self, *, start: bool) -> bool:
        self._start_wanted = start
        return start

    def _begin(self) -> None:
        try:
            self._infusion.enter_context(self._updates.hold("infusion runs", scope=SCOPE))  # rule 3
        except UpdatesError as error:
            self._say(f"the infusion waits: {error}")
            return
        self._infusing = True

    def _end(self) -> None:
        self._infusing = False
        self._infusion.close()

    def _tell_agent(self) -> None:
        second_of_day = time.time() % DAY_S
        reason = why_not(infusing=self._infusing, opened=self._opened, window=self._window, second_of_day=second_of_day)
        if self._told == (reason,):
            return
        try:
            if reason is None:
                self._updates.enable_updates()
            else:
                self._updates.disable_updates(why=reason)
        except UpdatesError as error:
            self._say(f"the agent was not told: {error}")  # and is, at the next step
            return
        self._told = (reason,)

    def _show(self, event: Event) -> None:
        self._say(f"version {event['version']} waits for the update window")

    def _ask(self, event: Event) -> None:
        choice = "consent, defer or decline" if event["optional"] else "consent or defer"
        self._say(f"version {event['version']} asks to be installed: {choice}")

    def _say(self, prompt: str) -> None:
        self._prompt = prompt
        appliance.say(prompt)


def main() -> None:
    """Run it until SIGTERM."""
    appliance.run(InfusionMonitor)
