"""What the device does about what it was told: selects, admits, takes, revises, calls off, and clears gates.

The selection is `protocol.selection`, the admission `admission`; this file asks them and feeds the machine. A gradual
release that a session start or a check found may be taken later, too, when what held it then is over; and so may one
whose moment has come: the begin of a release, or the place of this device in a ramp.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from device_agent.admission import (
    Answer,
    BackOff,
    InstallPolicy,
    Occasion,
    Trigger,
    Willingness,
    admit_step,
    admit_take,
    admit_terms,
    gated,
)
from device_agent.consent import Question
from device_agent.driver import Driver
from device_agent.events import Attempt, Paused, Revised, Superseded, Taken, Waited, Waiting, Withdrawn
from device_agent.loop import Loop
from device_agent.machine import CLEARANCES
from device_agent.pending import blocked, key_of, obliging, pending, question, wanted_by
from protocol.facts import DeviceFacts
from protocol.phases import Wait
from protocol.selection import Assignment, Channels, Decision, Verdict, Wanted, select
from protocol.up import JournalPosition, Pending
from protocol.values import FirmwareRef, Scope

DECIDE_AGAIN_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
"""How long a time on the wall is waited for at once: a device's clock may be set, and nobody says when."""
_TIMED: Final = frozenset({Wait.BACKING_OFF, Wait.WINDOW, Wait.CONSENT})
"""What ends by the time alone, and by nobody who would tell."""
_LOG = logging.getLogger(__name__)


class Told(Protocol):
    """What the cloud said last."""

    @property
    def assignment(self) -> Assignment | None:
        """What the operator decided for this device."""

    @property
    def channels(self) -> Channels:
        """The releases of its channels."""


class Memory(Protocol):
    """What the journal knows."""

    def back_off(self, digest: str) -> BackOff | None:
        """Return how often a digest could not be had."""

    def position(self) -> JournalPosition:
        """Return where the journal stands."""


class Answers(Protocol):
    """What people at the device say."""

    @property
    def declined(self) -> tuple[str, ...]:
        """The releases that they declined."""

    def answer(self, source_id: str, digest: str) -> Answer | None:
        """Return what they said of a firmware of a release."""

    def oblige(self, source_ids: Iterable[str]) -> None:
        """Hear what they may not decline."""


@dataclass(frozen=True, slots=True)
class _Grounds:
    """What the last decision was made on."""

    facts: DeviceFacts
    assignment: Assignment
    channels: Channels

    def select(self, component: str, now_ms: int) -> Decision:
        return select(self.facts, self.assignment, self.channels, component, now_ms=now_ms)


