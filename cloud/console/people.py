"""People: who may do what, with what they log in, and the tokens that programs use in their name."""

from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Response

from cloud.access.passwords import MIN_PASSWORD
from cloud.access.roles import EVERYTHING, Role
from cloud.api.people import (
    Grant,
    NewPassword,
    NewPerson,
    PersonChange,
    add_person,
    change_person,
    list_people,
    set_grant,
    set_password,
    show_person,
    withdraw_grant,
)
from cloud.api.products import list_products
from cloud.api.tokens import NewToken, create_token, list_tokens, revoke_token
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.people import PersonView
from cloud.store.errors import NotFoundError
from cloud.values import TokenView

DAYS: Final = (("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "ever"))
ROLES: Final = tuple((it.value, it.value.replace("_", " ")) for it in Role)
DAY_S: Final = 86_400

router = APIRouter(include_in_schema=False)


def person_path(name: str, *more: str) -> str:
    """Return the address of somebody's page, or of one below it."""
    return "/".join(["/people", quote(name, safe=""), *more])


@router.get("/people")
def show_people(visit: Visit) -> Response:
    """Show people, and what they may do."""
    return _people(visit)


@router.post("/people")
def add(visit: Visit) -> Response:
    """Make somebody known."""
    form = visit.form
    name, role, product = form.text("name"), form.text("role"), form.text("product")
    try:
        body = visit.do(
            "add_person",
            lambda: NewPerson.model_validate({"name": name, "grants": {product or EVERYTHING: role} if role else {}}),
        )
        visit.do("add_person", lambda: add_person(visit.server, visit.name, body))
    except RefusedError as error:
        return _people(visit, given={"name": name, "role": role, "product": product}, said=error)
    cli = line("person", "add", name, *(("--role", role, *_where(product)) if role else ()))
    return visit.go(person_path(name), f"{name} is known. Next: a password, or a token.", cli=cli)


@router.get("/people/{name}")
def show_one(visit: Visit, name: str) -> Response:
    """Show one person, and what can be done about them."""
    return _page(visit, name)


@router.post("/people/{name}/grants")
def grant(visit: Visit, name: str) -> Response:
    """Give a role."""
    product, role = visit.form.text("product") or EVERYTHING, visit.form.text("role")
    return visit.act(
        "set_grant",
        lambda: set_grant(visit.server, visit.name, name, product, Grant.model_validate({"role": role})),
        to=person_path(name),
        said=f"{name} is {role.replace('_', ' ')} {_place(product)}.",
        cli=line("person", "grant", name, role, *_where(product)),
        name=name,
        product=product,
    )


@router.post("/people/{name}/withdraw")
def withdraw(visit: Visit, name: str) -> Response:
    """Take a role away."""
    product = visit.form.text("product")
    return visit.act(
        "withdraw_grant",
        lambda: withdraw_grant(visit.server, visit.name, name, product),
        to=person_path(name) if name != visit.name else "/people",
        said=f"{name} has no role of their own {_place(product)} any more.",
        cli=line("person", "withdraw", name, *_where(product)),
        name=name,
        product=product,
    )


@router.post("/people/{name}/disable")
def disable(visit: Visit, name: str) -> Response:
    """Shut somebody out."""
    return visit.act(
        "change_person",
        lambda: change_person(visit.server, visit.name, name, PersonChange(disabled=True)),
        to=person_path(name),
        said=f"{name} is shut out: sessions are ended, and tokens open nothing.",
        cli=line("person", "disable", name, "--yes"),
        name=name,
    )


@router.post("/people/{name}/enable")
def enable(visit: Visit, name: str) -> Response:
    """Let somebody in again."""
    return visit.act(
        "change_person",
        lambda: change_person(visit.server, visit.name, name, PersonChange(disabled=False)),
        to=person_path(name),
        said=f"{name} may come in again, with the roles and tokens that they had.",
        cli=line("person", "enable", name),
        name=name,
    )


@router.post("/people/{name}/password")
def change_password(visit: Visit, name: str) -> Response:
    """Set a password, or take it away."""
    form, own = visit.form, name == visit.name
    removes = form.text("deed") == "remove"
    new, again = form.secret("password"), form.secret("again")
    if not removes and new != again:
        differ = RefusedError("The two are not the same. Nothing was changed; type the new password twice.")
        return _page(visit, name, said=differ)
    try:
        body = visit.do(
            "set_password",
            lambda: NewPassword(password=None if removes else new, current=form.secret("current") if own else None),
            name=name,
        )
        visit.do(
            "set_password",
            lambda: set_password(visit.server, visit.request, visit.caller, name, body),
            name=name,
        )
    except RefusedError as error:
        return _page(visit, name, said=error)
    cli = line("person", "password", *(() if own else (name,)), *(("--remove",) if removes else ()))
    said = f"{name} has no password any more." if removes else f"{name} logs in with the new password from now on."
    return visit.go("/login?next=" + quote(person_path(name)) if own else person_path(name), said, cli=cli)


@router.post("/people/{name}/tokens")
def make_token(visit: Visit, name: str) -> Response:
    """Make a token, and show its text this once: it goes into no cookie and no log."""
    form = visit.form
    given = {it: form.text(it) for it in ("token", "role", "product", "days")}
    days = given["days"]
    try:
        lifetime_s = (form.number("days") or 0) * DAY_S
        body = visit.do(
            "create_token",
            lambda: NewToken.model_validate(
                {
                    "name": given["token"],
                    "person": name,
                    "role": given["role"] or None,
                    "product": given["product"] or None,
                    "lifetime_s": lifetime_s or None,
                }
            ),
        )
        made = visit.do("create_token", lambda: create_token(visit.server, visit.caller, body))
    except RefusedError as error:
        return _page(visit, name, said=error, given=given)
    options = (
        ("--person", name if name != visit.name else ""),
        ("--role", given["role"]),
        ("--product", given["product"]),
        ("--expires", f"{days}d" if days else ""),
    )
    words = (word for option, value in options if value for word in (option, value))
    return visit.page(
        "token.html", made=made, person=name, path_back=person_path(name), create_line=_create(made.token.name, *words)
    )


@router.post("/people/{name}/tokens/{token}/revoke")
def revoke(visit: Visit, name: str, token: str) -> Response:
    """Take a token away."""
    return visit.act(
        "revoke_token",
        lambda: revoke_token(visit.server, visit.name, token),
        to=person_path(name) + "#tokens",
        said=f"The token {token} opens nothing any more.",
        cli=line("api-token", "revoke", token, "--yes"),
        name=token,
    )


def _create(name: str, *words: str) -> str:
    return line("api-token", "create", name, *words, "--token-to", f"{name}.token")


def _people(visit: Visiting, *, given: dict[str, str] | None = None, said: RefusedError | None = None) -> Response:
    visit.require("list_people")
    visit.require("list_tokens")
    tokens = [it for it in list_tokens(visit.server, visit.caller) if it.revoked_at_ms is None]
    return visit.page(
        "people.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        people=list_people(visit.server, visit.caller),
        tokens=tokens,
        given=given or {"name": "", "role": "viewer", "product": ""},
        said=said,
        roles_given=[("", "none yet"), *ROLES],
        products=[("", "every product, and the server"), *_products(visit)],
        may_add=visit.may(Role.ADMIN),
        path_of=person_path,
        EVERYTHING=EVERYTHING,
        line=line,
    )


def _page(
    visit: Visiting, name: str, *, said: RefusedError | None = None, given: dict[str, str] | None = None
) -> Response:
    visit.require("list_tokens")
    own = name == visit.name
    person = _find(visit, name)
    grantable = [it for it in _products(visit) if visit.may(Role.ADMIN, it[0])]
    everything = [("", "every product, and the server")] if visit.may(Role.ADMIN) else []
    tokens = [it for it in list_tokens(visit.server, visit.caller) if it.person == name]
    return visit.page(
        "person.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        person=person,
        own=own,
        said=said,
        here=person_path(name),
        may_shut=visit.may(Role.ADMIN),
        may_tokens=own or visit.may(Role.ADMIN),
        grantable=everything + grantable,
        withdrawable={it for it in person.grants if visit.may(Role.ADMIN, it)},
        tokens=sorted(tokens, key=_standing),
        given=given or {"token": "", "role": "", "product": "", "days": "90"},
        ROLES=ROLES,
        roles_at_most=[("", "as much as " + ("you" if own else name)), *ROLES],
        products_at_most=[("", "wherever " + ("you may" if own else name + " may")), *_products(visit)],
        DAYS=DAYS,
        MIN_PASSWORD=MIN_PASSWORD,
        EVERYTHING=EVERYTHING,
        place=_place,
        create_line=_create("NAME", *(() if own else ("--person", name)), "--expires", "90d"),
        line=line,
        where=_where,
    )


def _find(visit: Visiting, name: str) -> PersonView:
    if name == visit.name:  # one sees oneself, with no role at all, too
        visit.require("show_person", name=name)
        return show_person(visit.server, name)
    visit.require("list_people")
    for it in list_people(visit.server, visit.caller):
        if it.name == name:
            return it
    raise NotFoundError(f"there is nobody called {name!r:.80} that you may see")


def _products(visit: Visiting) -> list[tuple[str, str]]:
    if not visit.caller.may_anywhere(Role.VIEWER):
        return []
    return [(it.product, it.product) for it in list_products(visit.server, visit.caller)]


def _standing(token: TokenView) -> tuple[bool, int]:
    return token.revoked_at_ms is not None, -token.created_at_ms


def _place(product: str) -> str:
    return "everywhere" if product in ("", EVERYTHING) else f"of {product}"


def _where(product: str) -> tuple[str, ...]:
    return ("--everywhere",) if product in ("", EVERYTHING) else ("--product", product)
