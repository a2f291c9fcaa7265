"""Who looks at a page: the session of a cookie, the form that came with it, and what a handler may do for them.

Every page and every action goes through `visit`. An action names the operation of the API that it is: the same rule
allows it, the same function does it, and what that refuses comes back as the same sentence.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from cloud.access.roles import Caller, Role
from cloud.api.access import authorize_as, caller_of_person
from cloud.api.backend import Backend
from cloud.api.problems import STATUSES, ApiError, code_of
from cloud.console import templating
from cloud.console.forms import CSRF_FIELD, MAX_FIELDS, Form, RefusedError, is_mask_of, mask
from cloud.store.errors import NotFoundError
from cloud.watching import Watching
from protocol.errors import FleetliftError

SAFE: Final = frozenset({"GET", "HEAD"})
FLASH: Final = "fleetlift_flash"
MAX_COOKIE: Final = 3800
"""Browsers keep 4096 bytes of name, value and attributes (RFC 6265, section 6.1), and drop what is longer."""
MAX_SENTENCE: Final = 300
"""What is left of a sentence that does not fit: each character may take twelve bytes."""
T = TypeVar("T")


class NotLoggedInError(FleetliftError):
    """The page is for people who are logged in."""


class StaleFormError(FleetliftError):
    """A form came without the token of its session."""


def session_cookie(*, secure: bool) -> str:
    """Return the name of the cookie; a browser takes the prefix from an encrypted page of this very host alone."""
    return "__Host-fleetlift" if secure else "fleetlift_session"


def hash_cookie(value: str) -> str:
    """Return what the store keeps of a cookie."""
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Visiting:
    """One request of somebody who is logged in."""

    request: Request
    server: Backend
    caller: Caller
    csrf: str
    form: Form
    seen: int
    """What the fleet's revision was when it was asked: whatever changes after that is told to the page."""

    @property
    def name(self) -> str:
        """Who it is, as the audit names them."""
        return self.caller.name

    @property
    def watching(self) -> Watching:
        """How far releases are."""
        watching: Watching = self.request.app.state.watching
        return watching

    @property
    def is_fragment(self) -> bool:
        """Whether a part of a page is asked for, which htmx puts in its place."""
        return "hx-request" in self.request.headers and "hx-history-restore-request" not in self.request.headers

    def asked(self, name: str, default: str = "") -> str:
        """Return a text of the address's query."""
        return self.request.query_params.get(name, default).strip()

    def may(self, role: Role, product: str = "*") -> bool:
        """Whether they may do what a role may: what they may not is not offered."""
        return self.caller.may(role, product)

    def require(self, operation: str, *, body: Mapping[str, Any] | None = None, **path: str) -> None:
        """Raise ApiError unless they may do this operation of the API, with this in its path and in its body."""
        authorize_as(self.request, operation, self.caller, body=body, form=self.form.fields, **path)

    def page(self, template: str, *, status: HTTPStatus = HTTPStatus.OK, **context: Any) -> Response:
        """Answer a page, or with a name such as `devices.html#rows` a block of one."""
        flash = read_flash(self.request)
        shared = {
            "visit": self,
            "path": self.request.url.path,
            "csrf": mask(self.csrf),
            "flash": flash,
            "roles": Role,
            "why_not_ready": self.server.why_not_ready(),
        }
        response = templating.answer(self.request, template, shared | context, status=status)
        if flash is not None and not self.is_fragment:
            response.delete_cookie(FLASH, path="/")
        return response

    def do(self, operation: str, deed: Callable[[], T], *, body: Mapping[str, Any] | None = None, **path: str) -> T:
        """Do an operation of the API; RefusedError with its sentence if it is refused, and nothing was changed then."""
        self.require(operation, body=body, **path)
        try:
            return deed()
        except (ValidationError, RequestValidationError) as error:
            raise RefusedError(_sentence(error), "invalid") from None
        except FleetliftError as error:
            if isinstance(error, RefusedError | ApiError) or any(isinstance(error, kind) for kind, _ in STATUSES):
                code = error.code if isinstance(error, RefusedError) else code_of(error)
                raise RefusedError(_ended(str(error)), code) from None
            raise

    def act(
        self,
        operation: str,
        deed: Callable[[], T],
        *,
        to: str,
        said: str | Callable[[T], str],
        cli: str = "",
        body: Mapping[str, Any] | None = None,
        **path: str,
    ) -> Response:
        """Do an operation, then show the page `to`, which says what happened."""
        try:
            found = self.do(operation, deed, body=body, **path)
        except RefusedError as error:
            return self.go(to, str(error), kind="error", code=error.code)
        return self.go(to, said if isinstance(said, str) else said(found), cli=cli)

    def go(self, to: str, said: str = "", *, kind: str = "done", cli: str = "", code: str = "") -> Response:
        """Show another page, which says something first."""
        response = RedirectResponse(to, HTTPStatus.SEE_OTHER)
        if said:
            secure = self.request.url.scheme == "https"
            response.set_cookie(
                FLASH,
                flash_of(said, kind, cli, code),
                max_age=60,
                path="/",
                httponly=True,
                samesite="lax",
                secure=secure,
            )
        return response


