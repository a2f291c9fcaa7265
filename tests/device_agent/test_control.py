"""The control server: what it makes of requests, holds and events, between real processes, with time as data."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.control import ControlError, shell_lock_held
from protocol.errors import UserError
from tests.device_agent.stand_in import TIMEOUT_S, Clock, LineClient, StandInAgent, freeze
from tests.support.processes import Processes, wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "control-socket.md"
HOLDER = """
import json, socket, sys, time
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(json.dumps({"op": "hold", "why": "busy"}).encode() + b"\\n")
    print(sock.recv(1000).decode().strip(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def wall() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def monotonic() -> Clock:
    return Clock(50.0)


@pytest.fixture
def agent(tmp_path: Path, wall: Clock, monotonic: Clock) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock", wall, monotonic) as started:
        yield started


@pytest.fixture
def client(agent: StandInAgent) -> Iterator[LineClient]:
    with LineClient(agent.path) as connected:
        yield connected


def conversations() -> list[list[str]]:
    blocks = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [block.splitlines() for block in blocks]


@pytest.mark.parametrize("lines", conversations(), ids=lambda lines: f"{len(lines)} lines")
def test_the_documented_conversations_happen(lines: list[str], agent: StandInAgent, client: LineClient) -> None:
    for line in lines:
        mark, said = line[0], json.loads(line[2:])
        if mark == ">":
            client.send(line[2:].encode() + b"\n")
        elif mark == "!":
            agent.server.publish(said)
        else:
            answer = client.receive()
            assert answer is not None
            if said.get("message") == "...":
                assert answer.pop("message")
                del said["message"]
            assert answer == said


def test_the_conversations_are_found_in_the_document() -> None:
    assert len(conversations()) == 4


def test_requests_reach_the_handler(agent: StandInAgent, client: LineClient, wall: Clock) -> None:
    client.ask("disable", until_s=60, why="printing")
    client.ask("disable")
    for operation in ("enable", "check", "confirm", "ready"):
        assert client.ask(operation) == {"id": 1, "ok": True}
    heard = [agent.next_heard() for _ in range(6)]
    assert heard[:2] == [("disable", (wall.time + 60, "printing")), ("disable", (None, ""))]
    assert [what for what, _ in heard[2:]] == ["enable", "check", "confirm", "ready"]


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (UserError("the journal cannot be written; nothing was changed"), "refused", "the journal cannot be written"),
        (ControlError("no trial", code="no_trial"), "no_trial", "no trial"),
        (ZeroDivisionError("a secret"), "internal", "its log says why"),
    ],
)
def test_what_fails_behind_one_request_does_not_stop_the_next(
    failure: Exception, code: str, message: str, agent: StandInAgent, caplog: pytest.LogCaptureFixture
) -> None:
    with LineClient(agent.path) as client:
        agent.failure = failure
        refusal = client.ask("enable")
        assert refusal["error"] == code
        assert message in refusal["message"]
        assert ("a secret" in caplog.text) is (code == "internal")
        assert "a secret" not in str(refusal)
        agent.failure = None
        assert client.ask("enable")["ok"] is True


def test_a_status_that_is_not_json_is_the_agents_failure(agent: StandInAgent, client: LineClient) -> None:
    agent.more_status = {"set": {1}}
    assert client.ask("status")["error"] == "internal"
    agent.more_status = {}
    assert client.ask("status")["ok"] is True


def test_a_hold_says_who_waits_why_for_what_and_how_long(agent: StandInAgent, client: LineClient, wall: Clock) -> None:
    granted = client.ask("hold", why="printing")
    (hold,) = agent.next_holds()
    assert hold.owner == f"printing (pid {os.getpid()}, uid {os.getuid()})"
    assert hold.scope == {"install", "restart"}
    assert (hold.acquired_at, hold.expires_at) == (wall.time, wall.time + 3600)
    assert granted == {"id": 1, "ok": True, "hold": hold.hold_id, "expires_at": hold.expires_at}
    (shown,) = client.ask("status")["status"]["holds"]
    assert (shown["owner"], shown["scope"]) == (hold.owner, ["install", "restart"])


def test_a_hold_ends_with_its_time_to_live(
    agent: StandInAgent, client: LineClient, monotonic: Clock, wall: Clock
) -> None:
    client.ask("hold", why="short", ttl_s=10)
    client.ask("hold", why="long", ttl_s=20)
    monotonic.time += 9.9
    assert len(agent.server.holds()) == 2
    monotonic.time += 0.1
    assert [hold.owner.split()[0] for hold in agent.server.holds()] == ["long"]
    assert client.ask("renew", hold="h1")["error"] == "unknown_hold"
    assert client.ask("renew", hold="h2", ttl_s=30)["expires_at"] == wall.time + 30
    monotonic.time += 29
    assert [hold.hold_id for hold in agent.server.holds()] == ["h2"]
    monotonic.time += 1
    client.ask("status")
    assert [len(agent.next_holds()) for _ in range(5)] == [1, 2, 1, 1, 0]


