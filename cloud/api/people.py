"""People: who may do what, and what one knows of oneself."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from cloud.access.passwords import hash_password, verify
from cloud.access.roles import EVERYTHING, Caller, Role, Scope
from cloud.api.access import may_see
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import Document
from cloud.api.limiting import Tries
from cloud.api.problems import ApiError
from cloud.people import PersonView
from protocol.identity import MAX_ID_LENGTH

MAX_GRANTS: Final = 200
MAX_TYPED: Final = 1000
Typed = Annotated[str, Field(max_length=MAX_TYPED)]
router = APIRouter(tags=["people"])


class NewPerson(Document):
    """A person: a role for each product that they may do something with, or for `*`."""

    name: Annotated[str, Field(max_length=MAX_ID_LENGTH)]
    grants: Annotated[dict[str, Role], Field(max_length=MAX_GRANTS, default_factory=dict)]


class PersonChange(Document):
    """Whether a person is shut out."""

    disabled: Annotated[bool, Field(strict=True)]


class Grant(Document):
    """A role."""

    role: Role


class NewPassword(Document):
    """A password to log in to the console with, null for none; `current` proves who changes their own."""

    password: Typed | None
    current: Typed | None = None


class Me(BaseModel):
    """Who asks, and what what they showed lets them do: the lower of `grants` and of the token's scope."""

    name: str
    grants: dict[str, Role]
    token: str
    role: Role
    product: str
    expires_at_ms: int | None
    has_password: bool


@router.get("/me")
def show_me(server: Server, caller: CallerDep) -> Me:
    """Tell who asks, and what they may."""
    person = server.store.people.person(caller.name)
    return Me(
        name=caller.name,
        grants=dict(caller.grants),
        token=caller.token,
        role=caller.scope.role,
        product=caller.scope.product,
        expires_at_ms=caller.until_ms,
        has_password=person.has_password,
    )


@router.get("/people")
def list_people(server: Server, caller: CallerDep) -> tuple[PersonView, ...]:
    """Return people by name: those who have a role where the caller has one, with these roles."""
    found = server.store.people.people()
    if caller.products is None:
        return found
    return tuple(_as_seen(it, caller) for it in found if it.name == caller.name or _as_seen(it, caller).grants)


@router.post("/people", status_code=HTTPStatus.CREATED)
def add_person(server: Server, actor: Actor, body: NewPerson) -> PersonView:
    """Make a person known. Without a password nobody logs in as them; they use tokens."""
    return server.store.people.add(body.name, body.grants, by=actor)


@router.get("/people/{name}")
def show_person(server: Server, name: str) -> PersonView:
    """Return one person."""
    return server.store.people.person(name)


@router.patch("/people/{name}")
def change_person(server: Server, actor: Actor, name: str, body: PersonChange) -> PersonView:
    """Shut a person out, with all their sessions and tokens; or let them in again."""
    people = server.store.people
    return people.disable(name, by=actor) if body.disabled else people.enable(name, by=actor)


@router.put("/people/{name}/grants/{product}")
def set_grant(server: Server, actor: Actor, name: str, product: str, body: Grant) -> PersonView:
    """Give a person a role for a product, or for `*`, instead of what they had."""
    return server.store.people.grant(name, product, body.role, by=actor)


@router.delete("/people/{name}/grants/{product}")
def withdraw_grant(server: Server, actor: Actor, name: str, product: str) -> PersonView:
    """Take a person's role for a product away."""
    return server.store.people.withdraw(name, product, by=actor)


@router.put("/people/{name}/password")
def set_password(server: Server, request: Request, caller: CallerDep, name: str, body: NewPassword) -> PersonView:
    """Set a person's password, which ends all their sessions; null takes it away."""
    people = server.store.people
    people.person(name)
    if name == caller.name:
        check_whole(caller, "to change one's password")
        _check_current(request.app.state.password_tries, people.password_of(name), name, body.current)
    kept = None if body.password is None else hash_password(body.password)
    return people.set_password(name, kept, by=caller.name)


def check_whole(caller: Caller, what: str) -> None:
    """Raise ApiError for a token that may do less than its person: it must not become more."""
    if caller.scope != Scope():
        message = (
            f"The token {caller.token} may do less than {caller.name}, and {what} takes all that they may. Nothing was "
            "changed."
        )
        raise ApiError(HTTPStatus.FORBIDDEN, "not_allowed", message)


def _check_current(tries: Tries, kept: str | None, name: str, current: str | None) -> None:
    if kept is None:
        return
    tries.take(name)
    if current is None or not verify(kept, current):
        message = "`current` is not the password that you have now. Nothing was changed."
        raise ApiError(HTTPStatus.FORBIDDEN, "wrong_password", message)


def _as_seen(person: PersonView, caller: Caller) -> PersonView:
    grants = {name: role for name, role in person.grants.items() if name == EVERYTHING or may_see(caller, name)}
    return PersonView(
        name=person.name,
        grants=grants,
        has_password=person.has_password,
        disabled_at_ms=person.disabled_at_ms,
        created_at_ms=person.created_at_ms,
        created_by=person.created_by,
    )