class Decider:
    """All its methods but `explained` are for the loop's thread."""

    def __init__(
        self,
        *,
        told: Told,
        memory: Memory,
        driver: Driver,
        loop: Loop,
        components: Sequence[str],
        policy: InstallPolicy,
        facts: Callable[[], DeviceFacts],
        willingness: Callable[[], Willingness],
        starting: Callable[[str], bool],
        received_bytes: Callable[[FirmwareRef], int],
        answers: Answers,
        data_sync: Callable[[Attempt, Scope | None], Waiting | None],
        timezone: str,
        now: Callable[[], float],
    ) -> None:
        self._told = told
        self._memory = memory
        self._driver = driver
        self._loop = loop
        self._components = tuple(components)
        self._policy = policy
        self._facts = facts
        self._willingness = willingness
        self._starting = starting
        self._received_bytes = received_bytes
        self._answers = answers
        self._data_sync = data_sync
        self._timezone = timezone
        self._now = now
        self._grounds: _Grounds | None = None  # replaced, never changed: other threads read it
        self._wanted: dict[str, tuple[str, str]] = {}
        self._eligible: dict[str, tuple[str, str]] = {}
        self._ready_attempt: str | None = None
        self._waiting: dict[str, tuple[Wanted, Waiting]] = {}

    def decide(self, trigger: Trigger) -> None:
        """Select for every component, and do what follows."""
        self._answers.oblige(obliging(self._told.channels))
        decisions = self._select()
        self._waiting = {}
        self._wanted = {name: key_of(found.wanted) for name, found in decisions.items() if found.wanted is not None}
        self._reconsider(decisions)
        for component, decision in decisions.items():
            if decision.wanted is None:
                continue
            if trigger is not Trigger.NOTICE:
                self._eligible[component] = key_of(decision.wanted)
            waiting = self._take(decision, trigger)
            if waiting is not None:
                self._waiting[component] = (decision.wanted, waiting)
        self._set_timers(decisions)
        self.clear_gate()

    def explained(self) -> tuple[tuple[Decision, Waiting | None], ...]:
        """Return what is to be done about each component, and why, and for what it waits now; for any thread."""
        grounds, waiting = self._grounds, {name: found for name, (_, found) in self._all_waiting().items()}
        if grounds is None:
            return ()
        now_ms = self._now_ms()
        return tuple((grounds.select(name, now_ms), waiting.get(name)) for name in self._components)

    def forecast_mandatory(self, component: str) -> bool:
        """Tell whether what is known asks for a mandatory update that may be taken."""
        decision = self._select().get(component)
        if decision is None or decision.wanted is None or decision.verdict is not Verdict.TAKE:
            return False
        wanted = decision.wanted
        if not wanted.mandatory or self._admit(wanted, Trigger.SESSION_START) is not None:
            return False
        return wanted.forced or admit_terms(Scope.INSTALL, wanted.terms, self._occasion(key_of(wanted))) is None

    def ready(self) -> None:
        """Hear that the application is ready for what was downloaded."""
        attempt = self._driver.snapshot.attempt
        if attempt is not None:
            self._ready_attempt = attempt.attempt_id
            self.clear_gate()

    def clear_gate(self) -> None:
        """Let the machine pass the gate at which it stands, or tell it why not; pause a download that may not go on."""
        snapshot = self._driver.snapshot
        attempt = snapshot.attempt
        if attempt is None:
            return
        scope = snapshot.gate
        if scope is None and not self._driver.can(Paused):
            return
        component = attempt.firmware.component
        waiting = admit_step(
            scope=scope or Scope.DOWNLOAD,
            forced=attempt.forced,
            policy=self._policy,
            starting=self._starting(component) or self._ready_attempt == attempt.attempt_id,
            willingness=self._willingness(),
            terms=attempt.terms,
            occasion=self._occasion((attempt.source_id, attempt.firmware.digest), attempt.attempt_id),
        )
        if waiting is None or waiting.why is Wait.NEXT_START:  # when the application ends, it can say nothing any more
            waiting = self._data_sync(attempt, scope) or waiting
        self._wake("gate_opens", self.clear_gate, waiting)
        if scope is None:
            if waiting is not None:
                self._driver.feed(Paused(waiting))
        elif waiting is None:
            if not self._driver.feed(CLEARANCES[scope]()):
                self._loop.after("gate", DECIDE_AGAIN_S, self.clear_gate)
        elif waiting != snapshot.waiting:
            self._driver.feed(Waited(waiting))

    def pending(self) -> tuple[tuple[Wanted, Pending], ...]:
        """Return what is newer and waits, and why; an update at a gate too."""
        return tuple((wanted, pending(wanted, waiting)) for wanted, waiting in self._all_waiting().values())

    def questions(self) -> tuple[Question, ...]:
        """Return what waits for somebody at the device, or was declined."""
        now_ms = self._now_ms()
        asked = (
            question(wanted, waiting, self._answers.answer(*key_of(wanted)), now_ms)
            for wanted, waiting in self._all_waiting().values()
        )
        return tuple(item for item in asked if item is not None)

    def _all_waiting(self) -> dict[str, tuple[Wanted, Waiting]]:
        found = dict(self._waiting)
        snapshot = self._driver.snapshot
        if snapshot.attempt is not None:
            found.pop(snapshot.attempt.firmware.component, None)
            if snapshot.waiting is not None:
                found[snapshot.attempt.firmware.component] = (wanted_by(snapshot.attempt), snapshot.waiting)
        return found

    def _select(self) -> Mapping[str, Decision]:
        assignment = self._told.assignment
        if assignment is None:
            return {}
        self._grounds, now_ms = _Grounds(self._facts(), assignment, self._told.channels), self._now_ms()
        return {name: self._grounds.select(name, now_ms) for name in self._components}

    def _reconsider(self, decisions: Mapping[str, Decision]) -> None:
        """Go on with the update under way, carry it out in another way, or call it off."""
        attempt = self._driver.snapshot.attempt
        decision = decisions.get(attempt.firmware.component) if attempt else None
        if attempt is None or decision is None or not self._driver.can(Superseded):
            return
        wanted = decision.wanted
        if wanted is None or decision.verdict is not Verdict.TAKE:
            self._driver.feed(Withdrawn())
        elif key_of(wanted) != (attempt.source_id, attempt.firmware.digest):
            self._driver.feed(Superseded())
        else:
            revised = Revised(wanted.urgency, wanted.mandatory, wanted.forced, gated(wanted.terms))
            if revised != Revised(attempt.urgency, attempt.mandatory, attempt.forced, attempt.terms):
                self._driver.feed(revised)

    def _take(self, decision: Decision, trigger: Trigger) -> Waiting | None:
        """Take what is wanted, or return why it waits; None also if there is nothing to take."""
        wanted = decision.wanted
        if wanted is None or decision.verdict is Verdict.RUNS:
            return None
        if decision.verdict is not Verdict.TAKE:
            return blocked(decision)
        under_way = self._driver.snapshot.attempt
        if under_way is not None:
            return None if under_way.firmware.component == decision.component else Waiting(Wait.BUSY)
        waiting = self._admit(wanted, trigger)
        if waiting is None and not self._driver.feed(
            Taken(self._attempt(wanted), self._received_bytes(wanted.firmware))
        ):
            self._loop.after("decide", DECIDE_AGAIN_S, lambda: self.decide(Trigger.NOTICE))
        return waiting

    def _admit(self, wanted: Wanted, trigger: Trigger) -> Waiting | None:
        if trigger is Trigger.NOTICE and self._eligible.get(wanted.firmware.component) == key_of(wanted):
            trigger = Trigger.SESSION_START
        return admit_take(
            urgency=wanted.urgency,
            forced=wanted.forced,
            trigger=trigger,
            willingness=self._willingness(),
            back_off=self._memory.back_off(wanted.firmware.digest),
            now_ms=self._now_ms(),
        )

    def _occasion(self, key: tuple[str, str], attempt_id: str = "") -> Occasion:
        """Return the time, and what people and the cloud say of a firmware of a release.

        Who does not know whether it takes turns waits to be told; a turn that was another attempt's is none.
        """
        assignment = self._told.assignment
        return Occasion(
            now_ms=self._now_ms(),
            timezone=self._timezone,
            answer=self._answers.answer(*key),
            is_turn=assignment is not None and (not assignment.takes_turns or assignment.turn == attempt_id),
        )

    def _attempt(self, wanted: Wanted) -> Attempt:
        position = self._memory.position()
        running = self._facts().components.get(wanted.firmware.component)
        return Attempt(
            # The number of the entry that will tell of it: unique in this journal, and the journal's id is random.
            attempt_id=f"{position.journal_id}-{position.next_seq}",
            source_id=wanted.source_id,
            via=wanted.via,
            order=wanted.tried_order,
            firmware=wanted.firmware,
            urgency=wanted.urgency,
            mandatory=wanted.mandatory,
            forced=wanted.forced,
            from_version=running.version if running else None,
            from_digest=running.digest if running else None,
            terms=gated(wanted.terms),
        )

    def _set_timers(self, decisions: Mapping[str, Decision]) -> None:
        """Decide again when a back-off is over, or time alone says something else; all else tells of itself."""
        self._wake("back_off", lambda: self.decide(Trigger.NOTICE), *(found for _, found in self._waiting.values()))
        self._wake_at("moment", self._moment_came, (found.again_at_ms for found in decisions.values()))

    def _moment_came(self) -> None:
        """Decide again; what is wanted by the time that has passed alone is taken at once."""
        for component, decision in self._select().items():
            if decision.wanted is not None and key_of(decision.wanted) != self._wanted.get(component):
                self._eligible[component] = key_of(decision.wanted)
        self.decide(Trigger.NOTICE)

    def _wake(self, name: str, call: Callable[[], None], *waiting: Waiting | None) -> None:
        self._wake_at(name, call, (found.until_ms for found in waiting if found is not None and found.why in _TIMED))

    def _wake_at(self, name: str, call: Callable[[], None], times_ms: Iterable[int | None]) -> None:
        now = self._now()
        pauses = [time_ms / 1000 - now for time_ms in times_ms if time_ms is not None]
        pause_s = min(max(0.1, min(pauses)), LONGEST_PAUSE_S) if pauses else None
        self._loop.at(name, None if pause_s is None else self._loop.monotonic() + pause_s, call)

    def _now_ms(self) -> int:
        return round(self._now() * 1000)
