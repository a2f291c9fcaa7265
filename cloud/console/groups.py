"""Groups: in their order, by hand or by a query that is counted as it is typed; and the sets that take turns."""

from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.devices import list_devices
from cloud.api.documents import GroupChange, MembersChange, MembersChanged, NewGroup, QueryTrial, TrialPage
from cloud.api.groups import (
    change_group,
    change_members,
    create_group,
    delete_group,
    explain_match,
    list_groups,
    show_group,
    try_query,
)
from cloud.api.products import list_products
from cloud.api.redundancy import list_sets
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.values import GroupMatch, GroupView
from protocol.identity import EVERYONE

SHOWN: Final = 12
"""Devices of a group, or of a query, that are named."""
LISTED: Final = 24

router = APIRouter(include_in_schema=False)


def group_path(product: str, group: str, *more: str) -> str:
    """Return the address of a group's page, or of one below it."""
    return "/".join(["/groups", quote(product, safe=""), quote(group, safe=""), *more])


@router.get("/groups")
def show_groups(visit: Visit) -> Response:
    """Show every product's groups by rank, and the redundancy sets."""
    visit.require("list_groups")
    groups: dict[str, list[GroupView]] = {it.product: [] for it in list_products(visit.server, visit.caller)}
    for view in list_groups(visit.server, visit.caller):
        groups.setdefault(view.product, []).append(view)
    return visit.page(
        "groups.html",
        groups=groups,
        sets=list_sets(visit.server, visit.caller),
        may_make={product for product in groups if visit.may(Role.RELEASE_MANAGER, product)},
        may_make_sets=visit.caller.may_anywhere(Role.RELEASE_MANAGER),
        everyone=EVERYONE,
        line=line,
    )


@router.get("/groups/new")
def show_new(visit: Visit) -> Response:
    """Show the form of a new group."""
    visit.require("list_groups")
    given = {name: visit.asked(name) for name in ("product", "group", "rank", "query", "device_id")}
    return _form(visit, given, tried=bool(given["query"]))


@router.post("/groups/count")
def count_new(visit: Visit) -> Response:
    """Show the form again with what its query finds: for those without scripts."""
    return _form(visit, _typed(visit), tried=True)


@router.post("/groups/new")
def make(visit: Visit) -> Response:
    """Make a group."""
    typed = _typed(visit)
    form, by_query = visit.form, visit.form.text("query")
    try:
        body = visit.do(
            "create_group",
            lambda: NewGroup(
                product=form.text("product"), group=form.text("group"), rank=form.number("rank"), query=by_query or None
            ),
        )
        made = visit.do("create_group", lambda: create_group(visit.server, visit.name, body))
    except RefusedError as error:
        return _form(visit, typed, said=error, tried=bool(by_query))
    words = ["--where", by_query] if by_query else []
    return visit.go(
        group_path(made.product, made.group),
        f"Group {made.group} is made, at rank {made.rank}, with {made.devices} devices.",
        cli=line("group", "create", made.group, "--product", made.product, "--rank", made.rank, *words),
    )


@router.get("/groups/trial")
def show_trial(visit: Visit) -> Response:
    """Show what a query finds now: it is asked for as it is typed."""
    visit.require("try_query", product=visit.asked("product"))
    found, said = _try(visit, visit.asked("product"), visit.asked("query"), visit.asked("device_id"))
    return visit.page("group_trial.html", found=found, refused=said)


@router.get("/groups/{product}/{group}")
def show_one(visit: Visit, product: str, group: str) -> Response:
    """Show a group, and what can be done with it."""
    return _page(visit, product, group)


@router.post("/groups/{product}/{group}/count")
def count_again(visit: Visit, product: str, group: str) -> Response:
    """Show what another query would find: for those without scripts."""
    return _page(visit, product, group, typed=visit.form.text("query"), device=visit.form.text("device_id"))


@router.post("/groups/{product}/{group}/query")
def set_query(visit: Visit, product: str, group: str) -> Response:
    """Choose a group's devices by another query."""
    query = visit.form.text("query")
    try:
        found = visit.do(
            "change_group",
            lambda: change_group(visit.server, visit.name, product, group, GroupChange(query=query)),
            product=product,
        )
    except RefusedError as error:
        return _page(visit, product, group, typed=query, said=error)
    cli = line("group", "where", group, query, "--product", product)
    return visit.go(group_path(product, group), f"Group {group} has {found.devices} devices now.", cli=cli)


@router.post("/groups/{product}/{group}/rank")
def set_rank(visit: Visit, product: str, group: str) -> Response:
    """Move a group to another rank."""
    rank = visit.form.text("rank")
    return visit.act(
        "change_group",
        lambda: change_group(
            visit.server, visit.name, product, group, GroupChange(rank=visit.form.number("rank", default=0))
        ),
        to=group_path(product, group),
        said=lambda found: f"Group {group} is at rank {found.rank}.",
        cli=line("group", "rank", group, rank, "--product", product),
        product=product,
    )


