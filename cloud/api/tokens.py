"""API tokens: what programs, and the command line, prove themselves with; and codes that are good for one login."""

import secrets
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from cloud.access.limits import network_of
from cloud.access.roles import EVERYTHING, Role
from cloud.api.access import seen_products
from cloud.api.backend import Actor, CallerDep, Server, hash_token, new_token
from cloud.api.documents import Document
from cloud.api.limiting import Tries
from cloud.api.middleware import origin_of
from cloud.api.observing import ACTOR
from cloud.api.people import check_whole
from cloud.api.problems import ApiError
from cloud.store.sessions import CODE_LIFETIME_S
from cloud.values import TokenView

CODE_BYTES: Final = 32
MAX_CODE: Final = 100
NAME_BYTES: Final = 4
MAX_LIFETIME_S: Final = 10 * 365 * 24 * 3600
LOGIN_S: Final = 30 * 24 * 3600
MAX_LOGIN_S: Final = 90 * 24 * 3600
"""For how long a token is good that somebody logs in with at a command line: who comes back has another login."""
router = APIRouter(tags=["tokens"])
door = APIRouter(tags=["tokens"])
"""What is asked for without a token: the code counts."""


class NewToken(Document):
    """A token; what is left out is as much as its maker's. It may never do more than its maker, nor than its person."""

    name: str
    person: str | None = None
    role: Role | None = None
    product: str | None = None
    lifetime_s: Annotated[int, Field(strict=True, ge=1, le=MAX_LIFETIME_S)] | None = None


class MadeToken(BaseModel):
    """A token, and its text: in this one answer, and nowhere else ever."""

    token: TokenView
    text: str


class UsedLoginCode(Document):
    """A login code, and for how long the token for it is to be good."""

    code: Annotated[str, Field(max_length=MAX_CODE)]
    lifetime_s: Annotated[int, Field(strict=True, ge=1, le=MAX_LOGIN_S)] = LOGIN_S


class LoginCode(BaseModel):
    """A code that is good for one login, and the page of the console that takes it."""

    code: str
    url: str
    expires_at_ms: int


@router.get("/tokens")
def list_tokens(server: Server, caller: CallerDep) -> tuple[TokenView, ...]:
    """Return one's own tokens; administrators of everything are told all."""
    return server.store.tokens.tokens(None if caller.may(Role.ADMIN, EVERYTHING) else caller.name)


@router.post("/tokens", status_code=HTTPStatus.CREATED)
def create_token(server: Server, caller: CallerDep, body: NewToken) -> MadeToken:
    """Make a token: for oneself, or as an administrator of everything for anybody."""
    person = body.person or caller.name
    if person != caller.name and not caller.may(Role.ADMIN, EVERYTHING):
        message = f"Only an administrator of everything makes a token for {person:.80}. Nothing was changed."
        raise ApiError(HTTPStatus.FORBIDDEN, "not_allowed", message)
    role, product = body.role or caller.scope.role, body.product or caller.scope.product
    if not caller.scope.role.covers(role) or caller.scope.product not in (EVERYTHING, product):
        message = f"The token {caller.token} makes none that may do more than itself. Nothing was changed."
        raise ApiError(HTTPStatus.FORBIDDEN, "not_allowed", message)
    if product != EVERYTHING:
        seen_products(caller, product)
    text = new_token()
    view = server.store.tokens.add(
        body.name,
        hash_token(text),
        person=person,
        role=role,
        product=product,
        expires_at_ms=_ending_ms(caller.until_ms, body.lifetime_s),
        by=caller.name,
    )
    return MadeToken(token=view, text=text)


@router.delete("/tokens/{name}")
def revoke_token(server: Server, actor: Actor, name: str) -> TokenView:
    """Revoke a token: the server refuses it from now on."""
    return server.store.tokens.revoke(name, by=actor)


@router.post("/login-codes", status_code=HTTPStatus.CREATED)
def create_login_code(server: Server, caller: CallerDep) -> LoginCode:
    """Make a code that is good for one login, to the console or for a token, for five minutes."""
    check_whole(caller, "to open the console")
    code = secrets.token_urlsafe(CODE_BYTES)
    ends_ms = server.store.sessions.add_code(
        hash_token(code), caller.name, lifetime_s=CODE_LIFETIME_S, until_ms=caller.until_ms
    )
    return LoginCode(code=code, url=f"{server.base_url}/login?code={code}", expires_at_ms=ends_ms)


@door.post("/login-codes/token", status_code=HTTPStatus.CREATED)
def redeem_login_code(server: Server, request: Request, body: UsedLoginCode) -> MadeToken:
    """Give a token for a login code, which is used up: it may do as its person may, and ends."""
    tries: Tries = request.app.state.code_tries
    address = network_of(origin_of(request.scope).address)
    tries.check(address)
    used = server.store.sessions.use_code(hash_token(body.code))
    if used is None:
        tries.count(address)
        message = (
            "That code was used already, or is older than five minutes. Nobody was logged in; ask for another with "
            "`fleetlift console` where you are logged in."
        )
        raise ApiError(HTTPStatus.FORBIDDEN, "bad_login_code", message)
    request.scope[ACTOR] = used.person
    text = new_token()
    view = server.store.tokens.add(
        f"login-{secrets.token_hex(NAME_BYTES)}",
        hash_token(text),
        person=used.person,
        expires_at_ms=_ending_ms(used.until_ms, body.lifetime_s),
        by=used.person,
    )
    return MadeToken(token=view, text=text)


def _ending_ms(until_ms: int | None, lifetime_s: int | None) -> int | None:
    """Return until when a token is good: not longer than what it is made with."""
    wanted = None if lifetime_s is None else int(time.time() * 1000) + lifetime_s * 1000
    return min((it for it in (until_ms, wanted) if it is not None), default=None)