def flash_of(said: str, kind: str = "done", cli: str = "", code: str = "") -> str:
    """Return what the next page says first, as a cookie that browsers keep: a long command is left out, then words."""

    def told(text: str, line: str) -> str:
        document = {"kind": kind, "text": text, "cli": line, "code": code}
        return quote(json.dumps(document, ensure_ascii=False), errors="replace")

    whole = (told(said, cli), told(said, ""))
    return next((it for it in whole if len(it) <= MAX_COOKIE), None) or told(said[: MAX_SENTENCE - 1] + "…", "")


def read_flash(request: Request) -> Mapping[str, str] | None:
    """Return what the page before wanted said."""
    text = request.cookies.get(FLASH)
    if not text:
        return None
    try:
        found = json.loads(templating.unquote(text))
        return {name: str(found[name]) for name in ("kind", "text", "cli", "code")}
    except (ValueError, KeyError, TypeError):
        return None


async def visit(request: Request) -> Visiting:
    """Return who asks and what they sent; raises NotLoggedInError, and StaleFormError for a form of somewhere else."""
    server: Backend = request.app.state.backend
    seen = server.changes.revision  # before anything is read
    cookie = request.cookies.get(session_cookie(secure=request.url.scheme == "https"))
    session = await asyncio.to_thread(server.store.sessions.find, hash_cookie(cookie)) if cookie else None
    if session is None:
        raise NotLoggedInError("log in first")
    try:
        person = await asyncio.to_thread(caller_of_person, server, session.person)
    except NotFoundError:
        raise NotLoggedInError("log in first") from None
    caller = replace(person, until_ms=session.until_ms)
    form = Form()
    if request.method not in SAFE:
        form = Form.read(await request.form(max_files=0, max_fields=MAX_FIELDS))
        if is_foreign(request) or not is_mask_of(form.text(CSRF_FIELD), session.csrf):
            raise StaleFormError("the form is of another session")
    request.state.caller = caller
    return Visiting(request=request, server=server, caller=caller, csrf=session.csrf, form=form, seen=seen)


Visit = Annotated[Visiting, Depends(visit)]


def is_foreign(request: Request) -> bool:
    """Whether the browser says that another site had it send this."""
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        return fetched not in ("same-origin", "none")
    backend: Backend = request.app.state.backend
    ours = {request.headers.get("host", ""), urlsplit(backend.base_url).netloc}
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc not in ours


def with_query(path: str, **query: object) -> str:
    """Return an address with those of the queries that are given."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def _sentence(error: ValidationError | RequestValidationError) -> str:
    reasons = []
    for item in error.errors()[:3]:
        where = ".".join(str(part) for part in item["loc"])
        why = str(item["msg"]).removeprefix("Value error, ")
        reasons.append(f"{where.replace('_', ' ')}: {why[:1].lower()}{why[1:]}" if where else why)
    return f"{'; '.join(reasons)[:500]}. Nothing was changed."


def _ended(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
