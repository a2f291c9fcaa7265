"""docs/architecture.md shows the machine as its tables have it, and names rooms that are there."""

import re
from pathlib import Path

from tests.support.state_diagram import DOCUMENT, renewed

REPOSITORY = Path(__file__).parents[1]


def test_the_diagram_is_that_of_the_tables() -> None:
    text = DOCUMENT.read_text()
    assert text == renewed(text), "renew it: python -m tests.support.state_diagram"


def test_every_link_leads_somewhere() -> None:
    for document in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
