"""The control socket over real sockets, between real processes, with time as data."""

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.control import ControlError, ControlServer, shell_lock_held
from device_agent.control_requests import MAX_LINE_BYTES
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
    assert len(conversations()) == 3


MALFORMED = [
    (b"", "bad_json"),
    (b"hello", "bad_json"),
    (b"[]", "bad_json"),
    (b"null", "bad_json"),
    (b'{"op": "status"', "bad_json"),
    (b'{"op": "status", "op": "enable"}', "bad_json"),
    (b'{"op": "disable", "until_s": NaN}', "bad_json"),
    (b'{"op": "disable", "until_s": ' + b"9" * 5000 + b"}", "bad_json"),
    (b'{"op": ' + b"[" * 8000, "bad_json"),
    (b'{"op": "hold", "why": ' + b"[" * 20 + b"]" * 20 + b"}", "bad_json"),
    (b'\xff\xfe{"op": "status"}', "bad_json"),
    (b"{}", "unknown_op"),
    (b'{"op": "reboot"}', "unknown_op"),
    (b'{"op": ["status"]}', "unknown_op"),
    (b'{"op": null}', "unknown_op"),
    (b'{"op": "status", "verbose": true}', "unknown_field"),
    (b'{"op": "enable", "until_s": 3}', "unknown_field"),
    (b'{"op": "status", "id": "one"}', "bad_value"),
    (b'{"op": "status", "id": true}', "bad_value"),
    (b'{"op": "status", "id": 1.5}', "bad_value"),
    (b'{"op": "disable", "until_s": 0}', "bad_value"),
    (b'{"op": "disable", "until_s": -5}', "bad_value"),
    (b'{"op": "disable", "until_s": 1.5}', "bad_value"),
    (b'{"op": "disable", "until_s": true}', "bad_value"),
    (b'{"op": "disable", "until_s": "3600"}', "bad_value"),
    (b'{"op": "disable", "until_s": 99999999999}', "bad_value"),
    (b'{"op": "disable", "why": 7}', "bad_value"),
    (b'{"op": "disable", "why": "' + b"x" * 201 + b'"}', "bad_value"),
    (b'{"op": "disable", "why": "\\u001b[2J"}', "bad_value"),
    (b'{"op": "hold"}', "bad_value"),
    (b'{"op": "hold", "why": " "}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": []}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": "install"}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": ["reboot"]}', "bad_value"),
    (b'{"op": "hold", "why": "x", "ttl_s": 0}', "bad_value"),
    (b'{"op": "hold", "why": "x", "ttl_s": 86401}', "bad_value"),
    (b'{"op": "renew", "ttl_s": 5}', "bad_value"),
    (b'{"op": "renew", "hold": 1}', "bad_value"),
    (b'{"op": "renew", "hold": "h1"}', "unknown_hold"),
    (b'{"op": "release", "hold": "h1"}', "unknown_hold"),
]


@pytest.mark.parametrize(("line", "code"), MALFORMED)
def test_a_bad_line_is_refused_by_name_and_the_connection_goes_on(
    line: bytes, code: str, agent: StandInAgent, client: LineClient
) -> None:
    client.send(line + b"\n")
    refusal = client.receive()
    assert refusal is not None
    assert (refusal["ok"], refusal["error"]) == (False, code)
    assert refusal["message"]
    assert client.ask("status")["ok"] is True
    assert agent.heard.empty()
    assert agent.server.holds() == ()


def test_a_refusal_carries_the_number_of_its_request(client: LineClient) -> None:
    client.send(b'{"op": "hold", "id": 7}\n{"op": "status"}\n')
    assert [(client.receive() or {}).get("id", "absent") for _ in range(2)] == [7, None]


def test_a_line_too_long_is_passed_over_to_its_end_without_being_kept(client: LineClient) -> None:
    longest = b'{"op": "status", "id": 1}'.ljust(MAX_LINE_BYTES)
    client.send(longest + b"\n")
    assert (client.receive() or {})["ok"] is True
    client.send(longest + b" \n")
    assert (client.receive() or {})["error"] == "too_long"
    for _ in range(200):  # 13 MB of one line: answered once, at once
        client.send(b"x" * 65536)
    assert (client.receive() or {})["error"] == "too_long"
    client.send(b'"}\n')
    assert client.ask("status")["ok"] is True


def test_lines_come_in_any_pieces(client: LineClient) -> None:
    lines = b'{"op": "status", "id": 1}\n{"op": "check", "id": 2}\n'
    for index in range(len(lines)):
        client.send(lines[index : index + 1])
    client.send(lines * 20)
    assert [(client.receive() or {})["id"] for _ in range(42)] == [1, 2] * 21


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


