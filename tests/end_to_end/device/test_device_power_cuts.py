"""D13: the agent is killed at each durable step of an installation, and in a download; the device always has a version.

strace kills it with SIGKILL as it enters the one system call that would make the step: not a moment earlier or later.
"""

import shutil
import signal
from pathlib import Path

import pytest

from cloud.demo.observing import digest_of
from tests.support.brokers import missing_service
from tests.support.device_world import Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
LARGE_BYTES = 32 * 1024 * 1024
STEPS = {
    "its image is moved into a slot": ("target", "b/image"),
    "the slot is recorded": ("b/slot.json.new", "b/slot.json"),
    "its trial is armed": ("trial.json.new", "trial.json"),
    "the link is switched": ("current.new", "current"),
    "it is committed": ("committed.json.new", "committed.json"),
}
"""Each step of an installation is a rename, by which the disk has all of it or nothing."""


def killed_at_rename(source: Path) -> tuple[str | Path, ...]:
    """Return the tracer's command that kills a program as it gives this file its last name."""
    strace = shutil.which("strace")
    if strace is None:
        missing_service("strace is not installed")
    calls = "/^rename"
    options = ("-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL")
    return (strace, *options, "-P", source)


MOMENTS = [(step, "the agent dies") for step in STEPS] + [("it is committed", "the power fails")]
"""Before its trial no application runs: there the one is as the other."""


@pytest.mark.parametrize(("step", "dies"), MOMENTS)
def test_at_the_moment_when(workshop: Workshop, factory: Image, images: Images, step: str, dies: str) -> None:
    new = images.thermostat("1.1.0")
    device = workshop.device(factory, updates={"install": "next_start"})
    with device.listening() as ear:
        device.push(new, "--immediate")
        ear.expect("update_ready")
    device.end()
    source, destination = (device.slots / name for name in STEPS[step])
    device.start(*killed_at_rename(source))
    assert device.agent.wait() == -signal.SIGKILL
    assert holds(destination) != holds(source), "it was killed before the step, not behind it"
    if dies == "the power fails":
        device.end_application(signal.SIGKILL)
    device.start()
    device.expect_success(new)
    assert device.versions()[0] == factory.version
    assert {(start.version, start.digest) for start in device.starts()[1:]} == {(new.version, new.digest)}


def holds(path: Path) -> str | None:
    """What a file or link is."""
    if path.is_symlink():
        return str(path.readlink())
    return digest_of(path)


def test_killed_in_a_download_it_goes_on_and_runs_nothing_of_it(
    workshop: Workshop, factory: Image, images: Images
) -> None:
    new = images.thermostat("7.13.32", filler_bytes=LARGE_BYTES)
    device = workshop.device(factory, "--window", "65536")
    device.push(new, "--immediate")
    device.wait_until(lambda: device.device.marked(new.digest), "a part of it is on the disk")
    device.kill()
    kept = len(device.device.marked(new.digest))
    assert 0 < kept < new.chunks
    device.expect_only(factory)
    device.end_application()
    device.begin()
    device.expect_success(new)
    device.expect_only(factory, factory, new)
    fetched = device.attempts(new)[0]["fetched_bytes"]
    lists = 32 * new.chunks
    assert fetched <= new.size_bytes + 2 * lists, "what was verified was not fetched again"
