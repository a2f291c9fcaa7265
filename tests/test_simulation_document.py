"""`docs/simulation.md`: its commands run, and say what it prints."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloud.cli import fleetlift

TEXT = (Path(__file__).parents[1] / "docs" / "simulation.md").read_text(encoding="utf-8")
(COMMAND,) = re.findall(r"```sh\nfleetlift (simulate .*?)```", TEXT, re.DOTALL)
(PLAN,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
(SAID,) = re.findall(r"```\n(20000 devices.*?)```", TEXT, re.DOTALL)
(MANY,) = re.findall(r"`fleetlift (simulate [^`]+)`, all of them", TEXT)
SHOWED = re.findall(r"^\| `(--[^`]+)` \| `(--[^`]+)` \| (\d+) \| (\d+) to (\d+) \|$", TEXT, re.MULTILINE)


def said(*words: str) -> str:
    return CliRunner().invoke(fleetlift, words, catch_exceptions=False, standalone_mode=False).stdout


def test_the_command_that_is_shown_says_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first run of twenty: what the guard did in that one, and the names of what is counted over all."""
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    first = said(*shlex.split(COMMAND.replace("\\\n", " ")), "--runs", "1").splitlines()
    shown = SAID.splitlines()
    assert [line for line in shown if line.startswith("  ") and "MEAN" not in line] != []
    for line in shown:
        if re.match(r"  \d", line):  # a happening, of the first run
            assert line in first
        elif re.search(r"\s20$", line):  # a row over all runs
            name = re.split(r"\s{2,}", line)[0]
            assert any(told.startswith(f"{name}  ") for told in first), name
    assert Path("simulation.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(("release", "plan", "mean", "low", "high"), SHOWED)
def test_the_figures_of_the_table_are_those_of_today(release: str, plan: str, mean: str, low: str, high: str) -> None:
    answer = json.loads(said(*shlex.split(f"{MANY} {release} {plan}"), "-o", "json"))["bad"]["broken"]
    assert [f"{answer[name]:.0f}" for name in ("mean", "low", "high")] == [mean, low, high]


def test_every_row_of_the_table_is_read() -> None:
    _, _, table = TEXT.partition("## What it showed")
    assert len(SHOWED) == sum(line.startswith("| `") for line in table.splitlines()) > 0
