"""The site of the documents: built without a warning, all its links lead somewhere, and it has what the code has."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from bs4 import BeautifulSoup

from cloud.access.rules import RULES
from cloud.cli import fleetlift
from cloud.config import OperatorContext, Settings
from device_agent.cli import main as fleetlift_agent
from docs.generating.commands import walk
from docs.generating.machine_picture import PICTURE, picture
from tests.support.codes import catalogue

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-a", "-W", "--keep-going", "-b", "html", "-d"]
    built = subprocess.run(
        [*command, str(target / "doctrees"), "docs", str(target / "html")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return target / "html"


@cache
def parsed(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(str(it["id"]) for it in parsed(page).find_all(id=True))


def broken(page: Path) -> Iterator[str]:
    """The links of a page to this site that lead nowhere, and whatever it would load from elsewhere."""
    for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
        for found in parsed(page).find_all(tag, attrs={attribute: True}):
            link = str(found[attribute])
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if tag != "a":
                    yield f"loads {link}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and target.suffix == ".html" and fragment not in anchors(target)):
                yield link


def test_all_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "troubleshooting.html"} <= {page.name for page in pages}
    found = {str(page.relative_to(site)): list(broken(page)) for page in pages}
    assert {name: links for name, links in found.items() if links} == {}


def test_every_document_is_a_page(site: Path) -> None:
    pages = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")} <= pages


def test_every_code_has_an_anchor_of_its_own(site: Path) -> None:
    there = anchors(site / "troubleshooting.html")
    for kind, codes in catalogue().items():
        assert {f"{kind}-{code}" if kind else code for code in codes} <= there


@pytest.mark.parametrize(("root", "page"), [(fleetlift, "cli"), (fleetlift_agent, "agent-cli")])
def test_every_command_and_option_is_in_the_reference(site: Path, root: click.Group, page: str) -> None:
    text = parsed(site / "reference" / f"{page}.html").get_text()
    name = "fleetlift" if root is fleetlift else "fleetlift-agent"
    for context, command in walk(root, name, None):
        assert context.command_path in text
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in text, f"{context.command_path} {parameter.opts[0]}"


def test_every_operation_of_the_api_is_in_the_reference_with_its_role(site: Path) -> None:
    text = parsed(site / "reference" / "api.html").get_text()
    assert [operation for operation in RULES if f"Operation: {operation}." not in text] == []


def test_every_setting_of_the_server_is_in_the_reference_with_what_it_is(site: Path) -> None:
    rows = [
        [cell.get_text().strip() for cell in row.find_all("td")]
        for row in parsed(site / "reference" / "server-settings.html").find_all("tr")
        if row.find("td")
    ]
    keys = [key for section in Settings.model_fields.values() for key in _fields(section.annotation)]
    assert sorted(row[0] for row in rows) == sorted([*keys, *OperatorContext.model_fields])
    assert [row[0] for row in rows if not row[3]] == []


def _fields(section: object) -> list[str]:
    return list(getattr(section, "model_fields"))  # noqa: B009 - every section is a model


def test_the_picture_is_that_of_the_machines_table() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(), "draw it anew: python -m docs.generating.machine_picture"
