"""Redundancy sets in the database: turns are asked for, granted, told, ended and taken away with what devices say."""

from __future__ import annotations

import pytest

from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.redundancy import MAX_SETS
from cloud.store.store import Store
from cloud.turns import Standing
from cloud.values import OutboxKind
from protocol.phases import Outcome, Phase, Reason
from protocol.up import Entry
from tests.cloud.store.fleets import ANN, Device, join

BEFORE, TRIAL = (Phase.DOWNLOADING, Phase.INSTALLING), (Phase.RESTARTING, Phase.PROVING)


def pair(store: Store, *device_ids: str, name: str = "pair") -> list[Device]:
    devices = join(store, *device_ids)
    store.redundancy.create_set(name, by=ANN)
    assert store.redundancy.add_to_set(name, device_ids, by=ANN) == len(device_ids)
    return devices


def begin(device: Device, *phases: Phase) -> list[Entry]:
    """Have a device report an attempt up to the last of these phases."""
    entries = device.steps("1.1.0", "rel-1", *phases)
    device.report(*entries)
    return entries


def end(device: Device, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    """Have a device report how its newest attempt ended."""
    device.attempts -= 1
    reason = None if outcome is Outcome.SUCCEEDED else Reason.HEALTH_FAILED
    device.report(*device.steps("1.1.0", "rel-1", Phase.PROVING, outcome=outcome, reason=reason))


def ask(device: Device) -> None:
    """Have a device download something, and ask for its turn to install it."""
    begin(device, *BEFORE)
    device.tell(phase=Phase.INSTALLING, waits_for_turn=f"a-{device.attempts}")


def turn(store: Store, device: Device) -> str:
    return store.devices.desired_for(device.device_id).turn


def standings(store: Store, name: str = "pair") -> dict[str, Standing]:
    return {member.device_id: member.standing for member in store.redundancy.find(name).members}


def test_members_are_told_that_they_take_turns_and_that_it_is_theirs(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2")
    assert {item.key for item in store.outbox.take(100, OutboxKind.DESIRED)} == {"pi-1", "pi-2"}
    assert store.devices.desired_for("pi-1").takes_turns
    assert turn(store, one) == ""
    for item in store.outbox.take(100):
        store.outbox.settle(item)
    ask(two)
    assert turn(store, two) == "a-1"
    assert [item.key for item in store.outbox.take(100, OutboxKind.DESIRED)] == ["pi-2"]
    (event,) = store.events.of("device/pi-2")
    assert (event.kind, event.data) == ("turn.granted", {"attempt": "a-1", "sets": ["pair"]})


def test_the_second_goes_when_the_first_has_ended_and_not_before(store: Store) -> None:
    one, two, three = pair(store, "pi-1", "pi-2", "pi-3")
    ask(two)
    ask(three)
    ask(one)
    assert [turn(store, it) for it in (one, two, three)] == ["", "a-1", ""]
    two.tell(phase=Phase.RESTARTING)
    assert turn(store, three) == ""
    end(two)
    assert [turn(store, it) for it in (one, two, three)] == ["", "", "a-1"]
    assert standings(store) == {"pi-1": Standing.WAITS, "pi-2": Standing.FREE, "pi-3": Standing.HOLDS}
    end(three, Outcome.ROLLED_BACK)
    assert turn(store, one) == "a-1"


def test_a_turn_is_for_all_sets_of_a_device(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2", name="left")
    (three,) = pair(store, "pi-3", name="right")
    store.redundancy.add_to_set("right", ["pi-2"], by=ANN)
    ask(one)
    ask(two)
    ask(three)
    assert [turn(store, it) for it in (one, two, three)] == ["a-1", "", ""]
    end(one)
    assert [turn(store, it) for it in (one, two, three)] == ["", "a-1", ""]
    end(two)
    assert turn(store, three) == "a-1"


def test_who_is_not_connected_gets_no_turn_and_keeps_nobody_waiting(store: Store) -> None:
    one, two, three = pair(store, "pi-1", "pi-2", "pi-3")
    ask(one)
    ask(two)
    ask(three)
    two.presence(online=False)
    end(one)
    assert turn(store, three) == "a-1"
    two.session += 1
    answer = two.hello(phase=Phase.INSTALLING, waits_for_turn="a-1")
    assert answer.desired is not None
    assert answer.desired.turn == ""
    end(three)
    assert turn(store, two) == "a-1"


def test_who_goes_away_with_its_turn_keeps_it_until_somebody_takes_it_away(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2")
    ask(one)
    one.tell(phase=Phase.INSTALLING)
    one.attempts -= 1
    begin(one, *TRIAL)
    ask(two)
    one.presence(online=False)
    assert turn(store, two) == ""
    with pytest.raises(ConflictError, match="holds no turn"):
        store.redundancy.take_turn_away("pi-2", by=ANN)
    assert turn(store, one) == "a-1"
    assert store.redundancy.take_turn_away("pi-1", by=ANN) == "a-1"
    assert [turn(store, it) for it in (one, two)] == ["", "a-1"]
    last = store.audit.last("device/pi-1")
    assert last is not None
    assert (last.actor, last.action) == (ANN, "turn.taken_away")


def test_who_waits_only_because_an_older_one_waits_goes_when_that_one_leaves(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2", name="left")
    (three,) = pair(store, "pi-3", name="right")
    store.redundancy.add_to_set("right", ["pi-2"], by=ANN)
    ask(one)
    ask(two)
    ask(three)
    assert turn(store, three) == ""
    two.presence(online=False)
    assert turn(store, three) == "a-1"


def test_who_is_put_in_in_mid_update_counts_as_holding_until_it_asks_or_ends(store: Store) -> None:
    one, two = join(store, "pi-1", "pi-2")
    store.redundancy.create_set("pair", by=ANN)
    begin(one, Phase.DOWNLOADING)
    store.redundancy.add_to_set("pair", ["pi-1", "pi-2"], by=ANN)
    ask(two)
    assert standings(store) == {"pi-1": Standing.HOLDS, "pi-2": Standing.WAITS}
    one.tell(phase=Phase.INSTALLING, waits_for_turn="a-1")
    assert standings(store) == {"pi-1": Standing.WAITS, "pi-2": Standing.HOLDS}


def test_who_is_unconfirmed_without_a_turn_counts_as_holding(store: Store) -> None:
    one, two = join(store, "pi-1", "pi-2")
    begin(one, *BEFORE, *TRIAL)
    store.redundancy.create_set("pair", by=ANN)
    store.redundancy.add_to_set("pair", ["pi-1", "pi-2"], by=ANN)
    ask(two)
    assert turn(store, two) == ""
    end(one)
    assert turn(store, two) == "a-1"


def test_who_asks_no_more_gives_its_place_up(store: Store) -> None:
    one, two, three = pair(store, "pi-1", "pi-2", "pi-3")
    ask(one)
    ask(two)
    ask(three)
    end(two, Outcome.FAILED)
    two.tell()
    end(one)
    assert turn(store, three) == "a-1"


def test_a_state_that_is_older_than_the_report_asks_for_nothing(store: Store) -> None:
    (one, _) = pair(store, "pi-1", "pi-2")
    begin(one, *BEFORE)
    end(one, Outcome.FAILED)
    one.tell(phase=Phase.INSTALLING, waits_for_turn="a-1")
    assert standings(store) == {"pi-1": Standing.FREE, "pi-2": Standing.FREE}


def test_a_turn_does_not_outlive_the_journal_that_it_was_for(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2")
    ask(one)
    ask(two)
    one.journal_id, one.next_seq, one.session, one.seq = "j2", 1, 1, 0
    one.hello()
    assert (turn(store, one), turn(store, two)) == ("", "a-1")


def test_who_leaves_its_last_set_takes_no_turns_and_lets_others_go(store: Store) -> None:
    one, two = pair(store, "pi-1", "pi-2")
    ask(one)
    ask(two)
    assert store.redundancy.remove_from_set("pair", ["pi-1"], by=ANN) == 1
    assert store.redundancy.remove_from_set("pair", ["pi-1"], by=ANN) == 0
    told = store.devices.desired_for("pi-1")
    assert (told.takes_turns, told.turn) == (False, "")
    assert turn(store, two) == "a-1"
    store.redundancy.delete_set("pair", by=ANN)
    assert not store.devices.desired_for("pi-2").takes_turns
    assert store.redundancy.sets() == ()


def test_sets_are_made_once_and_hold_what_there_is(store: Store) -> None:
    pair(store, "pi-1", "pi-2")
    with pytest.raises(ConflictError, match="already"):
        store.redundancy.create_set("pair", by=ANN)
    with pytest.raises(NotFoundError, match="no device 'pi-9'"):
        store.redundancy.add_to_set("pair", ["pi-9"], by=ANN)
    with pytest.raises(NotFoundError, match="no redundancy set 'pear'"):
        store.redundancy.add_to_set("pear", ["pi-1"], by=ANN)
    assert store.redundancy.add_to_set("pair", ["pi-1"], by=ANN) == 0
    for number in range(MAX_SETS - 1):
        store.redundancy.create_set(f"more-{number}", by=ANN)
        store.redundancy.add_to_set(f"more-{number}", ["pi-1"], by=ANN)
    store.redundancy.create_set("one-more", by=ANN)
    with pytest.raises(ConflictError, match="the most"):
        store.redundancy.add_to_set("one-more", ["pi-1"], by=ANN)
