"""`docs/threat-model.md`: every test that it names exists, and every attack has its place in it."""

import ast
import re
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "threat-model.md"
NODE = re.compile(r"`([\w/]+\.py)::(\w+)`")
ATTACKERS = (
    *("The network", "The broker", "The cloud", "One release manager", "One root key holder", "One device"),
    *("The thief of a device", "The operator's laptop", "Anybody who reaches the API", "A dependency"),
)


def named() -> set[tuple[str, str]]:
    """File and function of each test that the page names."""
    return set(NODE.findall(DOCUMENT.read_text(encoding="utf-8")))


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_test_that_the_page_names_exists() -> None:
    assert len(named()) > 50
    for file, function in sorted(named()):
        assert (REPOSITORY / file).is_file(), file
        assert function in functions_of(REPOSITORY / file), f"{file}::{function}"


def test_every_attack_has_its_place_in_the_page() -> None:
    here = Path(__file__)
    files = [path for path in sorted(here.parent.glob("test_*.py")) if path != here]
    found = {
        (str(path.relative_to(REPOSITORY)), name)
        for path in files
        for name in functions_of(path)
        if name.startswith("test_")
    }
    assert found - named() == set()


def test_every_attacker_has_a_section_that_says_what_he_can_do() -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = {section.partition("\n")[0]: section for section in sections}
    assert set(ATTACKERS) <= set(texts)
    for attacker in ATTACKERS:
        assert re.search(r"\*\*Can\*\*|can do what|Can\*\*, ", texts[attacker]), attacker


def test_every_row_of_its_tables_names_a_test() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    claims = [row for row in rows if row.count("|") == 3 and "shown by" not in row and "---" not in row]
    assert len(claims) > 30
    assert [row for row in claims if not NODE.search(row)] == []


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert not file or (DOCUMENT.parent / file).is_file(), target
        assert file or anchor in anchors, target
