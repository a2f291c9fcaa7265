"""The server itself: what it is, whether it is well, its metrics, its audit."""

import importlib.metadata
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from cloud.api.backend import Actor, Server, Watched
from cloud.api.documents import SystemPage
from cloud.api.exposition import expose
from cloud.retention import HOUR_MS
from cloud.values import AuditView
from protocol.identity import MAX_INTEGER

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["probes"])
_METRICS: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


class Health(BaseModel):
    """Whether the server is well."""

    status: str


@router.get("/system")
def show_system(server: Server, actor: Actor) -> SystemPage:
    """Tell what the server is, and what a device must be told to reach it."""
    settings = server.settings
    return SystemPage(
        version=importlib.metadata.version("fleetlift"),
        broker_url=server.broker_url,
        topic_root=settings.broker.topic_root,
        joining=settings.devices.joining,
        max_image_bytes=settings.server.max_image_bytes,
        token=actor,
    )


@router.get("/audit")
def list_audit(
    server: Server,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
    subject: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> tuple[AuditView, ...]:
    """Return decisions by number: who did what to which subject."""
    return server.store.audit.rows(after=after, subject=subject, limit=limit)


@router.get("/metrics", response_class=Response, responses=_METRICS)
def show_metrics(server: Server, watched: Watched) -> Response:
    """Return metrics in the text format of Prometheus, none of them per device."""
    numbers, enabled = watched.numbers(quiet_after_ms=server.settings.devices.quiet_after_hours * HOUR_MS)
    text = expose(numbers, server.store.metrics.online(), server.counters(), enabled)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@probes.get("/livez")
def live() -> Health:
    """Tell that the process answers."""
    return Health(status="alive")


@probes.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}})
def ready(server: Server, response: Response) -> Health:
    """Tell whether devices are served: the broker is reached and the database answers."""
    why_not = server.why_not_ready()
    if why_not:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status=why_not or "ready")
