"""Updates that change the schema of the data, by the whole agent: what waits, what is saved, and what comes back.

Power cuts are data: each story is told again with the power cut at each of its moments, the steps of the keeper among
them.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agent.admission import InstallPolicy
from device_agent.config import ComponentSettings, UpdateSettings
from device_agent.data import keeper as keeping
from device_agent.data import trees
from device_agent.slots import durable, records
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.values import Scope
from tests.device_agent.data.books import Book
from tests.device_agent.runner.playing import component, hold, waits
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_device import Device, live, no_fsync
from tests.support.simulated_world import World

PAGE = "schema 1: page"


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)
    monkeypatch.setattr(os, "fdatasync", no_fsync)


def settings(book: Book, **values: Any) -> ComponentSettings:
    return component(**{"data_dir": book.directory, "data_sync": "none", **values})


@contextmanager
def ticking(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the power cut before and after each durable step of the keeper, too."""

    def cut(real: Callable[..., None], what: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            with world.happening(what):
                real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(keeping, "store", cut(records.store, "record"))
        patched.setattr(keeping, "remove_tree", cut(trees.remove_tree, "remove"))
        patched.setattr(trees, "_copy_directory", cut(trees._copy_directory, "copy"))
        patched.setattr(durable, "move", cut(durable.move, "move"))
        yield


def factory(directory: Path) -> tuple[World, Cloud, Book]:
    """Return a device that runs the old version for good, and has a page in its book."""
    directory.mkdir(parents=True)
    world, cloud = World(directory), Cloud()
    book = Book(world)
    cloud.release(book.old)
    live(world, cloud, component=settings(book)).power_off()
    assert book.read() == PAGE
    cloud.entries.clear()
    return world, cloud, book


@pytest.mark.parametrize("kills_agent_only", [False, True], ids=["power", "agent"])
@pytest.mark.parametrize("story", ["good", "unhealthy", "crashing"])
def test_a_cut_at_every_moment_leaves_each_version_its_own_data(
    story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kills_agent_only: bool
) -> None:
    _, shipped, _ = factory(tmp_path / "template")

    def play(directory: Path, cuts: list[int]) -> list[str]:
        shutil.copytree(tmp_path / "template", directory, symlinks=True)
        world, cloud = World(directory), copy.deepcopy(shipped)
        book = Book(world, left=PAGE)
        world.unhealthy |= {book.new.digest} if story == "unhealthy" else set()
        world.crashing |= {book.new.digest} if story == "crashing" else set()
        cloud.release(book.new)
        world.cut_at, world.kills_agent_only, world.ticked = list(cuts), kills_agent_only, []
        with ticking(world, monkeypatch):
            device = live(world, cloud, component=settings(book))
        (end,) = cloud.ends()
        assert end.outcome is (Outcome.SUCCEEDED if story == "good" else Outcome.ROLLED_BACK)
        assert world.running == world.current_digest() == (book.new if story == "good" else book.old).digest
        assert book.wrongs == []
        assert book.read().endswith(book.left)
        assert book.read().startswith("schema 2: " if story == "good" else book.left)
        beside = [path.name for path in book.directory.parent.iterdir() if "book-data" in path.name]
        assert beside == ["book-data"]
        (state,) = cloud.states[-1].components
        assert state.data_schema == (2 if story == "good" else 1)
        device.power_off()
        return world.ticked

    ticked = play(tmp_path / "uncut", [])
    assert len(ticked) > 40
    for moment in range(1, len(ticked) + 1):
        try:
            play(tmp_path / str(moment), [moment])
        except AssertionError as error:
            error.add_note(f"cut at moment {moment}: {ticked[moment - 1]}; all: {ticked}")
            raise


def started(tmp_path: Path, **values: Any) -> tuple[Device, Cloud, Book]:
    """Return a device whose old version runs, and is asked to sync its data for the new one."""
    world, cloud, book = factory(tmp_path / "device")
    more = {"updates": values.pop("updates", None)}
    device = Device(world, cloud, component=settings(book, data_sync="application", **values), **more).start()
    device.run()
    cloud.release(book.new)
    device.link.notify()
    device.run()
    return device, cloud, book


def test_the_installation_waits_until_the_data_is_synced(tmp_path: Path) -> None:
    device, cloud, book = started(tmp_path)
    assert (device.snapshot.phase, device.world.running) == (Phase.INSTALLING, book.old.digest)
    assert waits(device) | {"detail": ""} == waits(device) | {"why": Wait.DATA_SYNC, "detail": ""}
    assert waits(device)["detail"] == "the schema of its data goes from 1 to 2"
    wanted = {"component": "app", "version": "2.0.0", "data_schema": 2}
    assert device.control.events[-2] == {"event": "data_sync_wanted", **wanted}
    assert device.status["data_sync"] == wanted
    assert cloud.states[-1].pending[0].why is Wait.DATA_SYNC
    device.desk.data_synced(True)
    device.run()
    assert device.world.running == book.new.digest
    assert device.status["data_sync"] is None
    device.power_off()


def test_what_was_said_is_forgotten_when_the_application_starts_again(tmp_path: Path) -> None:
    device, _, book = started(tmp_path)
    device.gatekeeper.holds_changed((hold("restart"),))
    device.desk.data_synced(True)
    device.run()
    assert waits(device)["why"] == Wait.HELD
    device.application.end_by_itself(restart_in_s=1.0)
    device.world.running = book.old.digest
    device.gatekeeper.holds_changed(())
    device.run()
    assert (waits(device)["why"], device.snapshot.gate) == (Wait.DATA_SYNC, Scope.RESTART)
    device.desk.data_synced(True)
    device.run()
    assert device.world.running == book.new.digest
    device.power_off()


def test_who_writes_on_takes_it_back(tmp_path: Path) -> None:
    device, _, book = started(tmp_path)
    device.gatekeeper.holds_changed((hold("restart"),))
    device.desk.data_synced(True)
    device.run()
    device.desk.data_synced(False)
    device.gatekeeper.holds_changed(())
    device.run()
    assert waits(device)["why"] == Wait.DATA_SYNC
    assert device.control.names().count("data_sync_wanted") == 2
    assert device.world.running == book.old.digest
    device.power_off()


def test_it_is_said_anew_for_each_attempt(tmp_path: Path) -> None:
    device, cloud, _ = started(tmp_path)
    device.gatekeeper.holds_changed((hold("restart"),))
    device.desk.data_synced(True)
    device.run()
    newer = device.world.image("2.1.0", data_schema=2, reads_schemas=(1,))
    cloud.release(newer)
    device.link.notify()
    device.gatekeeper.holds_changed(())
    device.run()
    assert (waits(device)["version"], waits(device)["why"]) == ("2.1.0", Wait.DATA_SYNC)
    device.desk.data_synced(True)
    device.run()
    assert device.world.running == newer.digest
    device.power_off()


def test_a_forced_update_waits_for_no_application_and_saves_the_data_all_the_same(tmp_path: Path) -> None:
    device, cloud, book = started(tmp_path)
    device.world.unhealthy.add(book.new.digest)
    cloud.patch(cloud.releases[0], forced=True)
    device.link.notify()
    device.run()
    assert cloud.ends()[-1].outcome is Outcome.ROLLED_BACK
    assert (device.world.running, book.wrongs) == (book.old.digest, [])
    device.power_off()


def test_at_the_next_start_it_is_asked_before_the_application_ends(tmp_path: Path) -> None:
    device, _, book = started(tmp_path, updates=UpdateSettings(install=InstallPolicy.NEXT_START))
    assert waits(device)["why"] == Wait.DATA_SYNC
    device.desk.data_synced(True)
    device.run()
    assert waits(device)["why"] == Wait.NEXT_START
    device.application.end_by_itself(restart_in_s=1.0)
    device.run()
    assert (device.world.running, book.wrongs) == (book.new.digest, [])
    device.power_off()


def test_the_drain_command_has_the_last_word_before_the_snapshot(tmp_path: Path) -> None:
    world, cloud, book = factory(tmp_path / "device")
    book.left += " drained"
    script = f'test "$FLEETLIFT_NEW_DATA_SCHEMA" = 2 && printf " drained" >> {book.path}'
    world.unhealthy.add(book.new.digest)
    cloud.release(book.new)
    device = live(world, cloud, component=settings(book, drain_command=("sh", "-c", script)))
    assert cloud.ends()[-1].reason is Reason.HEALTH_FAILED
    assert (world.running, book.wrongs) == (book.old.digest, [])
    device.power_off()


@pytest.mark.parametrize("command", ["echo it is full; exit 3", "exec sleep 60"])
def test_a_drain_that_fails_switches_nothing(tmp_path: Path, command: str) -> None:
    world, cloud, book = factory(tmp_path / "device")
    cloud.release(book.new)
    device = Device(world, cloud, component=settings(book, drain_command=("sh", "-c", command)))
    device.runner._components["app"] = replace(device.runner._components["app"], drain_timeout_s=0.5)  # type: ignore[index]
    device.start().run(300.0)
    (end,) = cloud.ends()
    assert (end.outcome, end.reason) == (Outcome.FAILED, Reason.DATA_FAILED)
    assert end.detail.startswith("the drain command ended with 3: it is full" if "echo" in command else "the drain")
    assert book.new.digest not in world.starts
    assert (world.running, book.wrongs) == (book.old.digest, [])
    device.power_off()


def test_a_version_that_cannot_read_the_data_is_not_taken(tmp_path: Path) -> None:
    world, cloud, book = factory(tmp_path / "device")
    unable = world.image("3.0.0", data_schema=3)
    cloud.release(unable)
    device = live(world, cloud, component=settings(book))
    assert (waits(device)["version"], waits(device)["why"]) == ("3.0.0", Wait.DATA_SCHEMA)
    assert cloud.ends() == []
    device.power_off()
