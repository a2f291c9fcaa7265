"""What waits is bounded, stays in order per device, and gives way as the inbox says; pure."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.inbox import Inbox, Room, Waiting


def message(device: str, kind: str, payload: bytes = b"") -> Waiting:
    return Waiting(device, kind, f"d/{device}/up/{kind}", payload)


def drain(inbox: Inbox) -> list[Waiting]:
    found = []
    while (item := inbox.take()) is not None:
        found.append(item)
        inbox.done(item.device_id)
    return found


def test_a_device_has_its_next_turn_when_its_last_message_is_done() -> None:
    inbox = Inbox()
    for device, kind in (("a", "hello"), ("a", "report"), ("b", "hello"), ("a", "ask")):
        assert inbox.put(message(device, kind))
    first, second = inbox.take(), inbox.take()
    assert (first, second) == (message("a", "hello"), message("b", "hello"))
    assert inbox.take() is None, "the second message of a device overtakes the first"
    inbox.done("b")
    assert inbox.take() is None
    inbox.done("a")
    assert inbox.take() == message("a", "report")
    assert inbox.put(message("a", "report", b"2"))
    inbox.done("a")
    assert [item.kind for item in drain(inbox)] == ["ask", "report"]
    assert len(inbox) == 0


def test_of_what_says_everything_again_only_the_newest_waits_behind_all_that_came_before_it() -> None:
    inbox = Inbox()
    for kind, payload in (("state", b"1"), ("report", b"r"), ("state", b"2"), ("presence", b"on"), ("state", b"3")):
        assert inbox.put(message("a", kind, payload))
    assert inbox.put(message("b", "state", b"other"))
    assert [item.payload for item in drain(inbox) if item.device_id == "a"] == [b"r", b"on", b"3"]


def test_a_device_that_talks_much_does_not_keep_the_others_waiting() -> None:
    inbox = Inbox()
    for number in range(50):
        inbox.put(message("loud", "report", bytes([number])))
    inbox.put(message("quiet", "hello"))
    assert [item.device_id for item in drain(inbox)[:3]] == ["loud", "quiet", "loud"]


def test_without_room_the_new_is_refused_but_a_newer_state_finds_its_place() -> None:
    inbox = Inbox(Room(messages=3))
    for device in ("a", "b", "c"):
        assert inbox.put(message(device, "report"))
    assert not inbox.put(message("d", "report"))
    assert not inbox.put(message("a", "want"))
    for device in ("a", "b", "d"):
        assert inbox.put(message(device, "state"))
    assert not inbox.put(message("e", "state"))
    assert inbox.put(message("d", "state", b"newer"))
    assert len(inbox) == 6
    assert drain(inbox)[3] == message("d", "state", b"newer")
    assert inbox.put(message("d", "report"))


def test_room_is_counted_in_bytes_too_and_a_state_that_finds_none_leaves_the_older_one() -> None:
    inbox = Inbox(Room(size_bytes=100))
    assert inbox.put(message("a", "report", bytes(60)))
    assert not inbox.put(message("b", "report", bytes(41)))
    assert inbox.put(message("b", "report", bytes(40)))
    assert inbox.put(message("c", "state", bytes(100)))
    assert not inbox.put(message("c", "state", bytes(101)))
    assert [len(item.payload) for item in drain(inbox)] == [60, 40, 100]
    assert inbox.put(message("b", "report", bytes(100)))


def test_one_device_has_room_of_its_own() -> None:
    inbox = Inbox(Room(messages_per_device=2))
    assert [inbox.put(message("a", "want")) for _ in range(3)] == [True, True, False]
    assert inbox.put(message("a", "state"))
    assert inbox.put(message("b", "want"))


def test_nothing_is_remembered_of_devices_that_said_all() -> None:
    inbox = Inbox()
    for number in range(1000):
        inbox.put(message(f"device-{number}", "hello", b"x"))
    drain(inbox)
    assert (inbox._lines, inbox._size_bytes, len(inbox._turns)) == ({}, 0, 0)


KINDS = st.sampled_from(["hello", "state", "presence", "report", "want"])
STEPS = st.lists(
    st.one_of(st.tuples(st.sampled_from("abc"), KINDS), st.sampled_from([("take", ""), ("done", "")])), max_size=80
)


@given(STEPS)
def test_whatever_happens_order_and_limits_hold(steps: list[tuple[str, str]]) -> None:
    inbox, room = Inbox(Room(messages=5, messages_per_device=3)), 10
    served: list[str] = []
    put, taken = defaultdict(list), defaultdict(list)
    for number, (device, kind) in enumerate(steps):
        if device == "take":
            item = inbox.take()
            if item is not None:
                assert item.device_id not in served
                served.append(item.device_id)
                taken[item.device_id].append(int(item.payload))
        elif device == "done":
            if served:
                inbox.done(served.pop(0))
        elif inbox.put(message(device, kind, b"%d" % number)):
            put[device].append((number, kind))
        assert len(inbox) <= room
    for device in served:
        inbox.done(device)
    for item in drain(inbox):
        taken[item.device_id].append(int(item.payload))
    for device, numbers in taken.items():
        assert numbers == sorted(numbers)
        lost = {number for number, kind in put[device] if kind in ("report", "want")} - set(numbers)
        assert not lost, "something that was taken in, and does not say everything again, was lost"
    for device, items in put.items():
        for kind in ("hello", "state", "presence"):
            of_kind = [number for number, what in items if what == kind]
            assert not of_kind or of_kind[-1] in taken[device], "the newest was lost"
    assert inbox._lines == {}


@pytest.mark.parametrize("kind", ["report", "ask", "want"])
def test_what_does_not_say_everything_again_is_never_replaced(kind: str) -> None:
    inbox = Inbox()
    for number in range(5):
        inbox.put(message("a", kind, bytes([number])))
    assert [item.payload[0] for item in drain(inbox)] == [0, 1, 2, 3, 4]
