"""Whether the device lets itself be updated: clocks that jump, real locks, and the grace of a start."""

import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_agent.availability import Gatekeeper, boot_id
from device_agent.control import Hold
from device_agent.journal import Disabling
from protocol.values import Scope


@dataclass
class Memory:
    """A journal's memory of availability."""

    disabled: Disabling | None = None
    boot: str = ""

    def disabling(self) -> Disabling | None:
        return self.disabled

    def set_disabling(self, disabling: Disabling | None) -> None:
        self.disabled = disabling

    def holders_boot(self) -> str:
        return self.boot

    def set_holders_boot(self, boot_id: str) -> None:
        self.boot = boot_id


@dataclass
class Clocks:
    """A clock for people, which may be set, and one that only goes forward."""

    wall: float = 1_800_000_000.0
    steady: float = 50.0

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "hold.lock"


def gatekeeper(memory: Memory, clocks: Clocks, lock: Path, *, enabled_at_start: bool = True) -> Gatekeeper:
    return Gatekeeper(
        memory,
        lock,
        enabled_at_start=enabled_at_start,
        grace_s=5.0,
        now=lambda: clocks.wall,
        monotonic=lambda: clocks.steady,
    )


def test_enabled_until_somebody_disables(memory: Memory, clocks: Clocks, lock: Path) -> None:
    keeper = gatekeeper(memory, clocks, lock)
    changes: list[bool] = []
    keeper.changed = lambda: changes.append(keeper.enabled)
    keeper.disable(None, "dosing")
    assert memory.disabled == Disabling(why="dosing")
    assert not keeper.report().enabled
    assert not gatekeeper(memory, clocks, lock).enabled
    keeper.enable()
    assert memory.disabled is None
    assert changes == [False, True]
    assert gatekeeper(memory, clocks, lock).enabled


def test_a_disabling_lasts_as_long_as_it_was_said_whatever_the_clock_does(
    memory: Memory, clocks: Clocks, lock: Path
) -> None:
    keeper = gatekeeper(memory, clocks, lock)
    keeper.disable(clocks.wall + 100, "")
    assert keeper.report().disabled_until_ms == 1_800_000_100_000
    assert keeper.next_change() == clocks.steady + 100
    clocks.wall += 10**9  # the clock was set
    assert not keeper.enabled
    clocks.wall -= 2 * 10**9
    clocks.go_on(99)
    assert not keeper.enabled
    clocks.go_on(1)
    assert keeper.enabled
    assert keeper.willingness().enabled
    assert keeper.next_change() is None


def test_after_a_restart_it_lasts_at_most_as_long_again(memory: Memory, clocks: Clocks, lock: Path) -> None:
    gatekeeper(memory, clocks, lock).disable(clocks.wall + 100, "")
    clocks.wall = 0.0  # no battery: it is 1970
    again = gatekeeper(memory, clocks, lock)
    clocks.go_on(99)
    assert not again.enabled
    clocks.go_on(1)
    assert again.enabled


def test_disabled_at_every_start(memory: Memory, clocks: Clocks, lock: Path) -> None:
    keeper = gatekeeper(memory, clocks, lock, enabled_at_start=False)
    assert not keeper.enabled
    keeper.enable()
    assert keeper.enabled
    assert not gatekeeper(memory, clocks, lock, enabled_at_start=False).enabled


def hold(*scopes: str) -> Hold:
    return Hold(hold_id="h", owner="dosing (pid 1, uid 2)", scope=frozenset(scopes), acquired_at=0.0, expires_at=9.0)


def test_holds_are_told(memory: Memory, clocks: Clocks, lock: Path) -> None:
    keeper = gatekeeper(memory, clocks, lock)
    keeper.holds_changed((hold("restart", "download"),))
    (held,) = keeper.willingness().holds
    assert held.scopes == {Scope.RESTART, Scope.DOWNLOAD}
    assert (held.owner, held.expires_at_ms) == ("dosing (pid 1, uid 2)", 9000)
    (info,) = keeper.report().holds
    assert (info.owner, info.why, info.scopes) == ("pid 1, uid 2", "dosing", (Scope.DOWNLOAD, Scope.RESTART))
    keeper.holds_changed(())
    assert keeper.willingness().holds == ()


def test_holders_get_a_grace_after_the_agent_s_restart(memory: Memory, clocks: Clocks, lock: Path) -> None:
    keeper = gatekeeper(memory, clocks, lock)
    assert not keeper.in_grace  # nobody held before
    keeper.holds_changed((hold("install"),))
    again = gatekeeper(memory, clocks, lock)
    assert again.in_grace
    assert [held.scopes for held in again.willingness().holds] == [{Scope.INSTALL, Scope.RESTART}]
    assert again.next_change() == clocks.steady + 5
    assert again.report().holds == ()
    clocks.go_on(5)
    assert not again.in_grace
    assert again.willingness().holds == ()


def test_a_reboot_ends_every_hold(memory: Memory, clocks: Clocks, lock: Path) -> None:
    gatekeeper(memory, clocks, lock).holds_changed((hold("install"),))
    assert memory.boot == boot_id() != ""
    memory.boot = "another boot"
    assert not gatekeeper(memory, clocks, lock).in_grace


def test_a_shell_s_lock_holds_and_its_end_is_heard(memory: Memory, clocks: Clocks, lock: Path) -> None:
    keeper = gatekeeper(memory, clocks, lock)
    ended = threading.Event()
    keeper.changed = ended.set
    assert keeper.willingness().holds == ()
    descriptor = os.open(lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    for _ in range(3):
        assert [held.scopes for held in keeper.willingness().holds] == [{Scope.INSTALL, Scope.RESTART}]
    assert [(info.owner, info.why) for info in keeper.report().holds] == [("a shell", "hold.lock")]
    assert not ended.is_set()
    os.close(descriptor)
    assert ended.wait(10)
    assert keeper.willingness().holds == ()


def test_a_lock_file_that_cannot_be_opened_holds_nothing(
    memory: Memory, clocks: Clocks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = gatekeeper(memory, clocks, tmp_path)
    (tmp_path / "link").symlink_to("elsewhere")
    assert gatekeeper(memory, clocks, tmp_path / "link").willingness().holds == ()
    assert "cannot be opened" in caplog.text
    assert keeper.enabled
