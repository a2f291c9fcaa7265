"""`docs/groups.md` and `docs/fleet-phases.md`: the commands, options, queries and files that they show are real."""

import re
import shlex
from pathlib import Path

import pytest

from cloud.cli.fleet_files import read_fleet
from cloud.groups_query import MAX_COMPARISONS, MAX_DEPTH, MAX_QUERY, Query
from cloud.store.dynamic_groups import MAX_DYNAMIC, MAX_MEMBERSHIPS
from tests.support.shown import problem_with

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENTS = ("groups.md", "fleet-phases.md")
LINES = [
    (name, line.partition("  #")[0].strip())
    for name in DOCUMENTS
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fleetlift ")
]
INLINE = [
    (name, line)
    for name in DOCUMENTS
    for line in re.findall(r"`(fleetlift [^`]+)`", (DOCS / name).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("name", "line"), LINES + INLINE)
def test_every_command_and_option_that_is_shown_exists(name: str, line: str) -> None:
    assert problem_with(line) is None, name


def test_every_query_that_is_shown_can_be_read() -> None:
    lines = [shlex.split(line) for _, line in LINES + INLINE]
    queries = [words[words.index("--where") + 1] for words in lines if "--where" in words]
    assert len(queries) > 3
    for query in queries:
        Query.parse(query)


def test_the_limits_that_are_stated_hold() -> None:
    text = " ".join((DOCS / "groups.md").read_text(encoding="utf-8").split())
    assert f"has {MAX_QUERY} characters and {MAX_COMPARISONS} comparisons at most, and {MAX_DEPTH} brackets" in text
    assert f"has {MAX_DYNAMIC} groups with a query at most" in text
    assert f"is in {MAX_MEMBERSHIPS} groups at most besides `everyone`" in text


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_files_that_are_shown_can_be_read(tmp_path: Path, kind: str) -> None:
    text = (DOCS / "fleet-phases.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "fleet"
    file.write_text(block)
    fleet = read_fleet(file, "kiosk")
    assert fleet.wrong == ()
    assert fleet.devices[0]["installed"]["app"] == {"version": "1.4.0"}
