"""The troubleshooting catalogue, which refusals lead to, as a page of every server: it needs neither login nor network.

It stands where the site of all documents has it, which takes its place where `docs_dir` names one.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from cloud.console import templating
from cloud.manual import CATALOGUE, PATH, slug

PAGE: Final = f"{PATH}/{CATALOGUE}.html"
PLACES: Final = (
    Path(__file__).parent / f"{CATALOGUE}.md",  # in a wheel
    Path(__file__).parents[2] / "docs" / f"{CATALOGUE}.md",  # in a checkout
)

router = APIRouter()


@router.get(PAGE)
def show_catalogue(request: Request) -> Response:
    """Show every code, each at an anchor of its own."""
    return templating.answer(request, "catalogue.html", {"text": _page()})


@router.get(PATH)
@router.get(f"{PATH}/")
def to_catalogue() -> Response:
    """Lead to what there is of the documents here."""
    return RedirectResponse(PAGE)


@cache
def _page() -> Markup:
    path = next((it for it in PLACES if it.is_file()), PLACES[0])
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(path.read_text(encoding="utf-8"))
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            before.attrSet("id", slug("".join(it.content for it in token.children or ())))
        if token.type == "inline":
            token.children = _at_home(token.children or [])
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 - a page of ours, read without HTML


def _at_home(children: list[Token]) -> list[Token]:
    """Return a text without the links to documents that are not here; those within the page stay."""
    kept: list[Token] = []
    outside = False
    for child in children:
        if child.type == "link_open":
            outside = not str(child.attrGet("href")).startswith("#")
        if not (outside and child.type in ("link_open", "link_close")):
            kept.append(child)
        if child.type == "link_close":
            outside = False
    return kept
