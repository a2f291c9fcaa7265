"""Applications are real processes here: started, killed, orphaned, adopted, and looked at from outside."""

import contextlib
import itertools
import json
import os
import signal
import stat
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent.application import Application
from device_agent.supervision import ApplicationError, Exit, RestartPolicy, Supervisor, restart_after
from protocol.phases import Reason
from tests.device_agent.applications import (
    AT_ONCE,
    STEADY,
    TIMEOUT_S,
    digest,
    exits,
    make_application,
    said,
    start,
    started_pid,
    write,
)
from tests.support.processes import is_alive, wait_until


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


def test_it_is_a_supervisor(make: Callable[..., Application]) -> None:
    conforming: Supervisor = make()
    assert not conforming.alive()


def test_it_starts_the_image_in_a_session_of_its_own(
    make: Callable[..., Application], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the agent")
    monkeypatch.setenv("TZ", "UTC")
    code = textwrap.dedent("""
        import json, os, pathlib, sys
        status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
        seen = {"env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv, "leads": os.getsid(0) == os.getpid(),
                "stdin": sys.stdin.read(), "ignored": int(status["SigIgn"], 16), "files": os.listdir("/proc/self/fd")}
        print("to standard output", flush=True)
        print("to standard error", file=sys.stderr, flush=True)
        pathlib.Path("seen.new").write_text(json.dumps(seen) + "\\n")
        os.rename("seen.new", "seen")
    """)
    image = write(tmp_path / "image", code)
    application = make("{python}", "-S", "{image}", "two words", environment={"CONFIGURED": "1"})
    seen_exits = exits(application)
    leaked = os.dup(1)  # as a careless service manager would
    os.set_inheritable(leaked, True)
    try:
        assert start(application, image, environment={"FLEETLIFT_COMPONENT": "app"}) == digest(image)
    finally:
        os.close(leaked)
    seen = json.loads(said(tmp_path / "data" / "seen"))
    assert seen["env"]["CONFIGURED"] == "1"
    assert seen["env"]["FLEETLIFT_COMPONENT"] == "app"
    assert seen["env"]["TZ"] == "UTC"
    assert seen["env"]["PATH"] == os.environ["PATH"]
    assert "A_SECRET" not in seen["env"]
    assert seen["cwd"] == str(tmp_path / "data")
    assert seen["argv"] == [str(image), "two words"]
    assert seen["leads"]
    assert seen["stdin"] == ""
    ignored = {number for number in range(1, 32) if seen["ignored"] & 1 << (number - 1)}  # above: the C library's own
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}, "more than Python itself ignores"
    assert sorted(seen["files"]) == ["0", "1", "2", "3"], "it inherits the agent's descriptors (3 lists them)"
    assert seen_exits.get(timeout=TIMEOUT_S).code == 0
    assert application.log_tail() == "to standard output\nto standard error"
    for name in ("application.log", "application.json"):
        path = tmp_path / "state" / name
        assert not path.exists() or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_image_of_another_digest_is_not_started(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    application = make()
    with pytest.raises(ApplicationError) as refused:
        start(application, image, digest="0" * 64)
    assert refused.value.reason is Reason.WRONG_BOOT
    with pytest.raises(ApplicationError) as missing:
        start(application, tmp_path / "nothing", digest="0" * 64)
    assert missing.value.reason is Reason.START_FAILED
    assert application.pid is None
    assert not (tmp_path / "data" / "pid").exists()


def test_stopping_asks_first(make: Callable[..., Application], tmp_path: Path) -> None:
    image = write(tmp_path / "image", "trap 'echo bye > bye; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done")
    application = make()
    seen = exits(application)
    start(application, image, keep_up=True)
    pid = started_pid(tmp_path / "data")
    assert application.pid == pid
    assert application.alive()
    application.stop(TIMEOUT_S)
    assert said(tmp_path / "data" / "bye") == "bye"
    assert not is_alive(pid)
    assert application.pid is None
    assert not application.alive()
    assert seen.empty(), "an end that was asked for is no crash"
    assert not (tmp_path / "state" / "application.json").exists()
    application.stop(TIMEOUT_S)


def test_stopping_forces_what_does_not_listen_with_all_its_children(
    make: Callable[..., Application], tmp_path: Path
) -> None:
    stubborn = "trap '' TERM; (echo $(exec sh -c 'echo $PPID') > child; while :; do sleep 1000; done) & " + STEADY
    image = write(tmp_path / "image", stubborn)
    application = make()
    start(application, image)
    pids = [started_pid(tmp_path / "data"), int(said(tmp_path / "data" / "child"))]
    assert all(is_alive(pid) for pid in pids)
    application.stop(0.2)
    assert not any(is_alive(pid) for pid in pids)


def test_children_that_outlive_their_leader_are_ended_too(make: Callable[..., Application], tmp_path: Path) -> None:
    image = write(
        tmp_path / "image", "(trap '' TERM; echo $(exec sh -c 'echo $PPID') > pid; exec sleep 1000) & sleep 1000"
    )
    application = make()
    start(application, image)
    child = started_pid(tmp_path / "data")
    application.stop(0.2)
    assert not is_alive(child)


def test_an_end_by_itself_is_told(make: Callable[..., Application], tmp_path: Path) -> None:
    image = write(
        tmp_path / "image", "(trap '' TERM; echo $(exec sh -c 'echo $PPID') > pid; exec sleep 1000) & sleep 0.2; exit 3"
    )
    application = make()
    seen = exits(application)
    start(application, image)
    ended = seen.get(timeout=TIMEOUT_S)
    assert (ended.code, ended.restart_in_s) == (3, None)
    assert "exit code 3" in ended.detail
    assert application.pid is None
    assert not is_alive(started_pid(tmp_path / "data")), "what it left behind is ended with it"
    assert not (tmp_path / "state" / "application.json").exists()


def test_a_signal_and_a_missing_command_are_told_by_name(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    application = make()
    seen = exits(application)
    start(application, image)
    os.kill(started_pid(tmp_path / "data"), signal.SIGSEGV)
    ended = seen.get(timeout=TIMEOUT_S)
    assert ended.code == -signal.SIGSEGV
    assert "SIGSEGV" in ended.detail
    nothing = make("/no/such/program")
    seen = exits(nothing)
    start(nothing, image)
    assert "no such command" in seen.get(timeout=TIMEOUT_S).detail


def test_a_crash_is_restarted_until_it_is_not_wanted(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    application = make(restart=AT_ONCE)
    seen = exits(application)
    start(application, image, keep_up=True)
    first = started_pid(tmp_path / "data")
    os.kill(first, signal.SIGKILL)
    assert seen.get(timeout=TIMEOUT_S).restart_in_s == 0.0
    second = started_pid(tmp_path / "data")
    assert second != first
    assert application.pid == second
    application.keep_up(False)
    os.kill(second, signal.SIGKILL)
    assert seen.get(timeout=TIMEOUT_S).restart_in_s is None
    assert not application.alive()


def test_what_ended_just_before_it_was_to_be_kept_up_is_restarted(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    """The version on trial ends between its last probe and its confirmation."""
    application = make(restart=AT_ONCE)
    seen = exits(application)
    start(application, image)
    first = started_pid(tmp_path / "data")
    os.kill(first, signal.SIGKILL)
    assert seen.get(timeout=TIMEOUT_S).restart_in_s is None
    application.keep_up(True)
    assert started_pid(tmp_path / "data") == application.pid != first
    application.stop(0.0)
    application.keep_up(True)
    assert not application.alive(), "what was stopped stays down"


def test_a_restart_waits_longer_from_crash_to_crash(make: Callable[..., Application], tmp_path: Path) -> None:
    image = write(tmp_path / "image", "exit 1")
    application = make(restart=RestartPolicy(first_s=0.05, longest_s=0.2))
    seen = exits(application)
    begun = time.monotonic()
    start(application, image, keep_up=True)
    waits = [seen.get(timeout=TIMEOUT_S).restart_in_s for _ in range(5)]
    assert waits == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert time.monotonic() - begun >= 0.05 + 0.1 + 0.2 + 0.2
    application.stop(0.0)
    assert not application.alive()


@pytest.mark.parametrize(
    ("crashes", "ran_s", "expected"),
    [
        (0, 0.1, (1, 1.0)),
        (1, 0.1, (2, 2.0)),
        (5, 59.9, (6, 32.0)),
        (6, 0.0, (7, 60.0)),
        (10_000, 0.0, (10_001, 60.0)),
        (10_000, 60.0, (1, 1.0)),
    ],
)
def test_the_back_off_as_a_table(crashes: int, ran_s: float, expected: tuple[int, float]) -> None:
    assert restart_after(RestartPolicy(), crashes, ran_s) == expected


def test_an_image_that_was_damaged_meanwhile_is_not_restarted(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    application = make(restart=AT_ONCE)
    seen = exits(application)
    start(application, image, keep_up=True)
    pid = started_pid(tmp_path / "data")
    write(image, STEADY + "; # and a bit more")
    os.kill(pid, signal.SIGKILL)
    assert seen.get(timeout=TIMEOUT_S).restart_in_s == 0.0
    refused = seen.get(timeout=TIMEOUT_S)
    assert refused.restart_in_s is None
    assert "was not started" in refused.detail
    assert not application.alive()


def test_a_listener_that_fails_does_not_end_the_supervision(
    make: Callable[..., Application], image: Path, tmp_path: Path
) -> None:
    application = make(restart=AT_ONCE)

    def fail(_ended: Exit) -> None:
        raise KeyError("a bug")

    application.exited(fail)
    start(application, image, keep_up=True)
    first = started_pid(tmp_path / "data")
    os.kill(first, signal.SIGKILL)
    assert started_pid(tmp_path / "data") == application.pid != first


def test_the_log_stays_bounded_while_it_is_written(make: Callable[..., Application], tmp_path: Path) -> None:
    image = write(tmp_path / "image", "i=0; while :; do i=$((i+1)); echo line $i; done")
    application = make(log_bytes=20_000, log_check_s=0.02)
    seen = exits(application)
    start(application, image)
    state = tmp_path / "state"
    sizes: list[int] = []

    def rotated_often() -> bool:
        older = state / "application.log.1"
        sizes.append((state / "application.log").stat().st_size)
        return older.exists() and len(sizes) > 20 and any(a > b for a, b in itertools.pairwise(sizes))

    wait_until(rotated_often, TIMEOUT_S, "the log's rotation")
    before = (state / "application.log").stat().st_mtime_ns
    wait_until(lambda: (state / "application.log").stat().st_mtime_ns > before, TIMEOUT_S, "a line after it")
    application.stop(TIMEOUT_S)
    assert seen.empty(), "it does not notice"
    assert not (state / "application.log").read_bytes().startswith(b"\0"), "it writes on where it had been"
    assert (state / "application.log.1").stat().st_size == 20_000
    assert stat.S_IMODE((state / "application.log.1").stat().st_mode) == 0o600
