"""The one stream of a page: it says that something changed, never what; what is shown is read from the truth."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from cloud.changes import Changes
from cloud.console.visiting import Visit

CALM_S: Final = 1.0
"""The shortest time between two words: a busy fleet changes all the time."""
SILENT_S: Final = 15.0
"""After so long without a change something is said all the same: who hears nothing knows that the line is dead."""
MAX_STREAMS: Final = 500
LONGEST_S: Final = 3600.0
"""A stream ends then, and the page opens another: whoever was logged out meanwhile gets none."""

router = APIRouter(include_in_schema=False)


class Streams:
    """How many pages are listening."""

    def __init__(self) -> None:
        self.open = 0


@router.get("/live")
async def listen(request: Request, visit: Visit, seen: int | None = None) -> Response:
    """Say `changed` whenever something changed since the revision that a page has seen, at most once a second."""
    streams: Streams = request.app.state.streams
    if streams.open >= MAX_STREAMS:
        return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "30"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    words = _words(request, streams, visit.server.changes, seen)
    return StreamingResponse(words, media_type="text/event-stream", headers=headers)


@router.get("/strip")
def show_strip(visit: Visit) -> Response:
    """Return the line above every page: what keeps devices from being served."""
    return visit.page("strip.html")


async def _words(request: Request, streams: Streams, changes: Changes, page_saw: int | None) -> AsyncIterator[str]:
    streams.open += 1
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LONGEST_S
    try:
        seen = changes.revision if page_saw is None else page_saw
        yield "retry: 1000\n\n"
        while not changes.closed and loop.time() < ends_at and not await request.is_disconnected():
            revision = await changes.wait(seen, SILENT_S)
            if changes.closed:
                return
            yield f"event: changed\ndata: {revision}\n\n" if revision != seen else "event: still\ndata:\n\n"
            seen = revision
            await asyncio.sleep(CALM_S)
    finally:
        streams.open -= 1
