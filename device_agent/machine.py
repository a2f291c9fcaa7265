"""What a device does with one update: the one table that connects states, events and effects.

1. Everything that moves a device from one phase to another stands in this file (its words in `events`): it reads no
   clock, touches nothing, and does not know how an effect is performed.
2. `TRANSITIONS` and `RESUME` are the only truth. A pair that is not in the table is a bug of the caller: `step` raises
   IllegalEventError and changes nothing. What arrives late or twice is dropped before it becomes an event.
3. The snapshot is stored before its effects are performed, and every effect may be performed again: a power cut
   between the two costs a repetition. What the next start finds out anew (`gate`, `waiting`) is not stored.
4. Three steps stand behind a gate: the download, the installation and the restart. At a gate the machine asks
   (`Effect.AWAIT_*`) and hears that it is cleared, or why it waits and until when; `CLEARANCES` names the one event
   that clears each. A clearance elsewhere is illegal.
5. Up to the restart an attempt can be called off, and leaves nothing behind that runs. From there on it ends as
   succeeded or rolled back, and the only way out of a failure is back. Nothing ends a fall-back but its success. One
   whose data could not be saved, so that nothing was switched (`data_failed`), goes back too, and counts as failed.
6. Three events are judged before the table is read, so that the table needs no conditions: a `BootedNew` with a
   digest that was not signed, a `BootedOld` when the trial was started MAX_TRIALS times, and a `Resumed` beyond
   MAX_STORES count as `Failed`.

Why an interrupted trial is started again, and only so often, is argued in docs/decisions/0001-interrupted-trials.md:
an agent that dies while the trial's application lives on finds it and goes on judging; when the power was cut, the
trial starts over, at most MAX_TRIALS times in all, counted before each start; then it is rolled back (`interrupted`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from device_agent.events import (
    Activated,
    Attempt,
    BootedNew,
    BootedOld,
    Conclusion,
    Confirmed,
    DownloadCleared,
    Downloaded,
    Effect,
    Event,
    Failed,
    InstallCleared,
    Paused,
    Proved,
    RestartCleared,
    Resumed,
    Reverted,
    Revised,
    Snapshot,
    Staged,
    Superseded,
    Taken,
    Verified,
    Waited,
    Withdrawn,
)
from protocol.errors import FleetliftError
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry
from protocol.values import MAX_TEXT, Scope

MAX_TRIALS: Final = 3
"""How often one attempt may start the new version (RAUC's default number of boot attempts)."""
MAX_STORES: Final = 28
"""How many stores an attempt may take before a restart of the agent ends it (Mender's loop breaker)."""


class IllegalEventError(FleetliftError):
    """An event that cannot happen in this state: a bug of the caller; nothing was changed."""


GATES: Final[Mapping[Effect, Scope]] = {
    Effect.AWAIT_DOWNLOAD: Scope.DOWNLOAD,
    Effect.AWAIT_INSTALL: Scope.INSTALL,
    Effect.AWAIT_RESTART: Scope.RESTART,
}
CLEARANCES: Final[Mapping[Scope, type[Event]]] = {
    Scope.DOWNLOAD: DownloadCleared,
    Scope.INSTALL: InstallCleared,
    Scope.RESTART: RestartCleared,
}

Transition = tuple[Phase, tuple[Effect, ...]]

# fmt: off
TRANSITIONS: Final[Mapping[tuple[Phase, type[Event]], Transition]] = {
    # something is taken
    (Phase.IDLE,         Taken):           (Phase.DOWNLOADING,  (Effect.AWAIT_DOWNLOAD,)),

    # the download: the current version runs on
    (Phase.DOWNLOADING,  Waited):          (Phase.DOWNLOADING,  ()),
    (Phase.DOWNLOADING,  DownloadCleared): (Phase.DOWNLOADING,  (Effect.DOWNLOAD,)),
    (Phase.DOWNLOADING,  Paused):          (Phase.DOWNLOADING,  (Effect.STOP_DOWNLOAD, Effect.AWAIT_DOWNLOAD)),
    (Phase.DOWNLOADING,  Downloaded):      (Phase.VERIFYING,    (Effect.VERIFY,)),
    (Phase.VERIFYING,    Verified):        (Phase.INSTALLING,   (Effect.AWAIT_INSTALL,)),

    # the installation into the other slot: the current version still runs
    (Phase.INSTALLING,   Waited):          (Phase.INSTALLING,   ()),
    (Phase.INSTALLING,   InstallCleared):  (Phase.INSTALLING,   (Effect.STAGE,)),
    (Phase.INSTALLING,   Staged):          (Phase.INSTALLING,   (Effect.AWAIT_RESTART,)),
    (Phase.INSTALLING,   RestartCleared):  (Phase.RESTARTING,   (Effect.ACTIVATE,)),

    # the trial: from here it ends as succeeded or rolled back
    (Phase.RESTARTING,   Activated):       (Phase.RESTARTING,   (Effect.RESTART,)),
    (Phase.RESTARTING,   BootedNew):       (Phase.PROVING,      (Effect.PROVE,)),
    (Phase.RESTARTING,   BootedOld):       (Phase.RESTARTING,   (Effect.ACTIVATE,)),
    (Phase.PROVING,      BootedNew):       (Phase.PROVING,      (Effect.PROVE,)),
    (Phase.PROVING,      BootedOld):       (Phase.RESTARTING,   (Effect.ACTIVATE,)),
    (Phase.PROVING,      Proved):          (Phase.COMMITTING,   (Effect.CONFIRM,)),
    (Phase.COMMITTING,   Confirmed):       (Phase.IDLE,         ()),

    # nothing was switched yet: any failure only ends the attempt
    (Phase.DOWNLOADING,  Failed):          (Phase.IDLE,         (Effect.STOP_DOWNLOAD,)),
    (Phase.VERIFYING,    Failed):          (Phase.IDLE,         (Effect.DISCARD,)),
    (Phase.INSTALLING,   Failed):          (Phase.IDLE,         (Effect.DISCARD,)),

    # from here any failure is the same
    (Phase.RESTARTING,   Failed):          (Phase.ROLLING_BACK, (Effect.REVERT,)),
    (Phase.PROVING,      Failed):          (Phase.ROLLING_BACK, (Effect.REVERT,)),
    (Phase.COMMITTING,   Failed):          (Phase.ROLLING_BACK, (Effect.REVERT,)),
    (Phase.ROLLING_BACK, Reverted):        (Phase.IDLE,         ()),
    (Phase.ROLLING_BACK, Failed):          (Phase.ROLLING_BACK, (Effect.REVERT_LATER,)),

    # the operator changes her mind
    (Phase.DOWNLOADING,  Revised):         (Phase.DOWNLOADING,  ()),
    (Phase.VERIFYING,    Revised):         (Phase.VERIFYING,    ()),
    (Phase.INSTALLING,   Revised):         (Phase.INSTALLING,   ()),
    (Phase.DOWNLOADING,  Superseded):      (Phase.IDLE,         (Effect.STOP_DOWNLOAD,)),
    (Phase.VERIFYING,    Superseded):      (Phase.IDLE,         ()),
    (Phase.INSTALLING,   Superseded):      (Phase.IDLE,         ()),
    (Phase.DOWNLOADING,  Withdrawn):       (Phase.IDLE,         (Effect.STOP_DOWNLOAD,)),
    (Phase.VERIFYING,    Withdrawn):       (Phase.IDLE,         ()),
    (Phase.INSTALLING,   Withdrawn):       (Phase.IDLE,         ()),
}

RESUME: Final[Mapping[Phase, Transition]] = {
    Phase.IDLE:         (Phase.IDLE,         ()),
    Phase.DOWNLOADING:  (Phase.DOWNLOADING,  (Effect.AWAIT_DOWNLOAD,)),  # goes on where it was
    Phase.VERIFYING:    (Phase.VERIFYING,    (Effect.VERIFY,)),          # hashes again
    Phase.INSTALLING:   (Phase.INSTALLING,   (Effect.AWAIT_INSTALL,)),   # stages again
    Phase.RESTARTING:   (Phase.RESTARTING,   (Effect.FIND_TRIAL,)),
    Phase.PROVING:      (Phase.PROVING,      (Effect.FIND_TRIAL,)),      # the soak starts over
    Phase.COMMITTING:   (Phase.COMMITTING,   (Effect.CONFIRM,)),         # it was proved
    Phase.ROLLING_BACK: (Phase.ROLLING_BACK, (Effect.REVERT,)),
}

OUTCOMES: Final[Mapping[type[Event], Outcome]] = {
    Confirmed:  Outcome.SUCCEEDED,
    Reverted:   Outcome.ROLLED_BACK,
    Failed:     Outcome.FAILED,
    Superseded: Outcome.CANCELLED,
    Withdrawn:  Outcome.CANCELLED,
}

WORN_OUT: Final[Mapping[Phase, Reason]] = {
    Phase.DOWNLOADING: Reason.DOWNLOAD_FAILED,
    Phase.VERIFYING:   Reason.INSTALL_FAILED,
    Phase.INSTALLING:  Reason.INSTALL_FAILED,
    Phase.RESTARTING:  Reason.INTERRUPTED,
    Phase.PROVING:     Reason.INTERRUPTED,
    Phase.COMMITTING:  Reason.COMMIT_FAILED,
}
"""What an attempt fails with that was resumed too often; a fall-back never is."""
# fmt: on

TOLD: Final = frozenset({Phase.DOWNLOADING, Phase.INSTALLING, Phase.PROVING})
"""The phases whose first beginning is an entry of the journal."""


def legal(snapshot: Snapshot, event: type[Event]) -> bool:
    """Tell whether such an event can happen now."""
    if event is Resumed:
        return True
    if event in CLEARANCES.values():
        return snapshot.gate is not None and CLEARANCES[snapshot.gate] is event
    if (event is Waited and snapshot.gate is None) or (event is Paused and snapshot.gate is not None):
        return False
    return (snapshot.phase, event) in TRANSITIONS


def step(snapshot: Snapshot, event: Event) -> tuple[Snapshot, tuple[Effect, ...]]:
    """Return where the device stands after the event, and what is to be done once that is stored."""
    if not legal(snapshot, type(event)):
        raise IllegalEventError(f"{type(event).__name__} while {snapshot.phase.value}, gate {snapshot.gate}")
    event = _judged(snapshot, event)
    if isinstance(event, Resumed):
        phase, effects = RESUME[snapshot.phase]
    else:
        phase, effects = TRANSITIONS[snapshot.phase, type(event)]
    after = _noted(replace(snapshot, phase=phase, gate=_gate(snapshot, event, effects), waiting=None), event)
    if phase is Phase.IDLE and snapshot.attempt is not None:
        return Snapshot(concluded=_concluded(snapshot, snapshot.attempt, event)), effects
    if Effect.ACTIVATE in effects:
        after = replace(after, trials=after.trials + 1)
    if phase in TOLD and snapshot.phase is not phase:
        after = replace(after, told=_later(snapshot.told, phase))
    if after.stored != snapshot.stored or (isinstance(event, Resumed) and after.attempt is not None):
        after = replace(after, stores=after.stores + 1)
    return after, effects


def entry(before: Snapshot, after: Snapshot) -> AttemptEntry | None:
    """Return what a step is to tell the cloud: stored together with the snapshot, or not at all."""
    if after.concluded is not None and before.attempt is not None and after.attempt is None:
        end = after.concluded
        booted = before.booted_digest if end.outcome is Outcome.SUCCEEDED else None
        return _entry(before, end.attempt, before.phase, end, booted)
    if after.attempt is not None and after.told is not None and after.told is not before.told:
        return _entry(after, after.attempt, after.told, None, after.booted_digest)
    return None


def _entry(
    snapshot: Snapshot, attempt: Attempt, phase: Phase, end: Conclusion | None, booted_digest: str | None
) -> AttemptEntry:
    return AttemptEntry(
        attempt_id=attempt.attempt_id,
        source_id=attempt.source_id,
        via=attempt.via,
        component=attempt.firmware.component,
        version=attempt.firmware.version,
        digest=attempt.firmware.digest,
        phase=phase,
        from_version=attempt.from_version,
        from_digest=attempt.from_digest,
        outcome=end.outcome if end else None,
        reason=end.reason if end else None,
        detail=end.detail[:MAX_TEXT] if end else "",
        booted_digest=booted_digest,
        fetched_bytes=snapshot.fetched_bytes,
        forced=attempt.forced,
        order=attempt.order,
    )


def _judged(snapshot: Snapshot, event: Event) -> Event:
    """Return the event, or the failure that it counts as (rule 6)."""
    attempt = snapshot.attempt
    if attempt is None:
        return event
    match event:
        case BootedNew(digest) if digest != attempt.firmware.digest:
            return Failed(Reason.WRONG_BOOT, f"started {digest}, not {attempt.firmware.digest}")
        case BootedOld() if snapshot.trials >= MAX_TRIALS:
            return Failed(Reason.INTERRUPTED, f"started {snapshot.trials} times, and interrupted each time")
        case Resumed() if snapshot.stores >= MAX_STORES and not _progressed(snapshot, event):
            reason = WORN_OUT.get(snapshot.phase)
            return Failed(reason, f"interrupted too often: {snapshot.stores} stores") if reason else event
    return event


def _gate(snapshot: Snapshot, event: Event, effects: tuple[Effect, ...]) -> Scope | None:
    for effect in effects:
        if effect in GATES:
            return GATES[effect]
    return snapshot.gate if isinstance(event, Waited | Revised) else None


def _noted(snapshot: Snapshot, event: Event) -> Snapshot:
    """Return the snapshot with what the event says."""
    noted = snapshot
    match event:
        case Taken(attempt, received_bytes):
            noted = replace(snapshot, attempt=attempt, received_bytes=received_bytes, concluded=None)
        case Revised(urgency, mandatory, forced, terms) if snapshot.attempt is not None:
            attempt = replace(snapshot.attempt, urgency=urgency, mandatory=mandatory, forced=forced, terms=terms)
            noted = replace(snapshot, attempt=attempt)
        case Waited(waiting) | Paused(waiting):
            noted = replace(snapshot, waiting=waiting)
        case Downloaded(fetched_bytes):
            noted = replace(snapshot, fetched_bytes=snapshot.fetched_bytes + fetched_bytes)
        case BootedNew(digest):
            noted = replace(snapshot, booted_digest=digest)
        case Failed(reason, detail) if snapshot.reason is None:
            noted = replace(snapshot, reason=reason, detail=detail[:MAX_TEXT])
        case Resumed(received_bytes) if _progressed(snapshot, event):
            gained = received_bytes - snapshot.received_bytes
            fetched = snapshot.fetched_bytes + gained
            noted = replace(snapshot, fetched_bytes=fetched, received_bytes=received_bytes, stores=0)
    return noted


def _progressed(snapshot: Snapshot, event: Resumed) -> bool:
    """Tell whether more of the image is there than at the restart before: then it is no loop."""
    return snapshot.phase is Phase.DOWNLOADING and event.received_bytes > snapshot.received_bytes


def _concluded(snapshot: Snapshot, attempt: Attempt, event: Event) -> Conclusion:
    outcome = OUTCOMES[type(event)]
    match event:
        case Failed(reason, detail):
            return Conclusion(attempt=attempt, outcome=outcome, reason=reason, detail=detail[:MAX_TEXT])
        case Superseded():
            return Conclusion(attempt=attempt, outcome=outcome, reason=Reason.SUPERSEDED)
        case Withdrawn():
            return Conclusion(attempt=attempt, outcome=outcome, reason=Reason.WITHDRAWN)
        case Reverted() if snapshot.reason is Reason.DATA_FAILED and snapshot.booted_digest is None:
            return Conclusion(attempt=attempt, outcome=Outcome.FAILED, reason=snapshot.reason, detail=snapshot.detail)
        case Reverted():
            return Conclusion(attempt=attempt, outcome=outcome, reason=snapshot.reason, detail=snapshot.detail)
    return Conclusion(attempt=attempt, outcome=outcome)


def _later(told: Phase | None, phase: Phase) -> Phase:
    phases = list(Phase)
    return phase if told is None or phases.index(phase) > phases.index(told) else told
