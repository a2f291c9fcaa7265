"""How much may wait for the loop."""

import threading

from device_agent.backlog import Backlog
from tests.support.processes import wait_until

MIB = 1024 * 1024


def test_what_fits_enters_at_once_and_what_does_not_is_dropped_after_a_while() -> None:
    backlog = Backlog(MIB, patience_s=0.05)
    assert backlog.enter(MIB // 2)
    assert not backlog.enter(MIB // 2), "its overhead counts, too"
    backlog.leave(MIB // 2)
    assert backlog.enter(MIB // 2)


def test_a_message_alone_has_room_however_large_it_is() -> None:
    backlog = Backlog(MIB, patience_s=0.05)
    assert backlog.enter(10 * MIB)
    assert not backlog.enter(0)
    backlog.leave(10 * MIB)
    assert backlog.enter(0)


def test_many_small_messages_fill_it_too() -> None:
    backlog = Backlog(MIB, patience_s=0.0)
    entered = sum(backlog.enter(0) for _ in range(10_000))
    assert 1000 < entered < 10_000


def test_who_waits_goes_on_as_soon_as_there_is_room() -> None:
    backlog, entered = Backlog(MIB, patience_s=30.0), threading.Event()
    assert backlog.enter(MIB)
    waiting = threading.Thread(target=lambda: entered.set() if backlog.enter(MIB) else None)
    waiting.start()
    backlog.leave(MIB)
    wait_until(entered.is_set, what="room")
    waiting.join()
