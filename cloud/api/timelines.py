"""Timelines: what happened to one release or one device, events and audited decisions in one order."""

import asyncio
import re
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel

from cloud.api.access import seen_products
from cloud.api.backend import MAX_WAIT_S, Backend, CallerDep, Server
from cloud.api.naming import find_device
from cloud.happenings import EventView, Moment
from cloud.store.errors import InvalidError
from protocol.identity import MAX_INTEGER

router = APIRouter(tags=["timelines"])
_CURSOR: Final = re.compile(r"(\d{1,16})-(\d{1,16})")
Limit = Annotated[int, Query(ge=1, le=1000)]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S)]


class Timeline(BaseModel):
    """A subject's moments, oldest first; ask again with `after=next` for what came since."""

    revision: int
    subject: str
    moments: tuple[Moment, ...]
    next: str


@router.get("/releases/{release_id}/timeline")
async def show_release_timeline(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    release_id: str,
    after: str | None = None,
    limit: Limit = 200,
    seen: int | None = None,
    wait: Wait = 0,
) -> Timeline:
    """Return what happened to a release, and what went wrong on its devices.

    With `after`, what came since that; with `wait` and `seen`, as soon as the server's revision is past that.
    """
    await asyncio.to_thread(server.store.releases.release, release_id)
    return await _timeline(server, f"release/{release_id}", after, limit, seen, wait)


@router.get("/devices/{device_id}/timeline")
async def show_device_timeline(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    device_id: str,
    after: str | None = None,
    limit: Limit = 200,
    seen: int | None = None,
    wait: Wait = 0,
) -> Timeline:
    """Return what happened to a device, and what was decided about it."""
    await asyncio.to_thread(find_device, server.store, device_id)
    return await _timeline(server, f"device/{device_id}", after, limit, seen, wait)


@router.get("/events")
def list_events(
    server: Server,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
    product: str | None = None,
    limit: Limit = 100,
) -> tuple[EventView, ...]:
    """Return what happened, by number: what webhooks are told of."""
    return server.store.events.after(after, products=seen_products(caller, product), limit=limit)


async def _timeline(  # noqa: PLR0917 - as above
    server: Backend, subject: str, after: str | None, limit: int, seen: int | None, wait: float
) -> Timeline:
    since = _parse(after)
    if seen is not None and wait:
        await server.changes.wait(seen, wait)
    revision = server.changes.revision  # before what it describes is read: a change in between is seen next time
    moments, ends = await asyncio.to_thread(server.store.events.timeline, subject, after=since, limit=limit)
    return Timeline(revision=revision, subject=subject, moments=moments, next=f"{ends[0]}-{ends[1]}")


def _parse(cursor: str | None) -> tuple[int, int] | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None or not match[0].isascii():
        raise InvalidError(f"after={cursor!r:.60} is not what `next` of an earlier answer said; nothing was changed")
    return int(match[1]), int(match[2])
