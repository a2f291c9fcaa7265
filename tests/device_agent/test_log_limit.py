"""What may come as often as others like is told once, and then counted."""

import logging

import pytest

from device_agent.log_limit import MAX_KINDS, PAUSE_S, LogLimit

LOG = logging.getLogger("tests.log_limit")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock, caplog: pytest.LogCaptureFixture) -> LogLimit:
    caplog.set_level(logging.DEBUG)
    return LogLimit(LOG, clock)


def fail(limit: LogLimit, number: str) -> None:
    """Fail at one place, in one way."""
    try:
        int(number)
    except ValueError as error:
        limit.tell_failure(error, "it failed")


def test_the_first_is_told_and_the_others_are_counted(
    limit: LogLimit, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        clock.now += PAUSE_S / 2000
        limit.tell(logging.WARNING, "topic", "dropped %.5r", f"topic {number}")
    assert caplog.messages == ["dropped 'topi"]
    clock.now += PAUSE_S
    limit.tell(logging.WARNING, "topic", "dropped %.5r", "another")
    assert caplog.messages[1:] == ["dropped 'anot (999 more of the kind since the last that was told)"]
    clock.now += PAUSE_S
    limit.tell(logging.WARNING, "topic", "dropped %.5r", "another")
    assert caplog.messages[2:] == ["dropped 'anot"]


def test_kinds_do_not_keep_each_other_quiet(limit: LogLimit, caplog: pytest.LogCaptureFixture) -> None:
    limit.tell(logging.WARNING, "a", "of a")
    limit.tell(logging.INFO, "b", "of b")
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "of a"),
        (logging.INFO, "of b"),
    ]


def test_any_number_of_kinds_is_a_bounded_number_of_lines(limit: LogLimit, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10 * MAX_KINDS):
        limit.tell(logging.WARNING, f"kind {number}", "dropped")
    assert len(caplog.messages) == MAX_KINDS + 1


def test_a_failure_is_told_with_its_trace_once_and_another_place_is_another(
    limit: LogLimit, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        fail(limit, "none")
        clock.now += PAUSE_S
    try:
        float("none")
    except ValueError as error:
        limit.tell_failure(error, "it failed")
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, True]
    assert caplog.messages == ["it failed: ValueError"] * 3
