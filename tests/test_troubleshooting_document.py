"""docs/troubleshooting.md has every code that the code can say and nothing else; each entry says what to do."""

import re
from pathlib import Path

import pytest

from tests.support import codes

DOCUMENT = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
HEADING = re.compile(
    r"^### (?:`(?P<plain>\w+)`|(?P<kind>[A-Z]\w+): (?P<code>\w+))\n(?P<text>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL
)
ENTRIES = [
    ((found["kind"] or "").lower(), found["plain"] or found["code"], found["text"]) for found in HEADING.finditer(TEXT)
]
SAID = codes.catalogue()


@pytest.mark.parametrize("kind", SAID)
def test_every_code_is_in_the_catalogue_and_nothing_else_is(kind: str) -> None:
    listed = [code for found, code, _ in ENTRIES if found == kind]
    assert sorted(listed) == sorted(SAID[kind])


def test_no_place_says_a_code_that_cannot_be_read() -> None:
    assert codes.strangers([*codes.server(), *codes.messages()]) == []


def test_no_place_is_excused_that_is_not_there() -> None:
    there = {(it.path, it.expression) for it in [*codes.server(), *codes.messages()] if it.code is None}
    assert sorted(set(codes.PASSED_ON) - there) == []


def test_every_heading_is_an_entry() -> None:
    assert TEXT.count("\n### ") == len(ENTRIES) > 100


@pytest.mark.parametrize(("kind", "code", "text"), ENTRIES, ids=lambda value: value if len(value) < 30 else "")
def test_each_entry_says_what_to_do(kind: str, code: str, text: str) -> None:
    assert "**Do:**" in text
    assert kind not in ("", "reason") or "**Unchanged:**" in text