@router.post("/groups/{product}/{group}/members")
def set_members(visit: Visit, product: str, group: str) -> Response:
    """Put devices in, or take them out."""
    devices = list(visit.form.words("devices"))
    adds = visit.form.text("deed") == "add"

    def deed() -> MembersChanged:
        if not devices:
            raise RefusedError("No device was named. Nothing was changed; write the ids of some.")
        body = MembersChange(add=devices) if adds else MembersChange(remove=devices)
        return change_members(visit.server, visit.caller, product, group, body)

    return visit.act(
        "change_members",
        deed,
        to=group_path(product, group),
        said=lambda done: f"{done.added} devices are new in {group}." if adds else f"{done.removed} left {group}.",
        cli=line("group", "add" if adds else "remove", group, *devices[:SHOWN], "--product", product),
        product=product,
    )


@router.post("/groups/{product}/{group}/delete")
def delete(visit: Visit, product: str, group: str) -> Response:
    """Delete a group."""
    try:
        visit.do("delete_group", lambda: delete_group(visit.server, visit.name, product, group), product=product)
    except RefusedError as error:
        return visit.go(group_path(product, group), str(error), kind="error", code=error.code)
    cli = line("group", "delete", group, "--product", product, "--yes")
    return visit.go("/groups", f"Group {group} of {product} is deleted.", cli=cli)


def _typed(visit: Visiting) -> dict[str, str]:
    return {name: visit.form.text(name) for name in ("product", "group", "rank", "query", "device_id")}


def _form(visit: Visiting, given: dict[str, str], *, said: RefusedError | None = None, tried: bool = False) -> Response:
    names = [it.product for it in list_products(visit.server, visit.caller)]
    products = [it for it in names if visit.may(Role.RELEASE_MANAGER, it)]
    chosen = given["product"] if given["product"] in names else next(iter(products), "")
    found, refused = None, ""
    if tried and chosen:
        found, refused = _try(visit, chosen, given["query"], given["device_id"])
    words = ["--where", given["query"]] if given["query"] else []
    return visit.page(
        "group_new.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        given=given | {"product": chosen},
        products=products,
        options=[(it, it) for it in products],
        found=found,
        refused="" if said else refused,
        said=said,
        create_line=line("group", "create", given["group"] or "NAME", "--product", chosen or "PRODUCT", *words),
    )


def _try(visit: Visiting, product: str, query: str, device: str) -> tuple[TrialPage | None, str]:
    """Return what a query finds, or why it cannot be read; nothing for an empty one."""
    if not query:
        return None, ""
    try:
        body = visit.do(
            "try_query",
            lambda: QueryTrial(query=query, device_id=device or None, limit=SHOWN),
            product=product,
        )
        return visit.do("try_query", lambda: try_query(visit.server, visit.caller, product, body), product=product), ""
    except RefusedError as error:
        return None, str(error)


def _page(
    visit: Visiting,
    product: str,
    group: str,
    *,
    typed: str | None = None,
    device: str = "",
    said: RefusedError | None = None,
) -> Response:
    visit.require("show_group", product=product)
    server, caller = visit.server, visit.caller
    shown = show_group(server, product, group, members=False).group
    found, refused = (None, "") if typed is None else _try(visit, product, typed, device)
    asked = visit.asked("device")
    match, why_not = _match(visit, shown, asked)
    return visit.page(
        "group.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        group=shown,
        typed=shown.query if typed is None else typed,
        device_typed=device,
        found=found,
        refused="" if said else refused,
        said=said,
        ranks=show_group(server, product, EVERYONE, members=False).group.rank,
        members=list_devices(server, caller, product=product, group=group, limit=LISTED).devices,
        asked=asked,
        match=match,
        why_not=why_not,
        everyone=EVERYONE,
        may_change=visit.may(Role.RELEASE_MANAGER, product) and group != EVERYONE,
        may_fill=visit.may(Role.OPERATOR, product) and group != EVERYONE,
        line=lambda *words: line("group", words[0], group, *words[1:], "--product", product),
    )


def _match(visit: Visiting, group: GroupView, device_id: str) -> tuple[GroupMatch | None, str]:
    """Return whether a device is in a group and what its query saw of it, or why that cannot be told."""
    if not device_id:
        return None, ""
    try:
        found = visit.do(
            "explain_match",
            lambda: explain_match(visit.server, visit.caller, group.product, group.group, device_id),
            product=group.product,
        )
    except RefusedError as error:
        return None, str(error)
    return found, ""
