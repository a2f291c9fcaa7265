"""Devices of a story: the real selection and the real admission, with virtual time, and mishaps that the story tells.

A device downloads for a minute, installs and restarts, and has proved itself two minutes later. What it says to the
cloud goes through its journal: entries are kept and said again until the cloud has taken them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from device_agent.admission import (
    Answer,
    Held,
    InstallPolicy,
    Occasion,
    Said,
    Trigger,
    Willingness,
    admit_step,
    admit_take,
)
from device_agent.events import Waiting
from protocol.down import Desired
from protocol.facts import DeviceFacts
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.selection import Assignment, Channels, Decision, Rule, Verdict, Wanted, select
from protocol.up import (
    AttemptEntry,
    Availability,
    DeviceState,
    Entry,
    Health,
    Hello,
    HoldInfo,
    JournalPosition,
    Pending,
)
from protocol.values import ComponentState, FirmwareRef, Scope

PRODUCT: Final = "thermostat"
DOWNLOAD_S: Final = 60
PROOF_S: Final = 120
SECOND_MS: Final = 1000
START_S: Final = 1_704_067_200
"""When stories begin: Monday, the 1st of January 2024, 00:00 UTC."""
_BLOCKED: Final = {
    Rule.FAILED_BEFORE: Wait.FAILED_BEFORE,
    Rule.REQUIREMENT: Wait.REQUIREMENT,
    Rule.BREAKS: Wait.BREAKS,
    Rule.DATA_SCHEMA: Wait.DATA_SCHEMA,
    Rule.DECLINED: Wait.DECLINED,
    Rule.BASE_FIRST: Wait.BASE_FIRST,
}


@dataclass(frozen=True)
class Mishap:
    """What goes wrong on a device with a version: it falls back for a reason, or is silent from the restart on."""

    reason: Reason | None


@dataclass
class Trying:
    """An attempt under way."""

    attempt_id: str
    wanted: Wanted
    from_state: ComponentState | None
    began_s: float
    phase: Phase = Phase.DOWNLOADING
    restarted_s: float = 0.0


@dataclass
class Actor:
    """One device: what it runs and knows, what the story has in store for it, and what it has yet to say."""

    device_id: str
    model: str
    components: dict[str, ComponentState]
    timezone: str = ""
    clock_s: float = 0.0
    online: bool = True
    dead: bool = False
    desired: Desired | None = None
    channels: Channels = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    declined: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)
    mishaps: dict[str, Mishap] = field(default_factory=dict)
    willingness: Willingness = field(default_factory=Willingness)
    crashes: int = 0
    gauges: dict[str, int] = field(default_factory=dict)
    trying: Trying | None = None
    pending: dict[str, Pending] = field(default_factory=dict)
    journal_id: str = "j1"
    next_seq: int = 1
    session: int = 0
    state_seq: int = 0
    unsent: list[Entry] = field(default_factory=list)
    sent: list[Entry] = field(default_factory=list)
    wakes_s: float = 0.0
    tries: int = 0
    trigger: Trigger = Trigger.NOTICE

    # What it says

    def hello(self) -> Hello:
        self.session += 1
        self.state_seq = 0
        return Hello(
            product=PRODUCT,
            hardware_model=self.model,
            agent_version="0.1.0",
            journal=JournalPosition(journal_id=self.journal_id, next_seq=self.next_seq),
            state=self.state(),
            timezone=self.timezone,
        )

    def state(self) -> DeviceState:
        self.state_seq += 1
        app = self.components.get("app")
        health = (Health(component="app", digest=app.digest, crashes=self.crashes, gauges=self.gauges),) if app else ()
        waits = self.trying is not None and any(it.why is Wait.TURN for it in self.pending.values())
        return DeviceState(
            session=self.session,
            seq=self.state_seq,
            phase=self.trying.phase if self.trying else Phase.IDLE,
            components=tuple(self.components.values()),
            availability=self._availability(),
            pending=tuple(self.pending.values()),
            failed=tuple(self.failed),
            declined=tuple(sorted(self.declined)),
            waits_for_turn=self.trying.attempt_id if waits and self.trying else "",
            health=health,
        )

    def _availability(self) -> Availability:
        holds = tuple(
            HoldInfo(owner=hold.owner, why="", scopes=tuple(sorted(hold.scopes))) for hold in self.willingness.holds
        )
        return Availability(enabled=self.willingness.enabled, holds=holds)

    # What it does

    def live(self, now_s: float) -> bool:
        """Do what is due, and tell whether anything changed."""
        if self.dead or self.desired is None:
            return False
        before = (self.trying, self.trying and self.trying.phase, dict(self.pending), self.next_seq)
        self.wakes_s = float("inf")
        clock_ms = round((START_S + now_s + self.clock_s) * SECOND_MS)
        decisions = self.decisions(clock_ms)
        for decision in decisions.values():
            if decision.again_at_ms is not None:
                self._wake_by_clock(decision.again_at_ms)
        self.pending = {}
        if self.trying is not None and (self.online or self.trying.phase is Phase.PROVING):
            self._go_on(self.trying, decisions, now_s, clock_ms)
            if self.trying is None:
                decisions = self.decisions(clock_ms)
        for component, decision in decisions.items() if self.online else ():
            self._consider(component, decision, now_s, clock_ms)
        self.trigger = Trigger.NOTICE
        return before != (self.trying, self.trying and self.trying.phase, dict(self.pending), self.next_seq)

    def decisions(self, clock_ms: int) -> Mapping[str, Decision]:
        assert self.desired is not None
        said = self.desired
        assignment = Assignment(
            groups=said.groups,
            pins=said.pins,
            otas=said.otas,
            ota_enabled=said.ota_enabled,
            base_only=said.base_only,
            takes_turns=said.takes_turns,
            turn=said.turn,
        )
        facts = DeviceFacts(
            device_id=self.device_id,
            hardware_model=self.model,
            agent_version="0.1.0",
            components=self.components,
            failed=self.failed,
            declined=frozenset(self.declined),
        )
        names = sorted({component for group, component in self.channels if group in said.groups} | set(self.components))
        return {name: select(facts, assignment, self.channels, name, now_ms=clock_ms) for name in names}

    def _wake(self, at_s: float) -> None:
        self.wakes_s = min(self.wakes_s, at_s)

    def _wake_by_clock(self, at_ms: int) -> None:
        self._wake(at_ms / SECOND_MS - START_S - self.clock_s)

    def _consider(self, component: str, decision: Decision, now_s: float, clock_ms: int) -> None:
        wanted = decision.wanted
        if wanted is None or decision.verdict is Verdict.RUNS:
            return
        if decision.verdict is Verdict.BLOCKED:
            if decision.blocked_by in _BLOCKED:
                self._wait(wanted, Waiting(_BLOCKED[decision.blocked_by]))
            return
        if self.trying is not None:
            if self.trying.wanted.firmware.component != component:
                self._wait(wanted, Waiting(Wait.BUSY))
            return
        waiting = admit_take(
            urgency=wanted.urgency,
            forced=wanted.forced,
            trigger=self.trigger,
            willingness=self.willingness,
            back_off=None,
            now_ms=clock_ms,
        )
        if waiting is not None:
            self._wait(wanted, waiting)
            return
        self.tries += 1
        attempt_id = f"{self.device_id}-{self.tries}"
        self.trying = Trying(attempt_id, wanted, self.components.get(component), now_s)
        self._note(Phase.DOWNLOADING)
        self._wake(now_s + DOWNLOAD_S)

    def _wait(self, wanted: Wanted, waiting: Waiting) -> None:
        firmware = wanted.firmware
        self.pending[firmware.component] = Pending(
            component=firmware.component,
            version=firmware.version,
            digest=firmware.digest,
            source_id=wanted.source_id,
            why=waiting.why,
            detail=waiting.detail,
        )
        if waiting.until_ms is not None:
            self._wake_by_clock(waiting.until_ms)

    def _go_on(self, trying: Trying, decisions: Mapping[str, Decision], now_s: float, clock_ms: int) -> None:
        if trying.phase is Phase.PROVING:
            if now_s >= trying.restarted_s + PROOF_S:
                self._conclude(trying)
            else:
                self._wake(trying.restarted_s + PROOF_S)
            return
        wanted = decisions[trying.wanted.firmware.component].wanted
        takes = decisions[trying.wanted.firmware.component].verdict is Verdict.TAKE
        if not takes or wanted is None:
            self._end(Outcome.CANCELLED, Reason.WITHDRAWN)
        elif (wanted.source_id, wanted.firmware.digest) != (trying.wanted.source_id, trying.wanted.firmware.digest):
            self._end(Outcome.CANCELLED, Reason.SUPERSEDED)
        elif now_s < trying.began_s + DOWNLOAD_S:
            trying.wanted = wanted
            self._wake(trying.began_s + DOWNLOAD_S)
        else:
            trying.wanted = wanted
            self._pass_gates(trying, now_s, clock_ms)

    def _pass_gates(self, trying: Trying, now_s: float, clock_ms: int) -> None:
        assert self.desired is not None
        wanted = trying.wanted
        occasion = Occasion(
            now_ms=clock_ms,
            timezone=self.timezone,
            answer=self.answers.get(wanted.source_id),
            is_turn=not self.desired.takes_turns or self.desired.turn == trying.attempt_id,
        )
        waiting = admit_step(
            scope=Scope.INSTALL,
            forced=wanted.forced,
            policy=InstallPolicy.AVAILABLE,
            starting=False,
            willingness=self.willingness,
            terms=wanted.terms,
            occasion=occasion,
        )
        if waiting is not None:
            trying.phase = Phase.INSTALLING
            self._wait(wanted, waiting)
            return
        trying.phase, trying.restarted_s = Phase.PROVING, now_s
        self._note(Phase.PROVING)
        mishap = self._mishap(wanted.firmware)
        if mishap is not None and mishap.reason is None:
            self.dead = True
        self._wake(now_s + PROOF_S)

    def _mishap(self, firmware: FirmwareRef) -> Mishap | None:
        return self.mishaps.get(firmware.version) or self.mishaps.get("")

    def _conclude(self, trying: Trying) -> None:
        firmware = trying.wanted.firmware
        mishap = self._mishap(firmware)
        if mishap is not None:
            self.failed[firmware.digest] = trying.wanted.tried_order
            self._end(Outcome.ROLLED_BACK, mishap.reason)
            return
        self.components[firmware.component] = ComponentState(
            component=firmware.component,
            version=firmware.version,
            build=firmware.build,
            digest=firmware.digest,
            requires=dict(firmware.requires.components),
            data_schema=firmware.data_schema,
        )
        self._end(Outcome.SUCCEEDED, None)

    def _end(self, outcome: Outcome, reason: Reason | None) -> None:
        assert self.trying is not None
        self._note(self.trying.phase, outcome, reason)
        self.trying = None
        self.trigger = Trigger.SESSION_START
        self._wake(0.0)

    def _note(self, phase: Phase, outcome: Outcome | None = None, reason: Reason | None = None) -> None:
        assert self.trying is not None
        wanted, came_from = self.trying.wanted, self.trying.from_state
        said = AttemptEntry(
            attempt_id=self.trying.attempt_id,
            source_id=wanted.source_id,
            via=wanted.via,
            component=wanted.firmware.component,
            version=wanted.firmware.version,
            digest=wanted.firmware.digest,
            phase=phase,
            from_version=came_from.version if came_from else None,
            from_digest=came_from.digest if came_from else None,
            outcome=outcome,
            reason=reason,
            booted_digest=wanted.firmware.digest if outcome is Outcome.SUCCEEDED else None,
            forced=wanted.forced,
            order=wanted.tried_order,
        )
        self.journal(said)

    def journal(self, said: AttemptEntry) -> None:
        """Write an entry, to be said until it is taken; its time is what this device's clock says."""
        self.unsent.append(Entry(seq=self.next_seq, at_ms=round((START_S + self.clock_s) * SECOND_MS), attempt=said))
        self.next_seq += 1

    def acknowledged(self, through: int) -> None:
        """Forget what the cloud has stored."""
        self.unsent = [entry for entry in self.unsent if entry.seq > through]

    # What the story does to it

    def hold(self, owner: str) -> None:
        held = Held(owner=owner, scopes=frozenset({Scope.INSTALL, Scope.RESTART}))
        self.willingness = replace(self.willingness, holds=(held,))

    def answer(self, source_id: str, digest: str, said: Said, now_ms: int, until_ms: int = 0) -> None:
        self.answers[source_id] = Answer(
            source_id=source_id, digest=digest, said=said, at_ms=now_ms, until_ms=until_ms, since_ms=now_ms
        )
        if said is Said.DECLINED:
            self.declined.add(source_id)
