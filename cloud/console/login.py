"""Logging in and out: by a name and a password, or by a code that the command line gives."""

import asyncio
import hashlib
import math
import secrets
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from cloud.access.limits import RateLimit, network_of
from cloud.access.passwords import verify
from cloud.api.backend import Backend
from cloud.console import templating
from cloud.console.forms import TOKEN_BYTES, Form
from cloud.console.visiting import FLASH, StaleFormError, Visit, hash_cookie, is_foreign, session_cookie
from cloud.store.errors import NotFoundError

LIFETIME_S: Final = 12 * 3600
TRIES: Final = 10
"""Wrong passwords at once, from one address or for one name; then one in half a minute."""
PER_S: Final = 1 / 30
MAX_NAME: Final = 64
MAX_PASSWORD: Final = 1000
WRONG: Final = "That name and that password do not belong together. Nobody was logged in."
_SPENT: Final = "That code was used already, or is older than five minutes. Ask for another: fleetlift console"

router = APIRouter(include_in_schema=False)


@dataclass(slots=True)
class Limits:
    """How often anybody may try."""

    by_address: RateLimit = field(default_factory=lambda: RateLimit(TRIES, PER_S))
    by_name: RateLimit = field(default_factory=lambda: RateLimit(TRIES, PER_S))

    def wait_s(self, address: str, name: str, now_s: float) -> float:
        """Return in how many seconds this may be tried; 0 for now, and then it counts as tried."""
        return max(self.by_address.wait_s(address, now_s), self.by_name.wait_s(name, now_s))


@router.get("/login")
async def show_login(request: Request, next: str = "/", code: str = "") -> Response:  # noqa: A002 - the address's word
    """Ask for name and password; with a code, ask whether to use it: pages that are fetched ahead must not spend it."""
    return _page(request, next, code=code)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Open a session, or say that the two do not belong together."""
    if is_foreign(request):
        raise StaleFormError("the form is of another site")
    form = Form.read(await request.form(max_files=0, max_fields=10))
    name, there = form.text("name")[:MAX_NAME], form.text("next", "/")
    server: Backend = request.app.state.backend
    limits: Limits = request.app.state.limits
    code = form.text("code")
    address = address_of(request)
    wait_s = limits.wait_s(network_of(address), name or hashlib.sha256(code.encode()).hexdigest(), time.monotonic())
    if wait_s:
        wait = math.ceil(wait_s)
        said = f"There were too many tries. Nobody was logged in; try again in {wait} s."
        response = _page(request, there, name=name, said=said, status=HTTPStatus.TOO_MANY_REQUESTS)
        response.headers["Retry-After"] = str(wait)
        return response
    if code:
        used = await asyncio.to_thread(server.store.sessions.use_code, hash_cookie(code))
        person, until_ms = (used.person, used.until_ms) if used else (None, None)
        wrong = _SPENT
    else:
        person = await asyncio.to_thread(_check, server, name, form.secret("password")[:MAX_PASSWORD])
        until_ms, wrong = None, WRONG
    if person is None:
        return _page(request, there, name=name, said=wrong, status=HTTPStatus.UNAUTHORIZED)
    cookie = secrets.token_urlsafe(TOKEN_BYTES)
    await asyncio.to_thread(
        lambda: server.store.sessions.open(
            *(hash_cookie(cookie), person, secrets.token_urlsafe(TOKEN_BYTES), address),
            lifetime_s=LIFETIME_S,
            until_ms=until_ms,
        )
    )
    secure = request.url.scheme == "https"
    response = RedirectResponse(_inside(there), HTTPStatus.SEE_OTHER)
    response.set_cookie(
        session_cookie(secure=secure),
        cookie,
        max_age=LIFETIME_S,
        path="/",
        httponly=True,
        samesite="lax",
        secure=secure,
    )
    return response


@router.post("/logout")
def log_out(request: Request, visit: Visit) -> Response:
    """End the session."""
    name = session_cookie(secure=request.url.scheme == "https")
    visit.server.store.sessions.close(hash_cookie(request.cookies[name]))
    response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    for cookie in (name, FLASH):
        response.delete_cookie(cookie, path="/")
    return response


def address_of(request: Request) -> str:
    """Return from where somebody asks."""
    return request.client.host if request.client else "unknown"


def _check(server: Backend, name: str, password: str) -> str | None:
    """Return the name of whoever it is; it takes as long for names that nobody has."""
    try:
        person = server.store.people.person(name)
        kept = None if person.disabled_at_ms else server.store.people.password_of(name)
    except NotFoundError:
        kept = None
    return name if verify(kept, password) else None


def _inside(there: str) -> str:
    """Return an address of this console, whatever somebody wrote into the link."""
    is_ours = there.startswith("/") and not there.startswith(("//", "/\\")) and there.isprintable()
    return there if is_ours and "\\" not in there else "/"


def _page(
    request: Request,
    there: str,
    *,
    name: str = "",
    said: str = "",
    code: str = "",
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    context = {"next": _inside(there), "name": name, "said": said, "code": code}
    return templating.answer(request, "login.html", context, status=status)
