"""The server itself: what it is, whether it is well, its metrics, its audit."""

import asyncio
import importlib.metadata
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from cloud.api.backend import CallerDep, Server, Watched, backend_of
from cloud.api.documents import SystemPage
from cloud.api.exposition import expose
from cloud.auditing import Verdict, verify
from cloud.retention import HOUR_MS
from cloud.values import AuditHead, AuditView
from protocol.identity import MAX_INTEGER

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["probes"])
_METRICS: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


PROBE_TIMEOUT_S: Final = 4.0
"""How long the database has to answer; whoever asks whether the server is ready does not wait long."""
LINES: Final = "application/x-ndjson"
_LINES: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {"content": {LINES: {"schema": {"type": "string"}}}}
}
Number = Annotated[int, Query(ge=0, le=MAX_INTEGER)]


class Health(BaseModel):
    """Whether the server is well."""

    status: str


@router.get("/system")
def show_system(server: Server, caller: CallerDep) -> SystemPage:
    """Tell what the server is, and what a device must be told to reach it."""
    settings = server.settings
    return SystemPage(
        version=importlib.metadata.version("fleetlift"),
        broker_url=server.broker_url,
        topic_root=settings.broker.topic_root,
        joining=settings.devices.joining,
        max_image_bytes=settings.server.max_image_bytes,
        person=caller.name,
        token=caller.token,
    )


@router.get("/audit")
def list_audit(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    after: Number = 0,
    subject: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    actor: str | None = None,
    action: str | None = None,
    prefix: str | None = None,
    since_ms: Number | None = None,
    until_ms: Number | None = None,
    newest: bool = False,
    before: Number | None = None,
) -> tuple[AuditView, ...]:
    """Return decisions by number: who did what to which subject, from where.

    `prefix` is what the subject begins with, `newest` turns the order around: `before` then leads to the next page.
    """
    return server.store.audit.rows(
        after=after,
        before=before,
        subject=subject,
        prefix=prefix,
        actor=actor,
        action=action,
        since_ms=since_ms,
        until_ms=until_ms,
        newest=newest,
        limit=limit,
    )


@router.get("/audit/head")
def show_audit_head(server: Server) -> AuditHead:
    """Return the newest decision's number and hash: whoever keeps it elsewhere can tell if rows were cut off."""
    return server.store.audit.head()


@router.get("/audit/verification")
def verify_audit(server: Server) -> Verdict:
    """Check the hash of every decision here; `fleetlift audit verify` does so without trusting the server."""
    return verify(line for lines in server.store.audit.export() for line in lines.removesuffix("\n").split("\n"))


@router.get("/audit/export", response_class=StreamingResponse, responses=_LINES)
def export_audit(server: Server) -> StreamingResponse:
    """Return all decisions by number, one JSON object a line: what `fleetlift audit verify` checks."""
    return StreamingResponse(server.store.audit.export(), media_type=LINES)


@router.get("/metrics", response_class=Response, responses=_METRICS)
def show_metrics(server: Server, watched: Watched) -> Response:
    """Return metrics in the text format of Prometheus, none of them per device."""
    numbers, enabled = watched.numbers(quiet_after_ms=server.settings.devices.quiet_after_hours * HOUR_MS)
    text = expose(
        *(numbers, server.store.metrics.online(), server.counters(), enabled),
        outbox=server.store.outbox.depth(),
        requests=server.requests,
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@probes.get("/livez")
async def live() -> Health:
    """Tell that the process answers, whatever it waits for."""
    return Health(status="alive")


@probes.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}})
async def ready(request: Request, response: Response) -> Health:
    """Tell whether devices are served: the broker is reached, the database answers and can be changed."""
    server = backend_of(request)
    why_not = server.why_not_ready()
    if not why_not:
        try:
            why_not = await asyncio.wait_for(asyncio.to_thread(server.store.why_not_answering), PROBE_TIMEOUT_S)
        except TimeoutError:
            why_not = "the database does not answer in time"
    if why_not:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status=why_not or "ready")
