"""Each story of a rollout comes out as it is written: plans, gates, holds, mishaps, and what people complain of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cloud.scenario_stories import write_back
from tests.cloud.scenario_world import make_template

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
PAINS = {
    "finished_with_nobody",
    "stuck_in_progress",
    "never_returns",
    "partial_release_open",
    "nobody_reached",
    "negative_counts",
    "flips_back",
    "cancel_ignored",
    "duplicate_installs",
    "two_rollouts",
    "group_edited",
    "clocks",
}
"""What users of other platforms report; each has a story of its own."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("scenarios") / "template.db")


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_comes_out_as_it_is_written(path: Path, template: Path, tmp_path: Path) -> None:
    told = path.read_text()

    assert write_back(told, template, tmp_path) == told


def test_there_are_many_stories_and_they_can_be_reviewed() -> None:
    assert len(STORIES) >= 40
    assert {path.stem for path in STORIES} >= PAINS
    assert all(len(path.read_text().splitlines()) <= 60 for path in STORIES)


def test_a_story_that_is_not_true_is_seen(template: Path, tmp_path: Path) -> None:
    told = (Path(__file__).parent / "scenarios" / "pinned.txt").read_text()

    assert write_back(told.replace("of 4: 3 installed", "of 4: 4 installed"), template, tmp_path) == told
