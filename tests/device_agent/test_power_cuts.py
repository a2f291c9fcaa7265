"""Power cuts as data: each story is told once, and then again with the power cut at each of its moments.

A moment is before or after a commit of the journal, a step of the slots, or a start or stop of the application. A cut
either takes the whole device, or the agent alone, whose application lives on.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.machine import MAX_TRIALS
from protocol.phases import Outcome, Phase, Reason
from protocol.values import FirmwareRef
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_device import Device, live, no_fsync
from tests.support.simulated_world import World

Setting = Callable[["Stage"], None]
CHUNKS = 3


@dataclass
class Stage:
    """A device that runs 1.0.0 for good (copied from `template` if there is one), and its cloud."""

    directory: Path
    template: Path | None = None
    world: World = field(init=False)
    cloud: Cloud = field(init=False)
    old: FirmwareRef = field(init=False)
    new: FirmwareRef = field(init=False)

    def __post_init__(self) -> None:
        self._make()
        if self.template is not None:
            shutil.copytree(self.template, self.directory, symlinks=True)
        else:
            self.directory.mkdir(parents=True)
            live(self.world, self.cloud).power_off()
            self._make()
        assert self.world.current_digest() == self.old.digest
        with sqlite3.connect(self.directory / "journal.db") as journal:
            self.cloud.journals[journal.execute("SELECT value FROM facts WHERE name = 'journal_id'").fetchone()[0]] = (
                journal.execute("SELECT value + 0 FROM facts WHERE name = 'last_seq'").fetchone()[0]
            )
        journal.close()

    def _make(self) -> None:
        self.world, self.cloud = World(self.directory), Cloud()
        self.old, self.new = self.world.image("1.0.0"), self.world.image("1.1.0")
        self.cloud.release(self.old)


def taken(stage: Stage) -> None:
    stage.cloud.release(stage.new)


def broken(stage: Stage) -> None:
    stage.cloud.release(stage.new)
    stage.world.unhealthy.add(stage.new.digest)


def crashing(stage: Stage) -> None:
    stage.cloud.release(stage.new)
    stage.world.crashing.add(stage.new.digest)


@dataclass(frozen=True)
class Story:
    """What the cloud wants, and how it must end, however often the power goes."""

    name: str
    setting: Setting
    ends_on_new: bool


STORIES = [
    Story("an update that goes well", taken, ends_on_new=True),
    Story("a version that is not healthy", broken, ends_on_new=False),
    Story("a version that does not start", crashing, ends_on_new=False),
]


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)
    monkeypatch.setattr(os, "fdatasync", no_fsync)


def play(stage: Stage, story: Story, cuts: list[int], *, kills_agent_only: bool) -> Device:
    """Play a story with the power cut at these moments, each counted from the cut before."""
    story.setting(stage)
    stage.world.cut_at, stage.world.kills_agent_only = list(cuts), kills_agent_only
    return live(stage.world, stage.cloud, lives=len(cuts) + 2, begin=lambda _: runs_a_whole_version(stage))


def runs_a_whole_version(stage: Stage) -> None:
    assert stage.world.current_digest() in (stage.old.digest, stage.new.digest)


def check(stage: Stage, story: Story, device: Device, cuts: list[int], *, kills_agent_only: bool) -> None:
    """Check what must hold however often the power went."""
    (end,) = stage.cloud.ends()
    worn_out = end.reason is Reason.INTERRUPTED and len(cuts) >= MAX_TRIALS
    ends_on_new = story.ends_on_new and not worn_out
    # It rests, runs a version that is whole, and the one that it should.
    assert device.idle()
    assert stage.world.current_digest() == stage.world.running == (stage.new if ends_on_new else stage.old).digest
    assert not device.slots.inspect().trial
    # A version is committed only if it was proved; one that failed is remembered, and not tried again.
    assert (end.outcome, end.booted_digest) == (
        (Outcome.SUCCEEDED, stage.new.digest) if ends_on_new else (Outcome.ROLLED_BACK, None)
    )
    assert (stage.new.digest in device.journal.failed()) is not ends_on_new
    # Each attempt was told from its beginning to its one end, in an order without gaps or doubles.
    told_in_order(stage, device)
    # No chunk that was noted as verified is fetched again: at most one for each cut, which was not noted yet.
    assert not stage.world.wasted
    assert CHUNKS <= len(stage.world.fetched) <= CHUNKS + len(cuts)
    # No version is tried without end, and an agent that dies alone takes no trial with it.
    starts = stage.world.starts.count(stage.new.digest)
    assert starts <= MAX_TRIALS + (len(cuts) if ends_on_new else 0)  # what is committed starts as often as it must
    if kills_agent_only and story.ends_on_new:
        assert starts <= 1


def told_in_order(stage: Stage, device: Device) -> None:
    assert not device.journal.refused()
    assert device.journal.unacknowledged(10) == ()
    for entries in stage.cloud.attempts().values():
        phases = [item.phase for item in entries if item.outcome is None]
        assert len(set(phases)) == len(phases)
        assert phases == [phase for phase in Phase if phase in phases]
        assert [item.outcome is not None for item in entries] == [False] * len(phases) + [True]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's disk, on which 1.0.0 runs for good."""
    directory = tmp_path_factory.mktemp("stage") / "device"
    Stage(directory)
    return directory


