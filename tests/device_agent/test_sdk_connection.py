"""The SDK and agents that come, go, hang and talk nonsense."""

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from device_agent import sdk
from device_agent.sdk import Updates, UpdatesUnavailableError
from tests.device_agent.stand_in import PENDING, TIMEOUT_S, Listener, StandInAgent, freeze
from tests.support.processes import Processes, wait_until

NONSENSE = [
    b"hello\n",
    b"[]\n",
    b"null\n",
    b"7\n",
    b'{"id": [], "ok": true}\n',
    b'{"id": null, "ok": false, "error": "too_many_connections", "message": "64 are open"}\n',
    b'{"id": 1, "ok": true}\n{"id": 2, "ok": true, "status": 5}\n',
    b'{"id": 1, "ok": true, "status": {"pending": [], "updates_enabled": "no"}}\n',
    b'{"event": null}\n{"event": ["installing"]}\n{"event": "hold_expired", "hold": {}}\n',
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b"x" * 2_000_000,
    b"",
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock") as started:
        yield started


@pytest.fixture
def updates(agent: StandInAgent) -> Iterator[Updates]:
    with Updates(agent.path, required=True) as connected:
        yield connected


def test_after_the_agent_restarts_it_is_told_what_was_wished(agent: StandInAgent, updates: Updates) -> None:
    listener = Listener()
    updates.on("*", listener)
    updates.disable_updates(until_s=1000, why="printing")
    updates.confirm()
    with updates.hold("printing") as hold:
        assert [len(agent.next_holds())] == [1]
        assert [agent.next_heard()[0] for _ in range(2)] == ["disable", "confirm"]
        assert listener.next() == {"event": "updates_disabled"}
        agent.enabled, agent.pending = True, PENDING
        agent.restart()
        assert agent.next_holds() == ()
        what, (until, why) = agent.next_heard()
        assert (what, why) == ("disable", "printing")
        assert time.time() + 990 < until <= time.time() + 1000
        assert [taken.owner[:8] for taken in agent.next_holds()] == ["printing"]
        assert agent.next_heard() == ("confirm", None)
        assert listener.next()["event"] in {"firmware_update_pending", "updates_disabled"}
        wait_until(lambda: updates.connected and hold.hold_id, what="the connection to the new agent")
        assert updates.updates_enabled is False


def test_a_wish_whose_time_is_up_is_not_told_again(agent: StandInAgent) -> None:
    with Updates(agent.path) as updates:
        updates.disable_updates(until_s=0.01)
        assert agent.next_heard()[0] == "disable"
        agent.restart()
        wait_until(updates.check_for_updates, what="the connection to the new agent")
        assert agent.next_heard() == ("check", None)


def test_without_an_agent_nothing_fails_and_the_state_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sdk.SOCKET_VARIABLE, raising=False)
    for path in (None, tmp_path / "control.sock", tmp_path / "missing" / "control.sock"):
        with Updates(path) as updates:
            assert (updates.connected, updates.updates_enabled, updates.updates_pending) == (False, True, False)
            assert updates.disable_updates() is False
            assert updates.updates_enabled is False
            with updates.hold("printing") as hold:
                assert hold.hold_id is None
            assert (updates.confirm(), updates.ready(), updates.check_for_updates()) == (False, False, False)
            assert updates.status() == {}
            assert updates.enable_updates() is False
            assert updates.updates_enabled is True
        with pytest.raises(UpdatesUnavailableError, match="no agent answers"):
            Updates(path, required=True)


def test_an_agent_that_appears_later_is_told_what_was_wished(tmp_path: Path) -> None:
    agent = StandInAgent(tmp_path / "control.sock")
    with Updates(agent.path) as updates:
        updates.disable_updates(why="printing")
        updates.confirm()
        with updates.hold("printing"), agent:
            assert agent.next_heard() == ("disable", (None, "printing"))
            assert len(agent.next_holds()) == 1
            assert agent.next_heard() == ("confirm", None)
            wait_until(lambda: updates.connected)
            assert updates.updates_enabled is False


