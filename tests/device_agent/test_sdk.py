"""The SDK against the real control server, with agents that come, go, hang and talk nonsense."""

import contextlib
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from device_agent import sdk
from device_agent.sdk import Updates, UpdatesRefusedError, UpdatesUnavailableError
from protocol.errors import UserError
from tests.device_agent.stand_in import PENDING, TIMEOUT_S, Clock, LineClient, StandInAgent, freeze
from tests.support.processes import Processes, wait_until

APPLICATION = """
import sys, time
from device_agent.sdk import Updates
updates = Updates(sys.argv[1], required=True)
with updates.hold("dosing") as hold:
    print("holding", hold.hold_id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def monotonic() -> Clock:
    """The clock of the agent's leases: it stands still, so that no hold ends because a test was slow."""
    return Clock(0)


@pytest.fixture
def agent(tmp_path: Path, monotonic: Clock) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock", monotonic=monotonic) as started:
        yield started


@pytest.fixture
def updates(agent: StandInAgent) -> Iterator[Updates]:
    with Updates(agent.path, required=True) as connected:
        yield connected


class Listener:
    """A handler that lets a test wait for what it is told."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[sdk.Event] = queue.SimpleQueue()

    def __call__(self, event: sdk.Event) -> None:
        self.told.put(event)

    def next(self) -> dict[str, Any]:
        return dict(self.told.get(timeout=TIMEOUT_S))


def test_the_application_disables_and_enables_updates(agent: StandInAgent, updates: Updates) -> None:
    assert updates.connected
    assert updates.updates_enabled
    before = time.time()
    assert updates.disable_updates(until_s=59.5, why="printing") is True
    assert updates.updates_enabled is False
    assert agent.enabled is False
    what, (until, why) = agent.next_heard()
    assert (what, why) == ("disable", "printing")
    assert before + 60 <= until <= time.time() + 60
    assert updates.disable_updates() is True
    assert agent.next_heard() == ("disable", (None, ""))
    assert updates.enable_updates() is True
    assert updates.updates_enabled is True
    assert agent.next_heard() == ("enable", None)


def test_the_application_confirms_is_ready_and_asks_for_a_check(agent: StandInAgent, updates: Updates) -> None:
    assert updates.confirm() and updates.ready() and updates.check_for_updates()  # noqa: PT018 - one after the other
    assert [agent.next_heard()[0] for _ in range(3)] == ["confirm", "ready", "check"]
    agent.more_status = {"phase": "proving"}
    assert updates.status()["phase"] == "proving"


def test_what_the_agent_refuses_is_raised(agent: StandInAgent, updates: Updates) -> None:
    agent.failure = UserError("the journal cannot be written")
    with pytest.raises(UpdatesRefusedError, match="the journal cannot be written") as caught:
        updates.check_for_updates()
    assert caught.value.code == "refused"
    agent.failure = None
    with pytest.raises(UpdatesRefusedError, match="ttl_s is 1 to"), updates.hold("forever", ttl_s=10**9):
        pytest.fail("a hold that was refused is not entered")
    with updates.hold("a while"):
        assert len(agent.server.holds()) == 1


def test_an_event_reaches_its_handler_and_the_state_is_as_new(agent: StandInAgent, updates: Updates) -> None:
    seen: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    updates.on(
        "firmware_update_pending",
        lambda event: seen.put((event["version"], updates.updates_pending, updates.updates_forced)),
    )
    assert updates.updates_pending is False
    agent.offer()
    assert seen.get(timeout=TIMEOUT_S) == ("1.1.0", True, False)
    agent.forced = True
    agent.offer(version="1.2.0", forced=True)
    assert seen.get(timeout=TIMEOUT_S) == ("1.2.0", True, True)


def test_every_event_reaches_its_handlers_in_order(agent: StandInAgent, updates: Updates) -> None:
    everything, one = Listener(), Listener()
    updates.on("*", everything)
    updates.on("update_installed", one)
    for name in sdk.EVENTS:
        agent.server.publish({"event": name, "component": "app", "version": "1.1.0"})
    agent.server.publish({"event": "of_a_later_version"})
    assert [everything.next()["event"] for _ in range(10)] == [*sdk.EVENTS, "of_a_later_version"]
    assert one.next() == {"event": "update_installed", "component": "app", "version": "1.1.0"}
    assert one.told.empty()
    with pytest.raises(ValueError, match="'update_instaled' is not one of"):
        updates.on("update_instaled", one)


def test_an_update_that_waited_before_the_application_started_is_told(agent: StandInAgent) -> None:
    agent.pending = PENDING
    with Updates(agent.path) as updates:
        assert updates.updates_pending
        listener = Listener()
        updates.on("firmware_update_pending", listener)
        assert listener.next() == {"event": "firmware_update_pending", **PENDING}


def test_a_handler_that_fails_or_asks_does_not_stop_the_next(
    agent: StandInAgent, updates: Updates, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    updates.on("installing", lambda _event: 1 / 0)
    updates.on("installing", lambda _event: updates.check_for_updates())
    updates.on("restarting", listener)
    agent.server.publish({"event": "installing"})
    agent.server.publish({"event": "restarting"})
    assert listener.next() == {"event": "restarting"}
    assert agent.next_heard() == ("check", None)
    assert "the handler of installing failed" in caplog.text


def test_a_handler_that_hangs_does_not_stop_the_holds_nor_the_calls(agent: StandInAgent, updates: Updates) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hang(_event: sdk.Event) -> None:
        entered.set()
        leave.wait(TIMEOUT_S)

    updates.on("installing", hang)
    agent.server.publish({"event": "installing"})
    assert entered.wait(TIMEOUT_S)
    with updates.hold("busy", ttl_s=1):
        (first,), (renewed,) = agent.next_holds(), agent.next_holds()
        assert renewed.expires_at > first.expires_at
        assert updates.check_for_updates() is True
    leave.set()


def test_a_hold_lasts_as_long_as_its_block_and_is_renewed(
    agent: StandInAgent, updates: Updates, monotonic: Clock
) -> None:
    with updates.hold("printing", scope=["download"], ttl_s=1) as hold:
        (first,) = agent.next_holds()
        assert first.owner.startswith("printing (pid ")
        assert first.scope == {"download"}
        for _ in range(3):  # together longer than its time to live
            monotonic.time += 0.9
            (renewed,) = agent.next_holds()
            assert renewed.hold_id == first.hold_id == hold.hold_id
    assert agent.next_holds() == ()
    assert hold.hold_id is None


def test_holds_add_up_and_end_when_the_block_raises(agent: StandInAgent, updates: Updates) -> None:
    def fail() -> None:
        with updates.hold("one"), updates.hold("two"):
            assert [hold.owner[:3] for hold in agent.server.holds()] == ["one", "two"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    updates.status()
    assert agent.server.holds() == ()


def test_a_hold_that_expired_is_taken_again(agent: StandInAgent, updates: Updates, monotonic: Clock) -> None:
    with updates.hold("dosing"), LineClient(agent.path) as other:
        assert [hold.hold_id for hold in agent.next_holds()] == ["h1"]
        monotonic.time += 3601  # as after a long sleep of the whole device
        other.ask("status")
        assert agent.next_holds() == ()
        assert [hold.hold_id for hold in agent.next_holds()] == ["h2"]


def test_a_killed_application_holds_nothing(agent: StandInAgent, processes: Processes) -> None:
    application = processes.start(sys.executable, "-c", APPLICATION, agent.path, name="application")
    application.wait_for_line("holding h1")
    assert len(agent.next_holds()) == 1
    application.kill()
    assert agent.next_holds() == ()


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


def test_many_threads_get_their_own_answers(agent: StandInAgent, updates: Updates) -> None:
    def hold(number: int) -> bool:
        with updates.hold(f"thread {number}") as held:
            owners = {shown["hold_id"]: shown["owner"] for shown in updates.status()["holds"]}
            return str(owners[str(held.hold_id)]).startswith(f"thread {number} (")

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(hold, range(200)))
    updates.status()
    assert agent.server.holds() == ()


def test_closing_ends_the_holds_and_keeps_updates_disabled(agent: StandInAgent) -> None:
    updates = Updates(agent.path)
    updates.disable_updates()
    with updates.hold("printing"):
        assert len(agent.next_holds()) == 1
        updates.close()
        updates.close()
        assert agent.next_holds() == ()
        assert updates.confirm() is False
    assert agent.enabled is False


def test_a_handler_may_close_the_line(agent: StandInAgent) -> None:
    closed = threading.Event()
    updates = Updates(agent.path)

    def close(_event: sdk.Event) -> None:
        updates.close()
        closed.set()

    updates.on("restarting", close)
    agent.server.publish({"event": "restarting"})
    assert closed.wait(TIMEOUT_S)
    assert updates.connected is False


def test_a_copy_of_the_file_works_alone(agent: StandInAgent, tmp_path: Path) -> None:
    shutil.copy(sdk.__file__, tmp_path / "ota.py")
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from ota import Updates\n"
        "updates = Updates(sys.argv[1], required=True)\n"
        "updates.disable_updates(why='a copy')\n"
        "print(updates.status()['updates_enabled'])\n"
    )
    # -I -S: no site-packages, nothing of ours to fall back on.
    command = (sys.executable, "-I", "-S", "-W", "error", "-c", script, str(agent.path), str(tmp_path))
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("False\n", "", 0)
    assert agent.next_heard() == ("disable", (None, "a copy"))


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
