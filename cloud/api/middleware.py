"""What stands around every route: whence a request comes, a limit on what is sent, a wake-up after what was changed."""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from cloud.api.problems import problem
from cloud.changes import Changes
from cloud.provenance import API, CLI, CLI_AGENT, CONSOLE, ORIGIN, SESSION_COOKIES, Origin

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
MAX_DIGITS = 19
"""Of a length: Python raises for thousands of them."""
REQUEST_ID: Final = "X-Request-Id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADDRESS: Final = re.compile(r"[0-9A-Za-z.:%_-]{1,64}")
_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
_CLOSE = {"Connection": "close"}


class BodyLimit:
    """Refuses bodies over a limit with 413, counted as they are read, whatever the headers say.

    `limit_of(path)` is how many bytes may come; None for paths that limit themselves.
    """

    def __init__(self, app: App, *, limit_of: Callable[[str], int | None]) -> None:
        self._app, self._limit_of = app, limit_of

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        max_bytes = self._limit_of(scope["path"]) if scope["type"] == "http" else None
        if max_bytes is None:
            await self._app(scope, receive, send)
            return
        why = f"The request is larger than the {max_bytes} bytes that are read. Nothing was changed."
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or len(declared) > MAX_DIGITS or int(declared) > max_bytes:
            await problem(scope, _TOO_LARGE, "too_large", why, _CLOSE)(scope, receive, send)
            return
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > max_bytes:
                raise HTTPException(_TOO_LARGE, why, _CLOSE)
            return message

        await self._app(scope, receive_limited, send)


class NoteChanges:
    """Wakes the outbox and the long polls after every change that an operator made."""

    def __init__(self, app: App, *, changes: Changes) -> None:
        self._app, self._changes = app, changes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        changing = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")

        async def send_noting(message: Message) -> None:
            if changing and message["type"] == "http.response.start" and message["status"] < HTTPStatus.BAD_REQUEST:
                self._changes.bump()
            await send(message)

        await self._app(scope, receive, send_noting)


class KnowOrigin:
    """Says beside every request whence it comes, for the record of decisions, and gives it an id, which is answered.

    An id that comes along is taken over if it looks like one: so a request is found again in a proxy's log.
    """

    def __init__(self, app: App, *, via: str = "") -> None:
        """Take the way by which all requests of this application come; empty: as each one looks."""
        self._app, self._via = app, via

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = origin_of(scope)
        if self._via:
            origin = replace(origin, via=self._via)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = origin.request
            await send(message)

        before = ORIGIN.set(origin)
        try:
            await self._app(scope, receive, send_named)
        finally:
            ORIGIN.reset(before)


def origin_of(scope: MutableMapping[str, Any]) -> Origin:
    """Return whence a request comes."""
    headers = Headers(scope=scope)
    asked = headers.get(REQUEST_ID, "")
    address = str((scope.get("client") or ("",))[0])  # a proxy on this machine says another one: any text
    return Origin(
        address=address if _ADDRESS.fullmatch(address) else "",
        via=_via(headers),
        request=asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8),
    )


def _via(headers: Headers) -> str:
    if "authorization" not in headers and any(f"{it}=" in headers.get("cookie", "") for it in SESSION_COOKIES):
        return CONSOLE
    return CLI if headers.get("user-agent", "").startswith(f"{CLI_AGENT}/") else API
