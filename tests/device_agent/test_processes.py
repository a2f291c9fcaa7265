"""Which process a record means: the very one, or none."""

import os
import threading

import pytest

from device_agent.processes import Identity, identify, open_process
from protocol.errors import MessageError


def test_this_process_is_found() -> None:
    identity = identify(os.getpid())
    assert identity is not None
    descriptor = open_process(identity)
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.parametrize("pid", [1, 4_194_303])
def test_another_one_under_the_number_and_none_at_all_are_none(pid: int) -> None:
    assert open_process(Identity(pid=pid, started_ticks=1, boot_id="another")) is None


def test_the_number_of_a_thread_is_no_process() -> None:
    numbers: list[int] = []
    done, known = threading.Event(), threading.Event()

    def wait() -> None:
        numbers.append(threading.get_native_id())
        known.set()
        done.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        assert known.wait(30)
        assert open_process(Identity(pid=numbers[0], started_ticks=1, boot_id="b")) is None
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**32, 2**53 - 1])
def test_a_number_that_no_process_can_have_is_refused(pid: int) -> None:
    with pytest.raises(MessageError):
        Identity(pid=pid, started_ticks=1, boot_id="b")