def test_a_required_agent_that_went_away_is_missed(agent: StandInAgent, updates: Updates) -> None:
    agent.server.stop()
    with pytest.raises(UpdatesUnavailableError):
        updates.confirm()


def test_the_environment_says_where_the_agent_is(agent: StandInAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLIFT_CONTROL_SOCKET", str(agent.path))
    with Updates() as updates:
        assert updates.connected


def test_a_path_longer_than_an_address_is_reached(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    with StandInAgent(directory / "control.sock") as agent, Updates(agent.path) as updates:
        assert updates.connected


def test_an_agent_that_hangs_costs_no_more_than_the_time_allowed(tmp_path: Path, processes: Processes) -> None:
    path = tmp_path / "control.sock"
    child = processes.start(sys.executable, "-m", "tests.device_agent.stand_in", path, name="agent")
    child.wait_for_line("serving")
    with Updates(path, timeout_s=0.3) as updates:
        wait_until(updates.confirm, what="the agent")
        freeze(child)
        began = time.monotonic()
        assert updates.confirm() is False
        assert 0.3 <= time.monotonic() - began < 5
        assert updates.updates_enabled is True
        with Updates(path, timeout_s=0.3) as second:
            assert second.connected is False
            child.process.send_signal(signal.SIGCONT)
            wait_until(lambda: second.connected, what="the agent that goes on")
        wait_until(updates.confirm, what="the agent that goes on")


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda said: repr(said[:20]))
def test_an_agent_that_talks_nonsense_is_survived(nonsense: bytes, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        with ThreadPoolExecutor(1) as executor:
            making = executor.submit(Updates, path, timeout_s=0.5)
            mad, _ = listener.accept()
            with mad:
                mad.recv(1000)
                with contextlib.suppress(BrokenPipeError):  # the SDK may end what leads nowhere
                    mad.sendall(nonsense)
            updates = making.result(TIMEOUT_S)
    with updates:
        updates.on("*", lambda _event: None)
        path.unlink()
        with StandInAgent(path):
            wait_until(lambda: updates.connected, what="a connection to a sane agent")
            wait_until(updates.check_for_updates, what="an answer of the sane agent")


def test_an_agent_that_never_ends_its_line_is_left(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        with Updates(path, timeout_s=0.1):
            endless, _ = listener.accept()
            endless.settimeout(TIMEOUT_S)
            with endless, pytest.raises(BrokenPipeError):
                endless.sendall(b"x" * 100_000_000)


def test_a_call_on_its_way_ends_with_the_agent(tmp_path: Path, processes: Processes) -> None:
    path = tmp_path / "control.sock"
    child = processes.start(sys.executable, "-m", "tests.device_agent.stand_in", path, name="agent")
    child.wait_for_line("serving")
    with Updates(path, timeout_s=10 * TIMEOUT_S) as updates, ThreadPoolExecutor(1) as executor:
        freeze(child)
        asking = executor.submit(updates.confirm)
        wait_until(lambda: updates._calls, what="the call on its way")
        child.kill()
        assert asking.result(TIMEOUT_S) is False


def test_the_sdk_speaks_as_documented(tmp_path: Path) -> None:
    """What the SDK sends is what a stranger's agent would read from the document."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        with ThreadPoolExecutor(1) as executor:
            making = executor.submit(Updates, path)
            agent, _ = listener.accept()
            with agent, agent.makefile("rb") as lines:
                request = json.loads(lines.readline())
                assert request["op"] == "subscribe"
                answer = {"id": request["id"], "ok": True, "status": {"pending": PENDING, "updates_forced": True}}
                agent.sendall(json.dumps(answer).encode() + b"\n")
                with making.result(TIMEOUT_S) as updates:
                    assert (updates.updates_pending, updates.updates_forced, updates.updates_enabled) == (True,) * 3
