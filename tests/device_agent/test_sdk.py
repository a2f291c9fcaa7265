"""The SDK against the real control server: what an application asks, holds and hears."""

import queue
import shutil
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
from device_agent.sdk import Updates, UpdatesRefusedError
from protocol.errors import UserError
from tests.device_agent.stand_in import PENDING, TIMEOUT_S, Clock, LineClient, Listener, StandInAgent
from tests.support.processes import Processes

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


def test_somebody_at_the_device_consents_defers_or_declines(agent: StandInAgent, updates: Updates) -> None:
    assert updates.consent() and updates.defer(59.5) and updates.decline()  # noqa: PT018 - one after the other
    heard = [agent.next_heard() for _ in range(3)]
    assert heard == [("consent", None), ("defer", (60, None)), ("decline", None)]


def test_the_application_says_that_its_data_is_synced(agent: StandInAgent) -> None:
    wanted = {"component": "app", "version": "2.0.0", "data_schema": 2}
    agent.more_status = {"data_sync": wanted}
    with Updates(agent.path) as updates:
        assert updates.data_sync == wanted
        listener = Listener()
        updates.on("data_sync_wanted", listener)
        assert listener.next() == {"event": "data_sync_wanted", **wanted}
        assert updates.data_synced() and updates.data_synced(False)  # noqa: PT018 - one after the other
        assert [agent.next_heard() for _ in range(2)] == [("data_synced", True), ("data_synced", False)]


def test_gauges_are_told_and_told_again_to_an_agent_that_was_restarted(
    agent: StandInAgent, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert updates.report_gauge("queue-depth", 12)
    monkeypatch.setenv("FLEETLIFT_COMPONENT", "pump")
    assert updates.report_gauge("queue-depth", 13)
    assert updates.report_gauge("errors", -1, component="os")
    heard = [agent.next_heard() for _ in range(3)]
    assert heard[0] == ("gauge", ("queue-depth", 12, None))
    assert heard[1:] == [("gauge", ("queue-depth", 13, "pump")), ("gauge", ("errors", -1, "os"))]
    with pytest.raises(UpdatesRefusedError, match="name 'Queue Depth' is not an id"):
        updates.report_gauge("Queue Depth", 1)
    agent.restart()
    assert [agent.next_heard() for _ in range(2)] == heard[1:]


def test_why_is_told(agent: StandInAgent, updates: Updates) -> None:
    agent.decisions = [{"component": "app", "lines": ["app: nothing is to be done"]}]
    assert updates.why("app") == agent.decisions
    assert agent.next_heard() == ("why", "app")


def test_a_question_that_stood_before_the_application_started_is_told(agent: StandInAgent) -> None:
    asked = {"component": "app", "version": "1.1.0", "optional": True, "state": "asked"}
    agent.more_status = {"attention": asked}
    with Updates(agent.path) as updates:
        assert updates.attention == asked
        listener = Listener()
        updates.on("attention_required", listener)
        assert listener.next() == {"event": "attention_required", **asked}
        agent.more_status = {"attention": asked | {"state": "deferred"}}
        assert updates.status()["attention"]["state"] == "deferred"
        assert updates.attention is None


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
    assert [everything.next()["event"] for _ in range(len(sdk.EVENTS) + 1)] == [*sdk.EVENTS, "of_a_later_version"]
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
