"""Before a release reaches anybody: whom it reaches, whom not and why, and the number that has to be typed.

What is shown is the API's plan, whose hash binds the decision: if the world is another one when it is confirmed,
nothing is released, and the new plan is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Response

from cloud.api.documents import NewRelease
from cloud.api.preflight import PlannedDevice, PlanRequest, ReleasePlan, plan_release
from cloud.api.products import show_product
from cloud.api.sameness import find_same_release
from cloud.console.counts import Counts
from cloud.console.forms import CSRF_FIELD, RefusedError
from cloud.console.templating import grouped
from cloud.console.visiting import Visiting
from cloud.values import ReleaseView

A_FEW: Final = 40
"""Devices of each verdict that are named at first."""
A_PAGE: Final = 500
"""Devices of one verdict when more are asked for."""
TAKES: Final = "takes"
LOOK: Final = "look"
"""The field with which a page of a large fleet asks for what takes a while to count."""
STEPS: Final = frozenset({CSRF_FIELD, "step", "count", "plan_hash", "reach", "page", LOOK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is about to be released, and how its page speaks of it."""

    title: str
    crumbs: tuple[tuple[str, str], ...]
    action: str
    button: str
    body: Mapping[str, Any]
    says: tuple[str, ...] = ()
    plan_line: str = ""
    may_release: bool = True
    tells_same: bool = False
    """Whether it is worth a word that a release says the same already."""
    back: str = ""
    """Where it is left to; without it the form before is shown again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Devices of one verdict: how many, and some of them; `more` asks for those after them."""

    name: str
    count: int
    devices: tuple[PlannedDevice, ...]
    more: str
    is_open: bool


def ask(visit: Visiting, question: Question, *, refused: str = "") -> Response:
    """Show what a release would do, and ask whether to do it; RefusedError if it cannot be planned.

    Of a large fleet a page comes at once which says that it is being counted, and asks for the rest.
    """
    product = question.body["product"]
    visit.require("plan_release", product=product)
    if not refused and not visit.form.ticked("page") and is_to_wait(visit, product):
        return visit.page("release_review.html", question=question, plan=None, refused="", fields=_fields(visit))
    only, _, after = visit.form.text("page").partition(" ")
    request: dict[str, Any] = {"devices": True, "limit": A_PAGE if only else A_FEW, "after": after}
    body = dict(question.body) | request | ({"verdict": only} if only else {})
    plan = visit.do(
        "plan_release", lambda: plan_release(visit.server, visit.name, PlanRequest(**body)), product=product
    )
    reach = plan.counts.get(TAKES, 0)
    return visit.page(
        "release_review.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        question=question,
        plan=plan,
        reach=reach,
        devices=sum(plan.counts.values()),
        verdicts=_verdicts(plan, only),
        typed=has_to_type(visit, reach),
        fields=_fields(visit),
        refused=refused,
        same=_same(visit, question) if question.tells_same else None,
    )


def is_to_wait(visit: Visiting, product: str) -> bool:
    """Whether a fleet is so large that its page comes first, and the count after it; that was not asked for yet."""
    counts: Counts = visit.request.app.state.counts
    return not visit.form.ticked(LOOK) and counts.is_large(show_product(visit.server, product))


def _fields(visit: Visiting) -> list[tuple[str, str]]:
    return [(name, text) for name, texts in visit.form.fields.items() if name not in STEPS for text in texts]


def _same(visit: Visiting, question: Question) -> ReleaseView | None:
    found = visit.do(
        "find_same_release",
        lambda: find_same_release(visit.server, NewRelease(**question.body)),
        product=question.body["product"],
    )
    return found.same.release if found.same else None


def has_to_type(visit: Visiting, reach: int) -> bool:
    """Whether so many devices are too many for a click."""
    return reach > visit.server.settings.console.confirm_above


def check_typed(visit: Visiting, reach: int) -> None:
    """Raise RefusedError unless the number of devices was typed, where there are many."""
    typed = visit.form.text("count").replace(" ", "").replace("\N{NARROW NO-BREAK SPACE}", "").replace(",", "")
    if has_to_type(visit, reach) and typed != str(reach):
        said = f"You typed {typed[:20]!r}" if typed else "The number of devices was not typed"
        raise RefusedError(f"{said}, and it reaches {grouped(reach)}. Nothing was released; type the number to go on.")


def check_confirmed(visit: Visiting) -> str:
    """Return the hash of the plan that was shown; raises RefusedError unless its number was typed.

    Whether the world is still as that plan says is checked with the deed, which is held to the hash.
    """
    check_typed(visit, visit.form.number("reach", 0) or 0)
    return visit.form.text("plan_hash")


def _verdicts(plan: ReleasePlan, only: str) -> list[Verdicts]:
    by_name: dict[str, list[PlannedDevice]] = {}
    for device in plan.devices or ():
        by_name.setdefault(device.verdict, []).append(device)
    return [
        Verdicts(
            name=name,
            count=count,
            devices=tuple(some := by_name.get(name, [])),
            more=f"{name} {some[-1].device_id}" if len(some) in (A_FEW, A_PAGE) and len(some) < count else "",
            is_open=name == (only or TAKES),
        )
        for name, count in sorted(plan.counts.items(), key=lambda it: (it[0] != TAKES, -it[1]))
    ]
