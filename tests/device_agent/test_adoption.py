"""Agents die and their applications do not: adopted, ended, or left alone if they are somebody else's."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent.application import Application
from device_agent.processes import Identity, identify
from device_agent.slots import durable
from device_agent.supervision import ApplicationError
from protocol.phases import Reason
from tests.device_agent.applications import (
    AT_ONCE,
    STEADY,
    TIMEOUT_S,
    digest,
    exits,
    make_application,
    start,
    started_pid,
    write,
)
from tests.support.processes import Processes, is_alive, wait_until

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "image", STEADY)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Application]]:
    """Makes supervisors; what they started is ended with the test."""
    made: list[Application] = []

    def make(*command: str, **settings: Any) -> Application:
        made.append(make_application(tmp_path, *command, **settings))
        return made[-1]

    yield make
    for application in made:
        with contextlib.suppress(ApplicationError):
            application.stop(0.0)
        application.close()


AGENT = """
import sys, time
from pathlib import Path
from device_agent.application import Application
from tests.device_agent.applications import digest
state, data, image = map(Path, sys.argv[1:])
{before}
application = Application(("/bin/sh", "{{image}}"), state, data)
application.start(image, digest=digest(image), environment={{}}, keep_up=True)
print("started", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def agent(processes: Processes, tmp_path: Path, image: Path) -> Iterator[Callable[..., Any]]:
    """Starts an agent's process that starts the image; what it leaves is killed with the test."""

    def run(before: str = "") -> Any:
        script = write(tmp_path / "agent.py", AGENT.format(before=before))
        paths = (tmp_path / "state", tmp_path / "data", image)
        return processes.start(sys.executable, script, *paths, env={"PYTHONPATH": str(REPOSITORY)})

    yield run
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((tmp_path / "left").read_text(encoding="ascii")), signal.SIGKILL)


def orphan(agent: Callable[..., Any], tmp_path: Path) -> int:
    """Return the application of an agent that was killed."""
    running = agent()
    running.wait_for_line("started")
    pid = started_pid(tmp_path / "data")
    (tmp_path / "left").write_text(str(pid), encoding="ascii")
    running.kill()
    assert is_alive(pid), "it does not survive its agent"
    return pid


def adopt(application: Application, image: Path, **settings: Any) -> bool:
    wanted = settings.get("digest") or digest(image)
    return application.adopt(image, digest=wanted, environment={}, keep_up=settings.get("keep_up", False))


def test_the_next_agent_adopts_what_runs(
    agent: Callable[..., Any], make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    pid = orphan(agent, tmp_path)
    application = make(restart=AT_ONCE)
    seen = exits(application)
    assert adopt(application, image, keep_up=True)
    assert application.pid == pid
    assert application.alive()
    assert is_alive(pid)
    os.killpg(pid, signal.SIGKILL)
    ended = seen.get(timeout=TIMEOUT_S)
    assert (ended.code, ended.restart_in_s) == (None, 0.0)
    again = started_pid(tmp_path / "data")
    assert application.pid == again != pid


def test_an_adopted_application_can_be_stopped(
    agent: Callable[..., Any], make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    pid = orphan(agent, tmp_path)
    application = make()
    assert adopt(application, image)
    application.stop(TIMEOUT_S)
    assert not is_alive(pid)
    assert not adopt(application, image)


def test_what_runs_another_image_is_ended_and_not_adopted(
    agent: Callable[..., Any], make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    pid = orphan(agent, tmp_path)
    application = make()
    assert not adopt(application, image, digest="0" * 64)
    assert not is_alive(pid)
    assert application.pid is None


def test_an_end_without_an_agent_is_noticed_by_the_next(
    agent: Callable[..., Any], make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    pid = orphan(agent, tmp_path)
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), TIMEOUT_S, "its end")
    application = make()
    assert not adopt(application, image)


@pytest.mark.parametrize("change", ["started_ticks", "boot_id"])
def test_a_number_that_was_given_out_again_is_left_alone(
    make: Callable[..., Application], processes: Processes, image: Path, tmp_path: Path, change: str
) -> None:
    """A record of a process that had the number of one that is none of ours."""
    stranger = processes.start("/bin/sleep", "1000")
    there = identify(stranger.pid)
    assert there is not None
    before = {"started_ticks": there.started_ticks, "boot_id": there.boot_id}
    before[change] = 1 if change == "started_ticks" else "0" * 32
    fields = {"process": {"pid": stranger.pid, **before}, "digest": digest(image)}
    application = make()
    (tmp_path / "state" / "application.json").write_text(json.dumps(fields), encoding="ascii")
    assert not adopt(application, image)
    assert not adopt(application, image, digest="0" * 64)
    assert is_alive(stranger.pid)
    assert (
        identify(stranger.pid)
        == there
        == Identity(pid=stranger.pid, started_ticks=there.started_ticks, boot_id=there.boot_id)
    )


@pytest.mark.parametrize("content", [b"", b"{", b'{"process": 3}', b"[" * 3000])
def test_a_garbled_record_adopts_nothing(
    make: Callable[..., Application], image: Path, tmp_path: Path, content: bytes
) -> None:
    application = make()
    (tmp_path / "state" / "application.json").write_bytes(content)
    assert not adopt(application, image)


def test_an_agent_that_dies_before_the_number_is_on_record_has_started_nothing(
    agent: Callable[..., Any], tmp_path: Path
) -> None:
    """The gate: the shell before the application ends with the agent, and says so by its exit from the group."""
    before = (
        "import os\nfrom device_agent.slots import durable\n"
        "def die(path, content):\n"
        "    (state.parent / 'left').write_bytes(content)\n    os._exit(9)\n"
        "durable.write_file = die\n"
    )
    assert agent(before).wait() == 9
    pid = int(json.loads((tmp_path / "left").read_bytes())["process"]["pid"])
    wait_until(lambda: not is_alive(pid), TIMEOUT_S, "the gate's end")
    assert not (tmp_path / "data" / "pid").exists()
    assert not (tmp_path / "state" / "application.json").exists()


def test_a_disk_that_is_full_starts_nothing_that_is_not_on_record(
    make: Callable[..., Application], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    application = make()
    with monkeypatch.context() as broken:
        broken.setattr(durable, "write_file", full)
        with pytest.raises(ApplicationError) as refused:
            start(application, image)
    assert refused.value.reason is Reason.START_FAILED
    assert application.pid is None
    assert not (tmp_path / "data" / "pid").exists()
    start(application, image)
    assert is_alive(started_pid(tmp_path / "data"))


def test_closing_leaves_it_running_for_the_next(make: Callable[..., Application], image: Path, tmp_path: Path) -> None:
    first = make()
    start(first, image, keep_up=True)
    pid = started_pid(tmp_path / "data")
    first.close()
    first.close()
    assert is_alive(pid)
    with pytest.raises(ApplicationError):
        first.stop(0.0)
    second = make()
    assert adopt(second, image)
    assert second.pid == pid
    second.stop(TIMEOUT_S)
    assert not is_alive(pid)