def moments(directory: Path, template: Path, story: Story) -> int:
    """Return how many moments a story has when nothing is cut."""
    stage = Stage(directory, template)
    device = play(stage, story, [], kills_agent_only=False)
    check(stage, story, device, [], kills_agent_only=False)
    count = len(stage.world.ticked)
    device.power_off()
    return count


@pytest.mark.parametrize("kills_agent_only", [False, True], ids=["power", "agent"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
def test_a_cut_at_every_moment(tmp_path: Path, template: Path, story: Story, *, kills_agent_only: bool) -> None:
    count = moments(tmp_path / "uncut", template, story)
    assert count > 20
    for moment in range(1, count + 1):
        stage = Stage(tmp_path / str(moment), template)
        device = play(stage, story, [moment], kills_agent_only=kills_agent_only)
        try:
            check(stage, story, device, [moment], kills_agent_only=kills_agent_only)
        except AssertionError as error:
            error.add_note(f"cut at moment {moment}: {stage.world.ticked[moment - 1]}; all: {stage.world.ticked}")
            raise
        finally:
            device.power_off()


@pytest.mark.parametrize("kills_agent_only", [False, True], ids=["power", "agent"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 60), min_size=2, max_size=7))
def test_cuts_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, template: Path, story: Story, cuts: list[int], *, kills_agent_only: bool
) -> None:
    stage = Stage(tmp_path_factory.mktemp("cuts") / "device", template)
    device = play(stage, story, cuts, kills_agent_only=kills_agent_only)
    try:
        check(stage, story, device, cuts, kills_agent_only=kills_agent_only)
    finally:
        device.power_off()
        shutil.rmtree(stage.directory)


def test_a_version_that_resets_the_board_comes_back_by_itself(tmp_path: Path, template: Path) -> None:
    stage = Stage(tmp_path / "device", template)
    stage.cloud.release(stage.new)
    stage.world.resetting.add(stage.new.digest)
    device = live(stage.world, stage.cloud)
    assert stage.world.starts.count(stage.new.digest) == MAX_TRIALS
    assert stage.world.current_digest() == stage.world.running == stage.old.digest
    (end,) = stage.cloud.ends()
    assert (end.outcome, end.reason) == (Outcome.ROLLED_BACK, Reason.INTERRUPTED)
    assert stage.new.digest in device.journal.failed()
    told_in_order(stage, device)
    device.power_off()


def test_what_is_wanted_changes_while_it_is_fetched(tmp_path: Path, template: Path) -> None:
    def play_it(directory: Path, cuts: list[int]) -> tuple[Stage, Device]:
        stage = Stage(directory, template)
        stage.cloud.release(stage.new)
        newer = stage.world.image("1.2.0")
        stage.world.cut_at = list(cuts)

        def begin(device: Device) -> None:
            assert stage.world.current_digest() in (stage.old.digest, newer.digest)
            device.run(until=lambda: device.fetching.progress is not None or device.world.time > 1_800_000_200)
            if len(stage.cloud.releases) == 2:
                stage.cloud.release(newer)
                device.link.notify()

        device = live(stage.world, stage.cloud, begin=begin)
        assert device.idle()
        assert stage.world.current_digest() == stage.world.running == newer.digest
        told_in_order(stage, device)
        ends = [(end.version, end.outcome, end.reason) for end in stage.cloud.ends()]
        assert ends == [("1.1.0", Outcome.CANCELLED, Reason.SUPERSEDED), ("1.2.0", Outcome.SUCCEEDED, None)]
        assert not device.journal.failed()
        device.power_off()
        return stage, device

    count = len(play_it(tmp_path / "uncut", [])[0].world.ticked)
    for moment in range(1, count + 1):
        play_it(tmp_path / str(moment), [moment])