def test_a_hold_does_not_end_when_the_wall_clock_is_set(agent: StandInAgent, client: LineClient, wall: Clock) -> None:
    client.ask("hold", why="dosing", ttl_s=10)
    wall.time += 50 * 365 * 86400
    client.ask("status")
    assert len(agent.server.holds()) == 1


def test_the_loop_ends_a_hold_by_itself_in_real_time(tmp_path: Path) -> None:
    with StandInAgent(tmp_path / "control.sock") as agent, LineClient(agent.path) as client:
        client.ask("subscribe")
        client.ask("hold", why="short", ttl_s=1)
        assert len(agent.next_holds()) == 1
        assert client.receive() == {"event": "hold_expired", "hold": "h1"}
        assert agent.next_holds() == ()


def test_a_killed_holder_frees_its_hold_at_once(agent: StandInAgent, processes: Processes) -> None:
    holder = processes.start(sys.executable, "-c", HOLDER, agent.path, name="holder")
    holder.wait_for_line('"ok":true')
    (hold,) = agent.next_holds()
    assert f"pid {holder.pid}," in hold.owner
    holder.kill()
    assert agent.next_holds() == ()


def test_a_stopped_holder_keeps_its_hold_until_its_time_is_up(
    agent: StandInAgent, client: LineClient, processes: Processes, monotonic: Clock
) -> None:
    holder = processes.start(sys.executable, "-c", HOLDER, agent.path, name="holder")
    holder.wait_for_line('"ok":true')
    freeze(holder)
    client.ask("status")
    assert len(agent.server.holds()) == 1
    monotonic.time += 3600
    client.ask("status")
    assert agent.server.holds() == ()


def test_a_hold_belongs_to_its_connection(agent: StandInAgent, client: LineClient) -> None:
    with LineClient(agent.path) as other:
        other.ask("hold", why="mine")
        for operation in ("renew", "release"):
            assert client.ask(operation, hold="h1")["error"] == "unknown_hold"
        client.ask("hold", why="too", scope=["download"])
        assert len(agent.server.holds()) == 2
        for expected in (1, 2):
            assert len(agent.next_holds()) == expected
    (left,) = agent.next_holds()
    assert (left.hold_id, left.scope) == ("h2", frozenset({"download"}))


def test_holds_per_connection_are_bounded(agent: StandInAgent, client: LineClient) -> None:
    answers = [client.ask("hold", why=f"reason {number}") for number in range(17)]
    assert [answer["ok"] for answer in answers] == [True] * 16 + [False]
    assert answers[-1]["error"] == "too_many_holds"
    client.ask("release", hold="h1")
    assert client.ask("hold", why="again")["ok"] is True


def test_a_handler_that_fails_to_hear_of_holds_does_not_lose_them(
    agent: StandInAgent, client: LineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "holds_changed", lambda _holds: 1 / 0)
    assert client.ask("hold", why="printing")["ok"] is True
    assert len(agent.server.holds()) == 1


def test_events_reach_subscribers_alone_in_order(agent: StandInAgent, client: LineClient) -> None:
    with LineClient(agent.path) as other:
        assert client.ask("subscribe")["status"]["updates_enabled"] is True
        other.ask("status")
        for number in range(100):
            agent.server.publish({"event": "installing", "number": number})
        assert [(client.receive() or {})["number"] for _ in range(100)] == list(range(100))
        assert other.ask("check") == {"id": 1, "ok": True}


def test_what_was_published_before_the_stop_arrives(agent: StandInAgent, client: LineClient) -> None:
    client.ask("subscribe")
    agent.server.publish({"event": "restarting"})
    agent.server.stop()
    assert client.receive() == {"event": "restarting"}
    assert client.receive() is None


def test_an_event_without_a_name_or_not_json_stays_with_its_author(agent: StandInAgent) -> None:
    with pytest.raises(ControlError, match="nothing was published"):
        agent.server.publish({"name": "installing"})
    with pytest.raises(TypeError):
        agent.server.publish({"event": "installing", "bad": {1}})


def test_a_shell_holds_by_a_shared_lock(tmp_path: Path) -> None:
    path = tmp_path / "hold.lock"
    assert shell_lock_held(path) is False
    assert path.exists()
    command = ("/usr/bin/flock", "-s", str(path), "sh", "-c", "echo held; exec sleep 600")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"held\n"
        assert shell_lock_held(path) is True
        with path.open("rb") as second:
            fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several shells may hold
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text(encoding="ascii").split()
        for pid in [shell.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        shell.wait(TIMEOUT_S)
        wait_until(lambda: not shell_lock_held(path), what="the kernel freeing the lock")


def test_a_lock_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "hold.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError, match="cannot be opened"):
        shell_lock_held(tmp_path / "hold.lock")
    assert not (tmp_path / "elsewhere").exists()
