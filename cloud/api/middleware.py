"""What stands around every route: a limit on what is sent, and a wake-up after what was changed."""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from cloud.api.problems import problem
from cloud.changes import Changes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
MAX_DIGITS = 19
"""Of a length: Python raises for thousands of them."""
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
            await problem(_TOO_LARGE, "too_large", why, _CLOSE)(scope, receive, send)
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
