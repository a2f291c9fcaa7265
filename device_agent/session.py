"""One session with the cloud, as time and messages go by: when to say hello, what to ask for, and when to decide.

Pure: time is an argument (seconds of a clock that only goes forward), and nothing is sent from here.

1. A session begins when the broker is connected. Its hello is said again, with back-off, until a Desired answers it.
2. A check is another hello in the same session, and so is asking again for what the device could not keep.
3. Once Desired is there, and every notice that it names, the device decides, with what made it ask as its trigger.
   A notice that is missing for a while is asked for, with back-off.
4. A cloud that does not answer for PATIENCE_S does not keep the device from deciding on what it knows. It decides again
   when the answer comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from device_agent.admission import Trigger

FIRST_HELLO_S: Final = 5.0
LONGEST_HELLO_S: Final = 300.0
FIRST_ASK_S: Final = 3.0
LONGEST_ASK_S: Final = 120.0
PATIENCE_S: Final = 10.0
_RANK: Final = (Trigger.NOTICE, Trigger.TIMER, Trigger.SESSION_START, Trigger.CHECK)


@dataclass(slots=True)
class _BackOff:
    """A time that comes again and again, each time later than the time before, up to a limit."""

    first_s: float
    longest_s: float
    due: float | None = None
    pause_s: float = 0.0

    def start(self, now: float, *, at_once: bool) -> None:
        self.pause_s = self.first_s
        self.due = now if at_once else now + self.first_s

    def stop(self) -> None:
        self.due = None

    def pop(self, now: float) -> bool:
        if self.due is None or now < self.due:
            return False
        self.due = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, self.longest_s)
        return True


@dataclass(slots=True)
class Session:
    """The session's bookkeeping. `number` is 0 while there is none."""

    number: int = 0
    trigger: Trigger | None = None
    """What the next decision is made for; None: nothing was asked."""
    answered: bool = False
    _patient_until: float | None = None
    """Until when the answer is waited for; None: it was waited for long enough, or nothing was asked."""
    _hello: _BackOff = field(default_factory=lambda: _BackOff(FIRST_HELLO_S, LONGEST_HELLO_S))
    _ask: _BackOff = field(default_factory=lambda: _BackOff(FIRST_ASK_S, LONGEST_ASK_S))

    def begin(self, number: int, now: float) -> None:
        """Begin a session: a hello is due."""
        self.number = number
        self._say_hello(Trigger.SESSION_START, now)

    def end(self) -> None:
        """End it: the broker is gone. What was asked is asked in the next one."""
        self.number = 0
        self._patient_until = None
        self._hello.stop()
        self._ask.stop()

    def check(self, trigger: Trigger, now: float) -> None:
        """Ask the cloud again, in this session or else at the start of the next one."""
        if self.number:
            self._say_hello(trigger, now)

    def ask_again(self, now: float) -> None:
        """Ask for what the cloud said and could not be kept, unless an answer is waited for anyway."""
        if self.number and self.answered:
            self._say_hello(Trigger.NOTICE, now)

    def _say_hello(self, trigger: Trigger, now: float) -> None:
        if self.trigger is None or _RANK.index(trigger) > _RANK.index(self.trigger):
            self.trigger = trigger
        self.answered = False
        self._patient_until = now + PATIENCE_S
        self._hello.start(now, at_once=True)

    def desired_arrived(self, session: int, missing: Sequence[str], now: float) -> None:
        """Hear of a Desired that was accepted, and of the notices that it names and that are not there."""
        if self.number and session == self.number:
            self.answered = True
            self._hello.stop()
        self.notices_changed(missing, now)

    def notices_changed(self, missing: Sequence[str], now: float) -> None:
        """Hear which notices are not there."""
        if not missing or not self.number:
            self._ask.stop()
        elif self._ask.due is None:
            self._ask.start(now, at_once=False)

    def hello_due(self, now: float) -> bool:
        """Tell, once, that a hello is to be said now."""
        return self._hello.pop(now)

    def ask_due(self, now: float) -> bool:
        """Tell, once, that missing notices are to be asked for now."""
        return self._ask.pop(now)

    @property
    def awaits_decision(self) -> bool:
        """Whether a decision follows soon anyway."""
        return self.trigger is not None and self._patient_until is not None

    def take_trigger(self, missing: Sequence[str], now: float) -> Trigger | None:
        """Return what the device is to decide for: once when the cloud answered and nothing is missing (or before)."""
        trigger = self.trigger
        if trigger is None:
            return None
        if self.answered and not missing:
            self.trigger = self._patient_until = None
            return trigger
        if self._patient_until is None or now < self._patient_until:
            return None
        self._patient_until = None
        return trigger

    def next_due(self) -> float | None:
        """Return when something is due next."""
        times = [due for due in (self._hello.due, self._ask.due, self._patient_until) if due is not None]
        return min(times, default=None)
