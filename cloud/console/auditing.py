"""The record of decisions: found by who, what and when, each with what it changed; and whether the hashes agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Response

from cloud.api.people import list_people
from cloud.api.system import export_audit, list_audit, show_audit_head
from cloud.auditing import canonical
from cloud.console.counts import Counts
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.values import AuditView

A_PAGE: Final = 50
MS: Final = "_ms"
MAX_MS: Final = 253_402_300_800_000
"""The year 10000, beyond which there are no dates."""
MAX_SHOWN: Final = 300
"""Characters of a value; the whole of it is in the export."""
FEW: Final = 6
"""Changes of a decision that are shown at once."""
FILTERS: Final = ("actor", "action", "subject", "since", "until")
PLACES: Final[Mapping[str, str]] = {
    "device": "/devices/{}",
    "release": "/releases/{}",
    "group": "/groups/{}",
    "firmware": "/firmware/{}",
    "product": "/products/{}",
    "person": "/people/{}",
    "set": "/sets/{}",
    "webhook": "/settings/webhooks/{}",
    "enrolment-token": "/enrolment",
}
"""Where what a decision is about has its page, by what its subject begins with."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a decision changed; None where there was nothing, or is nothing any more."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A row, what it changed, and where what it is about has its page."""

    row: AuditView
    changes: tuple[Change, ...]
    href: str


@router.get("/audit")
def show_audit(visit: Visit) -> Response:
    """Show decisions, the newest first."""
    visit.require("list_audit")
    asked = {name: visit.asked(name) for name in FILTERS}
    wrong = [name for name in ("since", "until") if asked[name] and _moment_ms(asked[name]) is None]
    rows = () if wrong else _rows(visit, asked)
    shown = rows[:A_PAGE]
    given = [(name, asked[name]) for name in FILTERS if asked[name]]
    older = [*given, ("before", str(shown[-1].number))] if len(rows) > A_PAGE else []
    return visit.page(
        "audit.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK,
        asked=asked,
        wrong=wrong,
        few=FEW,
        decisions=[_decision(it) for it in shown],
        names=[it.name for it in list_people(visit.server, visit.caller)],
        first="/audit?" + urlencode(given) if visit.asked("before") else "",
        next="/audit?" + urlencode(older) if older else "",
        list_line=_line(asked),
        line=line,
        **_chain(visit),
    )


@router.get("/audit/chain")
def show_chain(visit: Visit) -> Response:
    """Show whether the hashes agree."""
    visit.require("show_audit_head")
    return visit.page("audit_chain.html", line=line, **_chain(visit))


@router.get("/audit/export")
def export(visit: Visit) -> Response:
    """Send the whole record as a file, for `fleetlift audit verify`."""
    visit.require("export_audit")
    answer = export_audit(visit.server)
    answer.headers["Content-Disposition"] = 'attachment; filename="audit.jsonl"'
    return answer


def changes_of(before: Any, after: Any) -> tuple[Change, ...]:
    """Return what differs between two values of JSON, field by field."""
    was, now = _fields(before), _fields(after)
    names = dict.fromkeys([*was, *now])
    return tuple(
        Change(name.removesuffix(MS).replace("_", " "), was.get(name), now.get(name))
        for name in names
        if was.get(name) != now.get(name)
    )


def _fields(value: Any, name: str = "") -> dict[str, str]:
    """Return a value's fields by name; what is in a field's field is named with both."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        is_time = name.endswith(f"at{MS}") and isinstance(value, int) and 0 <= value < MAX_MS
        return {name: _time(value) if is_time else _text(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _fields(inner, f"{name} {key}".strip())
    return found


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(it, str | int) for it in value):
        text = ", ".join(map(str, value)) or "none"
    else:
        text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _decision(row: AuditView) -> Decision:
    return Decision(row=row, changes=changes_of(row.before, row.after), href=_href(row.subject))


def _href(subject: str) -> str:
    kind, _, rest = subject.partition("/")
    if kind not in PLACES or not rest:
        return ""
    return PLACES[kind].format(quote(rest))


def _rows(visit: Visiting, asked: Mapping[str, str]) -> tuple[AuditView, ...]:
    before = visit.asked("before")
    subject = asked["subject"]
    whole = bool(subject) and not subject.endswith(("/", "*"))
    return list_audit(
        visit.server,
        actor=asked["actor"] or None,
        action=asked["action"] or None,
        subject=subject if whole else None,
        prefix=subject.rstrip("*") if subject and not whole else None,
        since_ms=_moment_ms(asked["since"]),
        until_ms=_moment_ms(asked["until"]),
        before=int(before) if before.isdecimal() and len(before) < 16 else None,
        newest=True,
        limit=A_PAGE + 1,
    )


def _moment_ms(text: str) -> int | None:
    """Return a day or a time in UTC as milliseconds, None for one that is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


def _chain(visit: Visiting) -> dict[str, Any]:
    visit.require("verify_audit")
    counts: Counts = visit.request.app.state.counts
    found = counts.chain()
    return {
        "head": show_audit_head(visit.server),
        "verdict": None if found is None else found[0],
        "checked_at_ms": 0 if found is None else found[1],
    }


def _line(asked: Mapping[str, str]) -> str:
    subject = asked["subject"]
    is_prefix = subject.endswith(("/", "*"))
    options = (
        ("--actor", asked["actor"]),
        ("--action", asked["action"]),
        ("--prefix" if is_prefix else "--subject", subject.rstrip("*")),
        ("--since", asked["since"]),
        ("--until", asked["until"]),
    )
    return line("audit", "list", *(word for name, value in options if value for word in (name, value)))
