"""D19, D20: the agent is killed at each durable step in which data is saved and put back; the data is never lost.

strace kills it with SIGKILL as it enters the one system call that would make the step. No application runs then, so
that the agent's death is as a power cut; what a disk may have lost besides is replayed in tests/device_agent/data.
"""

import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end.device.test_device_data import Logger
from tests.support.brokers import missing_service
from tests.support.device_world import Workshop

pytestmark = pytest.mark.broker
RECORD, SNAPSHOT, FAILED = "{slots}/data.json.new", "{data}/.log.snapshot", "{data}/.log.failed"
STEPS = {
    "the data is about to be saved": ("rename", RECORD, 1),
    "a file of it is copied": ("fsync", f"{SNAPSHOT}.new/log.txt", 1),
    "the copy gets its name": ("rename", f"{SNAPSHOT}.new", 1),
    "the copy is recorded": ("rename", RECORD, 2),
    "the new version gets the data": ("rename", RECORD, 3),
    "what the new version made is moved away": ("rename", "{data}/log", 1),
    "the data is put back": ("rename", SNAPSHOT, 1),
    "that it is back is recorded": ("rename", RECORD, 4),
    "what the new version made is removed": ("unlink", f"{FAILED}/log.json", 1),
}
"""The call that makes each step, the path that it names first, and the how many-th such call it is."""
RESTORING = list(STEPS)[5:]


def killed_at(call: str, path: str, number: int) -> tuple[str, ...]:
    """Return the tracer's command that kills a program as it makes this call."""
    strace = shutil.which("strace")
    if strace is None:
        missing_service("strace is not installed")
    options = ("-e", f"trace=/^{call}", "-e", f"inject=/^{call}:signal=KILL:when={number}", "-P", path)
    return (strace, "-D", "-f", "-qq", "-o", "/dev/null", *options)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_the_moment_when(workshop: Workshop, step: str) -> None:
    logger = Logger(workshop)
    device, old, bad = logger.device, logger.versions["1.0.0"], logger.versions["2.1.0"]
    device.tell("/note", text="the first page")
    device.end()
    before = logger.tree()
    device.push(bad, "--immediate")
    call, path, number = STEPS[step]
    device.start(*killed_at(call, path.format(slots=device.slots, data=logger.log.parent), number))
    assert device.agent.wait(45) == -signal.SIGKILL
    assert device.application() == {}, "no application runs meanwhile"
    assert (bad.version in device.versions()) is (step in RESTORING), "it was killed at another step"
    device.start()
    device.expect_ends(bad, ("rolled_back", "health_failed"))
    device.expect(old)
    assert {start.digest for start in device.starts()} == {old.digest, bad.digest}
    assert logger.tree() == before
    assert leftovers(logger.log) == []
    device.tell("/note", text="the second page")
    assert (logger.log / "log.txt").read_text().splitlines() == ["the first page", "the second page"]


def leftovers(log: Path) -> list[str]:
    return [path.name for path in log.parent.iterdir() if path.name.startswith((".log", "log."))]
