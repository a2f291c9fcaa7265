"""What the device does about what it was told: selects, admits, takes, revises, calls off, and clears gates.

The selection is `protocol.selection`, the admission `admission`; this file asks them and feeds the machine. A gradual
release that a session start or a check found may be taken later, too, when what held it then is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from device_agent.admission import BackOff, InstallPolicy, Trigger, Willingness, admit_step, admit_take
from device_agent.driver import Driver
from device_agent.events import Attempt, Paused, Revised, Superseded, Taken, Waited, Waiting, Withdrawn
from device_agent.loop import Loop
from device_agent.machine import CLEARANCES
from protocol.facts import DeviceFacts
from protocol.phases import Wait
from protocol.selection import Assignment, Channels, Decision, Rule, Verdict, Wanted, select
from protocol.up import JournalPosition, Pending
from protocol.values import MAX_TEXT, FirmwareRef, Scope

DECIDE_AGAIN_S: Final = 5.0
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


class Decider:
    """All its methods are for the loop's thread."""

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
        self._now = now
        self._eligible: dict[str, tuple[str, str]] = {}
        self._ready_attempt: str | None = None
        self._waiting: dict[str, tuple[Wanted, Waiting]] = {}

    def decide(self, trigger: Trigger) -> None:
        """Select for every component, and do what follows."""
        decisions = self._select()
        self._waiting = {}
        self._reconsider(decisions)
        for component, decision in decisions.items():
            if decision.wanted is None:
                continue
            if trigger is not Trigger.NOTICE:
                self._eligible[component] = _key(decision.wanted)
            waiting = self._take(decision, trigger)
            if waiting is not None:
                self._waiting[component] = (decision.wanted, waiting)
        self._set_timer()

    def forecast_mandatory(self, component: str) -> bool:
        """Tell whether what is known asks for a mandatory update that may be taken."""
        decision = self._select().get(component)
        if decision is None or decision.wanted is None or decision.verdict is not Verdict.TAKE:
            return False
        return decision.wanted.mandatory and self._admit(decision.wanted, Trigger.SESSION_START) is None

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
        )
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
        found = {wanted.firmware.component: (wanted, waiting) for wanted, waiting in self._waiting.values()}
        snapshot = self._driver.snapshot
        if snapshot.attempt is not None:
            found.pop(snapshot.attempt.firmware.component, None)
            if snapshot.waiting is not None:
                found[snapshot.attempt.firmware.component] = (_wanted(snapshot.attempt), snapshot.waiting)
        return tuple((wanted, _pending(wanted, waiting)) for wanted, waiting in found.values())

    def _select(self) -> Mapping[str, Decision]:
        assignment = self._told.assignment
        if assignment is None:
            return {}
        facts, channels, now_ms = self._facts(), self._told.channels, round(self._now() * 1000)
        return {name: select(facts, assignment, channels, name, now_ms=now_ms) for name in self._components}

    def _reconsider(self, decisions: Mapping[str, Decision]) -> None:
        """Go on with the update under way, carry it out in another way, or call it off."""
        attempt = self._driver.snapshot.attempt
        decision = decisions.get(attempt.firmware.component) if attempt else None
        if attempt is None or decision is None or not self._driver.can(Superseded):
            return
        wanted = decision.wanted
        if wanted is None or decision.verdict is not Verdict.TAKE:
            self._driver.feed(Withdrawn())
        elif _key(wanted) != (attempt.source_id, attempt.firmware.digest):
            self._driver.feed(Superseded())
        elif (wanted.urgency, wanted.mandatory, wanted.forced) != (attempt.urgency, attempt.mandatory, attempt.forced):
            self._driver.feed(Revised(wanted.urgency, wanted.mandatory, wanted.forced))
            self.clear_gate()

    def _take(self, decision: Decision, trigger: Trigger) -> Waiting | None:
        """Take what is wanted, or return why it waits; None also if there is nothing to take."""
        wanted = decision.wanted
        if wanted is None or decision.verdict is Verdict.RUNS:
            return None
        if decision.verdict is not Verdict.TAKE:
            return Waiting(Wait.FAILED_BEFORE) if decision.blocked_by is Rule.FAILED_BEFORE else None
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
        if trigger is Trigger.NOTICE and self._eligible.get(wanted.firmware.component) == _key(wanted):
            trigger = Trigger.SESSION_START
        return admit_take(
            urgency=wanted.urgency,
            forced=wanted.forced,
            trigger=trigger,
            willingness=self._willingness(),
            back_off=self._memory.back_off(wanted.firmware.digest),
            now_ms=round(self._now() * 1000),
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
        )

    def _set_timer(self) -> None:
        """Decide again when a back-off is over; what else is waited for tells of itself."""
        now = self._now()
        pauses = [
            waiting.until_ms / 1000 - now
            for _, waiting in self._waiting.values()
            if waiting.why is Wait.BACKING_OFF and waiting.until_ms is not None
        ]
        due = self._loop.monotonic() + max(0.1, min(pauses)) if pauses else None
        self._loop.at("back_off", due, lambda: self.decide(Trigger.NOTICE))


def _key(wanted: Wanted) -> tuple[str, str]:
    return wanted.source_id, wanted.firmware.digest


def _wanted(attempt: Attempt) -> Wanted:
    return Wanted(
        firmware=attempt.firmware,
        via=attempt.via,
        source_id=attempt.source_id,
        order=attempt.order,
        urgency=attempt.urgency,
        mandatory=attempt.mandatory,
        forced=attempt.forced,
    )


def _pending(wanted: Wanted, waiting: Waiting) -> Pending:
    return Pending(
        component=wanted.firmware.component,
        version=wanted.firmware.version,
        digest=wanted.firmware.digest,
        source_id=wanted.source_id,
        why=waiting.why,
        detail=waiting.detail[:MAX_TEXT],
    )
