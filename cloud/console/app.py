"""The console put together: its pages, its errors as pages, and what a browser is told of all of them."""

import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from cloud.api.backend import Backend
from cloud.api.middleware import App, BodyLimit, KnowOrigin, Message, NoteChanges, Receive, Send
from cloud.api.observing import Observe
from cloud.api.problems import STATUSES, ApiError, code_of
from cloud.console import assets, catalogue, live, login, rooms, templating
from cloud.console.counts import Counts
from cloud.console.visiting import NotLoggedInError, StaleFormError, session_cookie
from cloud.manual import manual_of
from cloud.provenance import CONSOLE
from cloud.surveying import Surveying
from cloud.watching import Watching
from protocol.errors import FleetliftError

_log = logging.getLogger(__name__)

MAX_FORM_BYTES: Final = 4 * 1024 * 1024
SMALL_BYTES: Final = 500
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}


def create_console(backend: Backend, watching: Watching, surveying: Surveying) -> FastAPI:
    """Return the console over the server's parts."""
    app = FastAPI(title="Fleetlift", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.backend, app.state.watching, app.state.streams = backend, watching, live.Streams()
    app.state.limits, app.state.counts = login.Limits(), Counts(backend, watching)
    app.state.surveying = surveying
    app.state.manual = manual_of(backend.settings.server, backend.base_url)
    for router in (assets.router, catalogue.router, live.router, login.router, *(room.router for room in rooms.ROOMS)):
        app.include_router(router, include_in_schema=False)
    app.add_exception_handler(NotLoggedInError, _to_login)
    app.add_exception_handler(StaleFormError, _stale)
    app.add_exception_handler(FleetliftError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(BodyLimit, limit_of=lambda _path: MAX_FORM_BYTES)
    app.add_middleware(NoteChanges, changes=backend.changes)
    app.add_middleware(GZipMiddleware, minimum_size=SMALL_BYTES)
    app.add_middleware(SayHeaders)
    app.add_middleware(Observe, numbers=backend.requests)
    app.add_middleware(KnowOrigin, via=CONSOLE)
    return app


class SayHeaders:
    """Tells the browser what these pages never do, with every answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        secure = scope.get("scheme") == "https"

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if secure:
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        await self._app(scope, receive, say)


async def _to_login(request: Request, _error: Exception) -> Response:
    if "hx-request" in request.headers or request.url.path == "/live":
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"HX-Refresh": "true"})
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    there = f"?next={quote(asked, safe='')}" if request.method == "GET" and asked != "/" else ""
    response = RedirectResponse(f"/login{there}", HTTPStatus.SEE_OTHER)
    response.delete_cookie(session_cookie(secure=request.url.scheme == "https"), path="/")
    return response


async def _stale(request: Request, _error: Exception) -> Response:
    sentence = "This form is of another session, or of another site. Nothing was changed. Go back, load the page again."
    return _page(request, HTTPStatus.FORBIDDEN, sentence)


async def _ours(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return _page(request, error.status, str(error), error.code)
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return _page(request, status, str(error), code_of(error))
    _log.error("a page failed: %s", error, exc_info=error)
    return _page(request, HTTPStatus.INTERNAL_SERVER_ERROR, str(error), "failed")


async def _http(request: Request, error: Exception) -> Response:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.BAD_REQUEST
    if status is HTTPStatus.NOT_FOUND:
        return _page(request, status, f"There is no page {request.url.path[:200]}.")
    return _page(request, status, str(getattr(error, "detail", status.phrase)))


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("a page failed", exc_info=error)
    sentence = "The server failed, and its log says how. Whether anything was changed is not known: look before again."
    return _page(request, HTTPStatus.INTERNAL_SERVER_ERROR, sentence, "internal")


def _page(request: Request, status: HTTPStatus, sentence: str, code: str = "") -> Response:
    said = sentence[:1].upper() + sentence[1:]
    context = {"status": status, "code": code, "sentence": said if said.endswith((".", "?", "!")) else f"{said}."}
    return templating.answer(request, "error.html", context, status=status)
