"""Pages from templates: everything that is filled in is escaped, and a name that nobody filled in is an error."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cloud.console import assets
from cloud.manual import Manual

TEMPLATES: Final = Path(__file__).parent / "templates"
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def answer(
    request: Request, template: str, context: Mapping[str, Any], *, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    """Return a page; `name.html#block` returns the block of that name alone."""
    name, _, block = template.partition("#")
    page = _ENVIRONMENT.get_template(name)
    values = {"request": request} | dict(context)
    if block:
        filled = page.new_context(values)
        text = _ENVIRONMENT.concat(page.blocks[block](filled))
    else:
        text = page.render(values)
    return HTMLResponse(text, status.value, headers={"Cache-Control": "no-store"})


def when(at_ms: int | None, *, nothing: str = "never") -> Markup:
    """Return milliseconds since 1970 as a time that the page shows in the reader's zone, and exactly on hover."""
    if not at_ms:
        return Markup('<span class="muted">{}</span>').format(nothing)
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):  # a device's clock may say anything
        return escape(f"{at_ms} ms")
    exact = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = moment.strftime("%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}" title="{}" data-local>{}</time>').format(exact, exact, shown)


def lasting(seconds: float | None) -> str:
    """Return a duration as people say it: its two largest units."""
    if seconds is None:
        return "-"
    rest, said = int(seconds), list[str]()
    for unit, length in _UNITS:
        if rest >= length or (unit == "s" and not said):
            said.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(said[:2])


def size(size_bytes: int) -> str:
    """Return a number of bytes as a person reads it."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{grouped(amount)} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def grouped(number: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts, in the right number."""
    return f"{grouped(number)} {noun}{'' if number == 1 else 's'}"


def words(name: object) -> str:
    """Return a name of the vocabulary as words."""
    return str(getattr(name, "value", name)).replace("_", " ")


def printable(value: object) -> str:
    """Return a text of a device without control characters: they may stand in logs, not in pages."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))


def query_with(request: Request, **changes: object) -> str:
    """Return the page's own address with some of its query changed; None and nothing take a part away."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changes]
    added = [(name, str(value)) for name, value in changes.items() if value not in (None, "")]
    return f"{request.url.path}?{urlencode(kept + added)}"


def explain(request: Request, code: object, kind: str = "") -> str:
    """Return where the documents explain a code of the API, or with `kind` a `reason` or a `wait`."""
    manual: Manual = request.app.state.manual
    return manual.explain(str(getattr(code, "value", code)), kind)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"],
    )
    environment.filters.update(
        when=when,
        lasting=lasting,
        size=size,
        grouped=grouped,
        counted=counted,
        words=words,
        printable=printable,
        part=_part,
    )
    environment.globals.update(static=assets.address, query_with=query_with, explain=explain)
    return environment


def _part(value: object) -> str:
    """Return a text as one part of an address."""
    return quote(str(value), safe="")


_ENVIRONMENT: Final = _environment()

__all__ = ["answer", "explain", "grouped", "lasting", "printable", "query_with", "size", "unquote", "when", "words"]
