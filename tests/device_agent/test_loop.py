"""The loop: one thing at a time, timers by a clock that is data, and nothing that ends it but `stop`."""

import threading
from collections.abc import Callable

from device_agent.loop import Loop, WorkerThread


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def drain(loop: Loop) -> None:
    while loop.turn(wait=False):
        pass


def test_things_happen_in_order_and_each_is_settled() -> None:
    loop, done = Loop(Clock()), list[str]()
    loop.settle = lambda: done.append("settled")

    def say(what: str) -> Callable[[], None]:
        return lambda: done.append(what)

    loop.post(say("one"))
    loop.post(say("two"))
    drain(loop)
    assert done == ["one", "settled", "two", "settled"]


def test_timers_fire_when_due_oldest_first_and_before_what_is_posted() -> None:
    clock = Clock()
    loop, done = Loop(clock), list[str]()
    loop.at("late", 20.0, lambda: done.append("late"))
    loop.after("soon", 5.0, lambda: done.append("soon"))
    loop.at("replaced", 1.0, lambda: done.append("never"))
    loop.at("replaced", 7.0, lambda: done.append("replaced"))
    loop.at("gone", 2.0, lambda: done.append("never"))
    loop.at("gone", None, lambda: None)
    assert loop.next_due() == 5.0
    drain(loop)
    assert done == []
    clock.time = 10.0
    loop.post(lambda: done.append("posted"))
    drain(loop)
    assert done == ["soon", "replaced", "posted"]
    assert loop.next_due() == 20.0


def test_a_busy_queue_starves_no_timer() -> None:
    clock = Clock()
    loop, fired = Loop(clock), threading.Event()
    loop.at("timer", 5.0, fired.set)

    def again() -> None:
        clock.time += 1.0
        loop.post(again)

    loop.post(again)
    for _ in range(10):
        loop.turn(wait=False)
    assert fired.is_set()


def test_a_timer_may_cancel_another_that_is_due_with_it() -> None:
    clock = Clock()
    loop, done = Loop(clock), list[str]()
    loop.at("a", 1.0, lambda: loop.at("b", None, lambda: None))
    loop.at("b", 2.0, lambda: done.append("b"))
    clock.time = 3.0
    drain(loop)
    assert done == []


def test_what_one_thing_raises_ends_nothing() -> None:
    loop, failed, done = Loop(Clock()), list[Exception](), list[str]()
    loop.failed = failed.append

    def stumble() -> None:
        raise ZeroDivisionError

    loop.post(stumble)
    loop.at("timer", 0.0, stumble)
    loop.post(lambda: done.append("done"))
    loop.settle = lambda: done.append("settled")
    drain(loop)
    assert [type(error) for error in failed] == [ZeroDivisionError, ZeroDivisionError]
    assert done[-2:] == ["done", "settled"]


def test_it_sleeps_until_something_is_posted_and_ends_when_told() -> None:
    loop, done = Loop(Clock()), threading.Event()
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.post(done.set)
    assert done.wait(10)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_a_worker_does_one_thing_after_the_other() -> None:
    worker, done = WorkerThread("worker"), list[int]()
    worker.submit([].pop)
    for number in range(100):
        worker.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    worker.stop(10.0)
    assert done == list(range(100))