def test_a_subscriber_that_does_not_read_is_dropped_and_stops_nobody(
    agent: StandInAgent, client: LineClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with LineClient(agent.path) as sleeper:
        sleeper.ask("subscribe")
        sleeper.ask("hold", why="asleep")
        assert len(agent.next_holds()) == 1
        client.ask("subscribe")
        for number in range(1000):
            agent.server.publish({"event": "installing", "number": number, "padding": "x" * 1000})
            assert (client.receive() or {})["number"] == number
        assert agent.next_holds() == ()
        assert "does not read" in caplog.text
        assert client.ask("status")["ok"] is True
        left = b"".join(iter(lambda: sleeper.sock.recv(65536), b""))
        assert left.startswith(b'{"event":"installing","number":0')
        assert left.count(b"\n") < 1000


def test_a_peer_that_asks_and_never_reads_is_dropped_too(agent: StandInAgent, client: LineClient) -> None:
    agent.more_status = {"padding": "x" * 60_000}
    with LineClient(agent.path) as greedy, pytest.raises((BrokenPipeError, ConnectionResetError)):
        greedy.send(b'{"op": "status"}\n' * 1_000_000)
    assert client.ask("status")["ok"] is True


def test_connections_are_bounded_and_places_come_free(agent: StandInAgent) -> None:
    clients = [LineClient(agent.path) for _ in range(64)]
    for client in clients:
        client.ask("status")
    with LineClient(agent.path) as late:
        assert (late.receive() or {})["error"] == "too_many_connections"
        assert late.receive() is None
    clients.pop().close()

    def admitted() -> bool:
        with LineClient(agent.path) as client, contextlib.suppress(ConnectionError):
            return client.ask("status")["ok"] is True
        return False

    wait_until(admitted, what="a place for a new connection")
    for client in clients:
        assert client.ask("status")["ok"] is True
        client.close()


def test_a_peer_that_closes_its_side_still_gets_its_answer(agent: StandInAgent) -> None:
    with LineClient(agent.path) as client:
        client.send(b'{"op": "status", "id": 5}\n')
        client.sock.shutdown(socket.SHUT_WR)
        assert (client.receive() or {})["id"] == 5
        assert client.receive() is None


def test_the_socket_is_for_its_owner_and_group_and_goes_with_the_server(agent: StandInAgent) -> None:
    mode = agent.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    assert [path.name for path in agent.path.parent.iterdir()] == ["control.sock"]
    agent.server.stop()
    agent.server.stop()
    assert list(agent.path.parent.iterdir()) == []
    with pytest.raises(ControlError, match="make another one"):
        agent.server.start()


def test_a_dead_agents_socket_is_replaced(tmp_path: Path, processes: Processes) -> None:
    path = tmp_path / "control.sock"
    dead = processes.start(sys.executable, "-m", "tests.device_agent.stand_in", path, name="agent")
    dead.wait_for_line("serving")
    dead.kill()
    assert path.exists()
    with StandInAgent(path), LineClient(path) as client:
        assert client.ask("status")["ok"] is True


def test_a_living_agents_socket_is_left_to_it(agent: StandInAgent) -> None:
    with pytest.raises(ControlError, match="another agent serves"):
        ControlServer(agent.path, agent).start()
    with LineClient(agent.path) as client:
        assert client.ask("status")["ok"] is True
    assert [path.name for path in agent.path.parent.iterdir()] == ["control.sock"]


def test_an_agent_that_hangs_is_alive(tmp_path: Path, processes: Processes) -> None:
    path = tmp_path / "control.sock"
    other = processes.start(sys.executable, "-m", "tests.device_agent.stand_in", path, name="agent")
    other.wait_for_line("serving")
    freeze(other)
    with pytest.raises(ControlError, match="another agent serves"):
        StandInAgent(path).server.start()
    with contextlib.ExitStack() as waiting:
        with contextlib.suppress(BlockingIOError):
            while True:  # until its queue is full
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        with pytest.raises(ControlError, match="another agent serves"):
            StandInAgent(path).server.start()


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(ControlError, match="left alone"):
        StandInAgent(path).server.start()
    assert path.read_text(encoding="utf-8") == "precious"
    with pytest.raises(ControlError, match="No such file"):
        StandInAgent(tmp_path / "missing" / "control.sock").server.start()


def test_a_path_longer_than_an_address_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    with StandInAgent(directory / "control.sock"):
        monkeypatch.chdir(directory)
        with LineClient(Path("control.sock")) as client:
            assert client.ask("status")["ok"] is True
    assert list(directory.iterdir()) == []


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
