"""`docs/capabilities.md`: every capability has its row, every test that a row names exists, every command, too."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.shown import ROOTS, problem_with

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "capabilities.md"
PROMISED = {
    *(f"R{number}" for number in (*range(1, 21), *range(22, 25))),
    *(f"D{number}" for number in range(1, 21)),
    *("S1", "S2", "S3", "S4", "F1", "F2", "V1", "V2", "V3", "X1"),
    *("B1", "B2", "B3", "B6", "B7", "B8", "B10", "B11", "B12", "B13", "B14"),
}
HEAD = ("| ID | how | test |", "| --- | --- | --- |")
ROW = re.compile(r"\| (?P<id>[A-Z]\d+) \| (?P<how>.*) \| (?P<test>.*) \|")
NODE = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Each row's id, its second column, and the file and function of each test in the third."""
    found = [ROW.fullmatch(line) for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [(row["id"], row["how"], NODE.findall(row["test"])) for row in found if row]


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_promised_capability_has_one_row() -> None:
    ids = [row_id for row_id, _, _ in rows()]
    assert sorted(ids) == sorted(PROMISED)


def test_third_columns_hold_node_ids_and_nothing_else() -> None:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if row := ROW.fullmatch(line):
            assert all(NODE.fullmatch(part) for part in row["test"].split("<br>")), row["id"]


def test_every_line_of_the_tables_is_a_row() -> None:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    odd = [line for line in lines if not ROW.fullmatch(line) and line not in HEAD]
    assert odd == []


@pytest.mark.parametrize(("row_id", "tests"), [(row_id, tests) for row_id, _, tests in rows()])
def test_every_test_that_a_row_names_exists(row_id: str, tests: list[tuple[str, str]]) -> None:
    assert tests, f"{row_id} names no test"
    for file, function in tests:
        assert (REPOSITORY / file).is_file(), f"{row_id}: {file}"
        assert file.startswith("tests/")
        assert function.startswith("test_")
        assert function in functions_of(file), f"{row_id}: {file}::{function}"


@pytest.mark.parametrize(("row_id", "how"), [(row_id, how) for row_id, how, _ in rows()])
def test_every_command_and_option_that_a_row_names_exists(row_id: str, how: str) -> None:
    for quoted in re.findall(r"`([^`]+)`", how):
        if quoted.split()[0] in ROOTS:
            assert problem_with(quoted) is None, row_id
