"""Releases: forecast, make, patch, roll back, promote, and watch how far they are."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query

from cloud.api.backend import MAX_WAIT_S, Actor, Backend, Server
from cloud.api.documents import (
    FirmwareFacts,
    ForecastAnswer,
    ForecastRequest,
    HeldDevice,
    NewRelease,
    Promotion,
    ReleaseChange,
    ReleasePage,
    ReleaseProgress,
    Rollback,
)
from cloud.api.naming import all_devices, check_filter, find_firmware, find_group
from cloud.fleet import AttemptFilter, DeviceFilter
from cloud.planner import Forecast, forecast
from cloud.progress import release_progress
from cloud.store.releases import new_release_id
from cloud.values import ChannelKey, ReleaseDraft, ReleaseMetrics, ReleasePatch, ReleaseView
from protocol.codec import structure
from protocol.down import NoticeRelease
from protocol.identity import MAX_INTEGER
from protocol.manifest import Requirements
from protocol.values import FirmwareRef

router = APIRouter(tags=["releases"])
MAX_SHOWN_ATTEMPTS: Final = 100_000


@router.get("/releases")
def list_releases(
    server: Server,
    product: str | None = None,
    group: str | None = None,
    component: str | None = None,
    enabled: bool | None = None,
) -> tuple[ReleasePage, ...]:
    """Return releases by channel, newest label first."""
    found = server.store.releases.releases(product=product, group=group, component=component, enabled=enabled)
    if not found:  # a group that was deleted may have had some
        check_filter(server.store, product=product, group=group)
    metrics: dict[str, ReleaseMetrics] = {}
    for channel in {release.channel for release in found}:
        metrics.update(server.store.metrics.channel(channel))
    return tuple(
        ReleasePage(release=item, metrics=metrics[item.release_id], link=_link(server, item)) for item in found
    )


@router.post("/releases", status_code=HTTPStatus.CREATED)
def create_release(server: Server, actor: Actor, body: NewRelease) -> ReleasePage:
    """Release a published firmware on a channel, under its next label."""
    find_group(server.store, body.product, body.group)
    find_firmware(server.store, body.product, body.component, body.version)
    return _page(server, server.store.releases.create(_draft(body, body.release_id), by=actor))


@router.post("/releases/forecast")
def forecast_release(server: Server, body: ForecastRequest) -> ForecastAnswer:
    """Tell which devices would take a release now, and why each other one would not; changes nothing."""
    find_group(server.store, body.product, body.group)
    draft = _draft(body, body.release_id or new_release_id())
    if body.firmware is None:
        find_firmware(server.store, body.product, body.component, body.version)
        found = server.store.releases.forecast(draft)
    else:
        found = _forecast_unpublished(server, draft, body.firmware)
    return ForecastAnswer(
        release_id=draft.release_id or "",
        reach=found.reach,
        takes=found.takes,
        holds=tuple(HeldDevice(device_id=h.device_id, reason=h.reason.value, detail=h.detail) for h in found.holds),
        sentence=found.sentence,
    )


@router.get("/releases/{release_id}")
def show_release(server: Server, release_id: str) -> ReleasePage:
    """Return one release and what became of it."""
    return _page(server, server.store.releases.release(release_id))


@router.patch("/releases/{release_id}")
def patch_release(server: Server, actor: Actor, release_id: str, body: ReleaseChange) -> ReleasePage:
    """Change a release for the devices that it has not reached."""
    patch = ReleasePatch(**body.model_dump(exclude_unset=True))
    return _page(server, server.store.releases.patch(release_id, patch, by=actor))


@router.post("/releases/{release_id}/rollback", status_code=HTTPStatus.CREATED)
def roll_back(server: Server, actor: Actor, release_id: str, body: Rollback) -> ReleasePage:
    """Make this earlier, successful release Live again, under a new label that references it."""
    target = server.store.releases.release(release_id)
    made = server.store.releases.rollback(
        target.channel, target.label, by=actor, urgency=body.urgency, description=body.description
    )
    return _page(server, made)


@router.post("/releases/{release_id}/promote", status_code=HTTPStatus.CREATED)
def promote_release(server: Server, actor: Actor, release_id: str, body: Promotion) -> ReleasePage:
    """Release what succeeded here to another group, or to a new label of its own channel."""
    find_group(server.store, server.store.releases.release(release_id).channel.product, body.group)
    made = server.store.releases.promote(
        release_id,
        body.group,
        by=actor,
        percentage=body.percentage,
        mandatory=body.mandatory,
        urgency=body.urgency,
        description=body.description,
    )
    return _page(server, made)


@router.get("/releases/{release_id}/progress")
async def show_progress(
    server: Server,
    release_id: str,
    seen: int | None = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
) -> ReleaseProgress:
    """Return how far a release is, device by device; with `wait` and `seen`, as soon as that revision is past."""
    if seen is not None and wait:
        await server.changes.wait(seen, wait)
    return await asyncio.to_thread(_progress, server, release_id)


def _draft(body: NewRelease, release_id: str | None) -> ReleaseDraft:
    return ReleaseDraft(
        channel=ChannelKey(body.product, body.group, body.component),
        version=body.version,
        percentage=body.percentage,
        mandatory=body.mandatory,
        forced=body.forced,
        urgency=body.urgency,
        target_range=body.target_range,
        description=body.description,
        release_id=release_id,
    )


def _forecast_unpublished(server: Backend, draft: ReleaseDraft, facts: FirmwareFacts) -> Forecast:
    firmware = FirmwareRef(
        component=draft.channel.component,
        version=draft.version,
        build=facts.build,
        seq=facts.seq,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        hardware_models=tuple(facts.hardware_models),
        requires=structure(facts.requires, Requirements),
    )
    candidate = NoticeRelease(
        release_id=draft.release_id or "",
        label=MAX_INTEGER,  # newer than all that there are
        order=MAX_INTEGER,
        firmware=firmware,
        percentage=draft.percentage,
        mandatory=draft.mandatory,
        forced=draft.forced,
        urgency=draft.urgency,
        target_range=draft.target_range,
        description=draft.description,
        terms=draft.terms,
    )
    channel = draft.channel
    return forecast(server.store.devices.fleet(channel.product, channel.group), candidate, channel.group)


def _page(server: Backend, release: ReleaseView) -> ReleasePage:
    metrics = server.store.metrics.release(release.release_id)
    return ReleasePage(release=release, metrics=metrics, link=_link(server, release))


def _link(server: Backend, release: ReleaseView) -> str:
    return server.link("releases", release.release_id)


def _progress(server: Backend, release_id: str) -> ReleaseProgress:
    revision = server.changes.revision  # before what it describes is read: a change in between is seen next time
    release = server.store.releases.release(release_id)
    channel = release.channel
    devices = release_progress(
        release_id,
        channel.component,
        server.store.devices.fleet(channel.product, channel.group),
        all_devices(server.store, DeviceFilter(product=channel.product, group=channel.group)),
        server.store.journal.attempts(AttemptFilter(source_id=release_id, limit=MAX_SHOWN_ATTEMPTS)),
    )
    metrics = server.store.metrics.release(release_id)
    return ReleaseProgress(revision=revision, release=release, metrics=metrics, devices=devices)
