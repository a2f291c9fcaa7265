"""Every command that any document shows exists, with the options that it is shown with; also every test it names."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.shown import problem_with, shown_in

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
NODE = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_that_is_shown_exists(document: Path) -> None:
    wrong = {line: why for line in shown_in(document) if (why := problem_with(line))}
    assert wrong == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_test_that_is_named_is_there(document: Path) -> None:
    for file, name in sorted(set(NODE.findall(document.read_text(encoding="utf-8")))):
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_a_wrong_command_is_seen() -> None:
    assert problem_with("fleetlift release push IMAGE --immediate") is None
    assert problem_with("fleetlift release pusch IMAGE") is not None
    assert problem_with("fleetlift release push IMAGE --immediatly") is not None
    assert problem_with("fleetlift-agent hold --why X -- tar --create") is None
