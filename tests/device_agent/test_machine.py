"""The machine, pure: every pair of state and event, every rule of its head, whole stories, and any order of events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import device_agent.events
import device_agent.machine
from device_agent.events import (
    Activated,
    BootedNew,
    BootedOld,
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
    Waiting,
    Withdrawn,
)
from device_agent.machine import (
    MAX_STORES,
    MAX_TRIALS,
    RESUME,
    TRANSITIONS,
    IllegalEventError,
    entry,
    legal,
    step,
)
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.up import AttemptEntry
from protocol.values import Scope, Urgency
from tests.support.updates import attempt, digest_of, firmware

NEW = firmware().digest
WAITING = Waiting(Wait.HELD, 5_000)
SAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in (
        Resumed(0),
        Taken(attempt()),
        Revised(Urgency.IMMEDIATE, mandatory=True, forced=True),
        Superseded(),
        Withdrawn(),
        Waited(WAITING),
        Paused(WAITING),
        DownloadCleared(),
        InstallCleared(),
        RestartCleared(),
        Downloaded(1000),
        Verified(),
        Staged(),
        Activated(),
        BootedNew(NEW),
        BootedOld(),
        Proved(),
        Confirmed(),
        Reverted(),
        Failed(Reason.HEALTH_FAILED, "500"),
    )
}
# Read from the sources, so that an event that is added without a thought for these tests is missed by them.
EVENTS = [
    kind
    for kind in vars(device_agent.events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]
BEFORE_THE_SWITCH = (Phase.DOWNLOADING, Phase.VERIFYING, Phase.INSTALLING)
GATES_OF = {
    Phase.DOWNLOADING: (None, Scope.DOWNLOAD),
    Phase.INSTALLING: (None, Scope.INSTALL, Scope.RESTART),
}

# The story of an update that goes well, and where it stands after each event.
GOOD: list[tuple[Event, Phase, tuple[Effect, ...]]] = [
    (Taken(attempt()), Phase.DOWNLOADING, (Effect.AWAIT_DOWNLOAD,)),
    (DownloadCleared(), Phase.DOWNLOADING, (Effect.DOWNLOAD,)),
    (Downloaded(1000), Phase.VERIFYING, (Effect.VERIFY,)),
    (Verified(), Phase.INSTALLING, (Effect.AWAIT_INSTALL,)),
    (InstallCleared(), Phase.INSTALLING, (Effect.STAGE,)),
    (Staged(), Phase.INSTALLING, (Effect.AWAIT_RESTART,)),
    (RestartCleared(), Phase.RESTARTING, (Effect.ACTIVATE,)),
    (Activated(), Phase.RESTARTING, (Effect.RESTART,)),
    (BootedNew(NEW), Phase.PROVING, (Effect.PROVE,)),
    (Proved(), Phase.COMMITTING, (Effect.CONFIRM,)),
    (Confirmed(), Phase.IDLE, ()),
]


def at(phase: Phase, gate: Scope | None = None) -> Snapshot:
    if phase is Phase.IDLE:
        return Snapshot()
    return Snapshot(phase=phase, attempt=attempt(), told=Phase.DOWNLOADING, gate=gate)


def tell(snapshot: Snapshot, *events: Event) -> Snapshot:
    for event in events:
        snapshot, _ = step(snapshot, event)
    return snapshot


def told(snapshot: Snapshot, *events: Event) -> list[AttemptEntry]:
    entries = []
    for event in events:
        after, _ = step(snapshot, event)
        told_now = entry(snapshot, after)
        if told_now is not None:
            entries.append(told_now)
        snapshot = after
    return entries


def test_the_tables_and_these_samples_are_total() -> None:
    assert set(SAMPLES) == set(EVENTS)
    assert set(RESUME) == set(Phase)


STANDS = [(phase, gate) for phase in Phase for gate in GATES_OF.get(phase, (None,))]


@pytest.mark.parametrize(("phase", "gate"), STANDS)
@pytest.mark.parametrize("kind", EVENTS)
def test_every_pair_is_in_a_table_or_illegal(phase: Phase, gate: Scope | None, kind: type[Event]) -> None:
    before = at(phase, gate)
    if kind is Resumed:
        expected = RESUME[phase]
    elif (phase, kind) in TRANSITIONS and gate_admits(gate, kind):
        expected = TRANSITIONS[phase, kind]
    else:
        with pytest.raises(IllegalEventError):
            step(before, SAMPLES[kind])
        assert before == at(phase, gate)
        assert not legal(before, kind)
        return
    after, effects = step(before, SAMPLES[kind])
    assert (after.phase, effects) == expected
    assert legal(before, kind)


def gate_admits(gate: Scope | None, kind: type[Event]) -> bool:
    """Rule 4, said again in other words: who clears what."""
    needs: dict[type[Event], set[Scope | None]] = {
        DownloadCleared: {Scope.DOWNLOAD},
        InstallCleared: {Scope.INSTALL},
        RestartCleared: {Scope.RESTART},
        Waited: {Scope.DOWNLOAD, Scope.INSTALL, Scope.RESTART},
        Paused: {None},
    }
    return kind not in needs or gate in needs[kind]


def test_the_whole_table_is_reachable() -> None:
    reached: set[tuple[Phase, type[Event]]] = set()
    fresh = [Snapshot()]
    known: set[str] = set()
    while fresh:
        snapshot = fresh.pop()
        for kind, sample in SAMPLES.items():
            if not legal(snapshot, kind) or snapshot.stores > 14:
                continue
            reached.add((snapshot.phase, kind))
            after, _ = step(snapshot, sample)
            if repr(after) not in known:
                known.add(repr(after))
                fresh.append(after)
    assert reached >= set(TRANSITIONS)


def test_an_update_that_goes_well() -> None:
    snapshot = Snapshot()
    for event, phase, effects in GOOD:
        snapshot, done = step(snapshot, event)
        assert (snapshot.phase, done) == (phase, effects)
    assert snapshot.concluded is not None
    assert snapshot.concluded.outcome is Outcome.SUCCEEDED
    assert snapshot == Snapshot(concluded=snapshot.concluded)


def test_what_a_good_update_tells() -> None:
    entries = told(Snapshot(), *(event for event, _, _ in GOOD))
    assert [(item.phase, item.outcome) for item in entries] == [
        (Phase.DOWNLOADING, None),
        (Phase.INSTALLING, None),
        (Phase.PROVING, None),
        (Phase.COMMITTING, Outcome.SUCCEEDED),
    ]
    assert entries[-1].booted_digest == NEW
    assert entries[-1].fetched_bytes == 1000
    assert {item.attempt_id for item in entries} == {"a1"}


def test_what_a_bad_trial_tells() -> None:
    events = [event for event, _, _ in GOOD[:9]]
    entries = told(Snapshot(), *events, Failed(Reason.HEALTH_FAILED, "500"), Reverted())
    last = entries[-1]
    assert (last.phase, last.outcome, last.reason, last.detail) == (
        Phase.ROLLING_BACK,
        Outcome.ROLLED_BACK,
        Reason.HEALTH_FAILED,
        "500",
    )
    assert last.booted_digest is None


@pytest.mark.parametrize("phase", BEFORE_THE_SWITCH)
@pytest.mark.parametrize(("event", "reason"), [(Superseded(), Reason.SUPERSEDED), (Withdrawn(), Reason.WITHDRAWN)])
def test_an_attempt_is_called_off_before_the_switch(phase: Phase, event: Event, reason: Reason) -> None:
    for gate in GATES_OF.get(phase, (None,)):
        after = tell(at(phase, gate), event)
        assert after.phase is Phase.IDLE
        assert after.concluded is not None
        assert (after.concluded.outcome, after.concluded.reason) == (Outcome.CANCELLED, reason)
        assert not after.concluded.condemns_digest


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (*BEFORE_THE_SWITCH, Phase.IDLE)])
def test_nothing_is_called_off_after_the_switch(phase: Phase) -> None:
    for event in (Superseded(), Withdrawn(), SAMPLES[Revised]):
        with pytest.raises(IllegalEventError):
            step(at(phase), event)


@pytest.mark.parametrize("phase", [Phase.RESTARTING, Phase.PROVING, Phase.COMMITTING])
@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.DATA_FAILED])
def test_after_the_switch_any_failure_goes_back_and_condemns(phase: Phase, reason: Reason) -> None:
    rolling, effects = step(at(phase), Failed(reason, "why"))
    assert (rolling.phase, effects) == (Phase.ROLLING_BACK, (Effect.REVERT,))
    end = tell(rolling, Reverted()).concluded
    assert end is not None
    assert (end.outcome, end.reason, end.detail) == (Outcome.ROLLED_BACK, reason, "why")
    assert end.condemns_digest
    assert not end.backs_off


@pytest.mark.parametrize("phase", BEFORE_THE_SWITCH)
def test_a_failure_before_the_switch_condemns_or_backs_off(phase: Phase) -> None:
    later = {Reason.TOO_LARGE, Reason.STORAGE_FAILED, Reason.DOWNLOAD_FAILED, Reason.UNTRUSTED}
    for reason in Reason:
        end = tell(at(phase), Failed(reason)).concluded
        assert end is not None
        assert end.outcome is Outcome.FAILED
        assert end.backs_off is (reason in later)
        assert end.condemns_digest is (reason not in later)


def test_a_fall_back_that_fails_is_done_again_for_its_first_reason() -> None:
    rolling = tell(at(Phase.PROVING), Failed(Reason.HEALTH_FAILED, "500"))
    again, effects = step(rolling, Failed(Reason.STORAGE_FAILED, "read-only"))
    assert (again.phase, effects) == (Phase.ROLLING_BACK, (Effect.REVERT_LATER,))
    end = tell(again, Reverted()).concluded
    assert end is not None
    assert end.reason is Reason.HEALTH_FAILED


# Rule 6.


def test_a_digest_that_was_not_signed_is_a_wrong_boot() -> None:
    after, effects = step(at(Phase.RESTARTING), BootedNew(digest_of("something else")))
    assert (after.phase, after.reason, effects) == (Phase.ROLLING_BACK, Reason.WRONG_BOOT, (Effect.REVERT,))


def test_a_trial_is_started_only_so_often() -> None:
    snapshot = tell(at(Phase.INSTALLING, Scope.RESTART), RestartCleared())
    for trial in range(1, MAX_TRIALS + 1):
        assert (snapshot.phase, snapshot.trials) == (Phase.RESTARTING, trial)
        snapshot = tell(snapshot, Activated(), BootedNew(NEW), Resumed())
        assert snapshot.phase is Phase.PROVING
        snapshot = tell(snapshot, BootedOld())
    assert (snapshot.phase, snapshot.reason) == (Phase.ROLLING_BACK, Reason.INTERRUPTED)


def test_an_agent_that_finds_its_trial_running_spends_none() -> None:
    snapshot = tell(at(Phase.INSTALLING, Scope.RESTART), RestartCleared(), Activated(), BootedNew(NEW))
    for _ in range(MAX_TRIALS + 2):
        snapshot = tell(snapshot, Resumed(), BootedNew(NEW))
    assert (snapshot.phase, snapshot.trials) == (Phase.PROVING, 1)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_an_attempt_that_only_ever_resumes_ends(phase: Phase) -> None:
    snapshot = at(phase)
    for _ in range(MAX_STORES + 1):
        snapshot = tell(snapshot, Resumed(0))
    if phase in BEFORE_THE_SWITCH:
        assert snapshot.phase is Phase.IDLE
    else:
        assert snapshot.phase is Phase.ROLLING_BACK


def test_a_download_that_grows_at_each_start_may_go_on_for_ever() -> None:
    snapshot = at(Phase.DOWNLOADING)
    for received in range(10 * MAX_STORES):
        snapshot = tell(snapshot, Resumed(received))
    assert snapshot.phase is Phase.DOWNLOADING


def test_a_fall_back_never_wears_out() -> None:
    snapshot = at(Phase.ROLLING_BACK)
    for _ in range(3 * MAX_STORES):
        snapshot, effects = step(snapshot, Resumed(0))
        assert (snapshot.phase, effects) == (Phase.ROLLING_BACK, (Effect.REVERT,))


# Rules 3 and 4.


def test_waiting_is_data_and_is_not_stored() -> None:
    before = at(Phase.INSTALLING, Scope.INSTALL)
    after = tell(before, Waited(WAITING))
    assert after.waiting == WAITING
    assert after.gate is Scope.INSTALL
    assert after.stored == before.stored
    cleared = tell(after, InstallCleared())
    assert (cleared.waiting, cleared.gate) == (None, None)


def test_waiting_for_ever_wears_nothing_out() -> None:
    snapshot = at(Phase.INSTALLING, Scope.INSTALL)
    for _ in range(5 * MAX_STORES):
        snapshot = tell(snapshot, Waited(WAITING))
    assert snapshot.stores == 0


def test_a_download_pauses_at_its_gate() -> None:
    paused, effects = step(at(Phase.DOWNLOADING), Paused(WAITING))
    assert effects == (Effect.STOP_DOWNLOAD, Effect.AWAIT_DOWNLOAD)
    assert (paused.gate, paused.waiting) == (Scope.DOWNLOAD, WAITING)
    assert step(paused, DownloadCleared())[1] == (Effect.DOWNLOAD,)
    assert step(paused, Downloaded(9))[0].phase is Phase.VERIFYING  # the last chunk was on its way


def test_a_revision_keeps_the_place_at_the_gate() -> None:
    before = replace(at(Phase.INSTALLING, Scope.RESTART), waiting=WAITING)
    after = tell(before, Revised(Urgency.IMMEDIATE, mandatory=False, forced=True))
    assert after.gate is Scope.RESTART
    assert after.attempt is not None
    assert after.attempt.forced


def test_a_resumed_phase_is_told_once() -> None:
    events = [event for event, _, _ in GOOD[:9]]
    before = tell(Snapshot(), *events)
    again = told(before, Resumed(), BootedOld(), Activated(), BootedNew(NEW), Proved(), Confirmed())
    assert [(item.phase, item.outcome) for item in again] == [(Phase.COMMITTING, Outcome.SUCCEEDED)]


# Any order of events: whatever happens, the machine keeps its word.


@given(st.lists(st.sampled_from([*SAMPLES.values(), Resumed(10), BootedNew(digest_of("other"))]), max_size=80))
def test_any_order_of_events(events: list[Event]) -> None:
    snapshot = Snapshot()
    activated = False
    phases: list[Phase] = []
    for event in events:
        if not legal(snapshot, type(event)):
            with pytest.raises(IllegalEventError):
                step(snapshot, event)
            continue
        after, effects = step(snapshot, event)
        telling = entry(snapshot, after)
        # Nothing runs that was not cleared, and nothing after the switch ends but as succeeded or rolled back.
        activated = (activated or Effect.ACTIVATE in effects) and after.phase is not Phase.IDLE
        if Effect.RESTART in effects or Effect.CONFIRM in effects:
            assert activated
        if after.phase is Phase.IDLE and snapshot.phase is not Phase.IDLE:
            assert after.concluded is not None
            late = snapshot.phase not in BEFORE_THE_SWITCH
            assert (after.concluded.outcome in (Outcome.SUCCEEDED, Outcome.ROLLED_BACK)) is late
            if after.concluded.outcome is Outcome.SUCCEEDED:
                assert snapshot.booted_digest == NEW
            assert telling is not None
            assert telling.outcome is after.concluded.outcome
        if telling is not None:
            if telling.outcome is None:
                assert telling.phase not in phases
                phases.append(telling.phase)
            else:
                phases.clear()
        assert after.trials <= MAX_TRIALS
        assert (after.attempt is None) is (after.phase is Phase.IDLE)
        snapshot = after
