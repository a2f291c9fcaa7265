"""The counter that wakes who waits: from any thread, in any event loop, and never too late."""

import asyncio
import threading

from cloud.changes import Changes


def test_a_change_that_was_not_seen_is_told_at_once() -> None:
    changes = Changes()
    changes.bump()
    assert asyncio.run(asyncio.wait_for(changes.wait(0, 60), 5)) == 1


def test_a_wait_ends_at_its_time() -> None:
    changes = Changes()
    assert asyncio.run(changes.wait(0, 0.01)) == 0
    changes.bump()  # nobody is left to wake
    assert changes.revision == 1


def test_a_change_in_another_thread_wakes_every_waiter() -> None:
    changes = Changes()

    async def wait_together() -> list[int]:
        waits = [asyncio.create_task(changes.wait(0, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=changes.bump)
        thread.start()
        found = await asyncio.gather(*waits)
        thread.join()
        return found

    assert asyncio.run(wait_together()) == [1, 1, 1]


def test_a_waiter_whose_loop_is_gone_harms_nobody() -> None:
    changes = Changes()

    async def give_up() -> None:
        task = asyncio.create_task(changes.wait(0, 30))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(give_up())
    changes.bump()
    assert changes.revision == 1
