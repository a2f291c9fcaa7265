"""What is seen of every request: a number, a line in the log if it is to change something, a span if traces are kept.

None of them holds a body, a query, a token or a password; numbers and spans have the route's template for the path.
"""

import logging
import time
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.routing import Route

from cloud.api.middleware import App, Message, Receive, Send
from cloud.provenance import ORIGIN, Origin
from cloud.request_numbers import UNMATCHED, RequestNumbers
from cloud.spans import Kind, Span, span

ACTOR: Final = "fleetlift.actor"
"""Where a request's scope holds the name of the person who asks, once that is known."""
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_STREAMS: Final = frozenset({"/live"})
_SERVER_ERROR: Final = 500
_log = logging.getLogger(__name__)


class Observe:
    """Counts, tells and traces requests; inside `KnowOrigin`, around everything else."""

    def __init__(self, app: App, *, numbers: RequestNumbers, prefix: str = "") -> None:
        """Take what counts; routes whose template does not match the whole path stand below `prefix`."""
        self._app, self._numbers, self._prefix = app, numbers, prefix

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, answer = time.monotonic(), _Answer()

        async def send_seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.after_s = int(message["status"]), time.monotonic() - began_s
            await send(message)

        origin = ORIGIN.get() or Origin()
        with span(str(scope["method"]), Kind.SERVER, parent=dict(Headers(scope=scope))) as kept:
            try:
                await self._app(scope, receive, send_seen)
            finally:
                route = _template_of(scope, self._prefix)
                self._count(scope, route, answer)
                _trace(kept, scope, route, answer, origin)
                _tell(scope, route, answer, time.monotonic() - began_s)

    def _count(self, scope: MutableMapping[str, Any], route: str, answer: "_Answer") -> None:
        waits = route in _STREAMS or b"wait=" in scope.get("query_string", b"")
        self._numbers.answered(str(scope["method"]), route, answer.status, None if waits else answer.after_s)


class _Answer:
    status: int = _SERVER_ERROR
    """Until it begins: what fails before that is answered further out."""
    after_s: float | None = None


def _template_of(scope: MutableMapping[str, Any], prefix: str) -> str:
    route = scope.get("route")
    if not isinstance(route, Route):
        return UNMATCHED
    return route.path if route.path_regex.match(str(scope["path"])) else f"{prefix}{route.path}"


def _trace(kept: Span, scope: MutableMapping[str, Any], route: str, answer: _Answer, origin: Origin) -> None:
    kept.rename(f"{scope['method']} {route}")
    kept.note(
        http__request__method=str(scope["method"]),
        http__route=route,
        http__response__status_code=answer.status,
        fleetlift__request_id=origin.request,
        fleetlift__via=origin.via,
    )
    if answer.status >= _SERVER_ERROR:
        kept.fail(HTTPStatus(answer.status).phrase)


def _tell(scope: MutableMapping[str, Any], route: str, answer: _Answer, took_s: float) -> None:
    actor = scope.get(ACTOR)
    by_anybody = actor is None and answer.status >= HTTPStatus.BAD_REQUEST  # that fills no log
    quiet = scope["method"] in _READING or by_anybody
    parameters = scope.get("path_params", {})
    fields = {name: parameters[name] for name in ("device_id", "release_id", "ota_id") if name in parameters}
    if actor is not None:
        fields["actor"] = actor
    _log.log(
        logging.DEBUG if quiet else logging.INFO,
        "%s %s: %d",
        *(scope["method"], route, answer.status),
        extra={
            "method": scope["method"],
            "route": route,
            "status": answer.status,
            "duration_ms": round(1000 * took_s, 1),
            **fields,
        },
    )
