"""The control socket as a file, a queue and a buffer: peers that do not read, dead agents, living ones."""

import contextlib
import logging
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.control import ControlError, ControlServer
from tests.device_agent.stand_in import LineClient, StandInAgent, freeze
from tests.support.processes import Processes, wait_until


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock") as started:
        yield started


@pytest.fixture
def client(agent: StandInAgent) -> Iterator[LineClient]:
    with LineClient(agent.path) as connected:
        yield connected


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
