"""Releases: forecast, make, patch, and watch how far they are."""

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query

from cloud.api.access import seen_products
from cloud.api.backend import MAX_WAIT_S, Actor, Backend, CallerDep, Server, Watched
from cloud.api.documents import (
    FirmwareFacts,
    ForecastAnswer,
    ForecastRequest,
    HeldDevice,
    NewRelease,
    ReleaseChange,
    ReleasePage,
    ReleaseProgress,
    WaitingPage,
)
from cloud.api.naming import check_filter, find_firmware, find_group
from cloud.api.plans import policy_of, terms_of
from cloud.planner import Forecast, forecast
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.preflights import DisturbedError
from cloud.store.releases import new_release_id
from cloud.values import MAX_PERCENTAGE, ChannelKey, ReleaseDraft, ReleaseMetrics, ReleasePatch, ReleaseView
from cloud.watching import MAX_SHOWN, Watching
from protocol.codec import structure
from protocol.down import NoticeRelease
from protocol.identity import MAX_INTEGER
from protocol.manifest import Requirements
from protocol.values import FirmwareRef

TRIES: Final = 5
router = APIRouter(tags=["releases"])


@router.get("/releases")
def list_releases(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    caller: CallerDep,
    product: str | None = None,
    group: str | None = None,
    component: str | None = None,
    enabled: bool | None = None,
    metrics: bool = True,
) -> tuple[ReleasePage, ...]:
    """Return releases by channel, newest label first; without `metrics`, which take long to count for a large fleet."""
    products = seen_products(caller, product)
    found = server.store.releases.releases(product=product, group=group, component=component, enabled=enabled)
    found = tuple(it for it in found if products is None or it.channel.product in products)
    if not found:  # a group that was deleted may have had some
        check_filter(server.store, product=product, group=group, products=products)
    counted: dict[str, ReleaseMetrics] = {}
    for channel in {release.channel for release in found if metrics}:
        counted.update(server.store.metrics.channel(channel))
    rollouts = server.store.standings.rollouts([item.release_id for item in found])
    return tuple(
        ReleasePage(
            release=item,
            rollout=rollouts.get(item.release_id),
            metrics=counted.get(item.release_id),
            link=_link(server, item),
        )
        for item in found
    )


@router.post("/releases", status_code=HTTPStatus.CREATED)
def create_release(server: Server, actor: Actor, body: NewRelease) -> ReleasePage:
    """Release a published firmware on a channel, under its next label."""
    find_group(server.store, body.product, body.group)
    find_firmware(server.store, body.product, body.component, body.version)
    draft = draft_of(body, body.release_id)
    policy = policy_of(body.plan, draft.terms)
    if policy is not None and body.percentage != MAX_PERCENTAGE:
        raise InvalidError("a plan sets the percentage by its phases: give one of the two; nothing was changed")
    return page_of(server, server.store.releases.create(draft, by=actor, policy=policy))


@router.post("/releases/forecast")
def forecast_release(server: Server, body: ForecastRequest) -> ForecastAnswer:
    """Tell which devices would take a release now, and why each other one would not; changes nothing."""
    find_group(server.store, body.product, body.group)
    draft = draft_of(body, body.release_id or new_release_id())
    policy_of(body.plan, draft.terms)
    draft = replace(draft, terms=replace(draft.terms, not_before_ms=0))  # whom it reaches once it has begun
    if body.firmware is None:
        find_firmware(server.store, body.product, body.component, body.version)
        found = server.store.releases.forecast(draft)
    else:
        found = forecast_unpublished(server, draft, body.firmware)
    return ForecastAnswer(
        release_id=draft.release_id or "",
        reach=found.reach,
        takes=found.takes,
        holds=tuple(HeldDevice(device_id=h.device_id, reason=h.reason.value, detail=h.detail) for h in found.holds),
        sentence=found.sentence,
    )


@router.get("/releases/{release_id}")
def show_release(server: Server, release_id: str, metrics: bool = True) -> ReleasePage:
    """Return one release and what became of it; without `metrics`, which take long to count for a large fleet."""
    return page_of(server, server.store.releases.release(release_id), metrics=metrics)


@router.patch("/releases/{release_id}")
def patch_release(server: Server, actor: Actor, release_id: str, body: ReleaseChange) -> ReleasePage:
    """Change a release for the devices that it has not reached; with `if_waiting`, if those wait that were shown."""
    patch = ReleasePatch(**body.model_dump(exclude_unset=True, exclude={"if_waiting"}))
    if body.if_waiting is None:
        return page_of(server, server.store.releases.patch(release_id, patch, by=actor))
    for _ in range(TRIES):
        decided = server.store.preflights.decided()
        waiting = server.store.standings.waiting(release_id, limit=0)
        if waiting.digest != body.if_waiting:
            raise ConflictError(
                f"others wait for it than were shown: {waiting.count} devices do now; nothing was changed, look again"
            )
        try:
            return page_of(server, server.store.releases.patch(release_id, patch, by=actor, decided=decided))
        except DisturbedError:
            continue
    raise ConflictError("others decide things all the time just now; nothing was changed, try again")


@router.get("/releases/{release_id}/waiting")
def show_waiting(
    server: Server, release_id: str, limit: Annotated[int, Query(ge=0, le=MAX_SHOWN)] = MAX_SHOWN
) -> WaitingPage:
    """Tell who is to take a release and has not begun: how many, some of them, and the digest that a change is held to.

    It is counted anew each time, however large the fleet.
    """
    found = server.store.standings.waiting(release_id, limit=limit)
    return WaitingPage(count=found.count, digest=found.digest, devices=found.some)


@router.get("/releases/{release_id}/progress")
async def show_progress(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    watched: Watched,
    release_id: str,
    seen: int | None = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
    limit: Annotated[int, Query(ge=0, le=MAX_SHOWN)] = MAX_SHOWN,
) -> ReleaseProgress:
    """Return how far a release is; with `wait` and `seen`, as soon as that revision is past.

    `limit` devices are shown at most, those first that are under way or not well. For a release to thousands of devices
    the counts are some seconds old; what it has come to (`verdict`) is told when it is certain.
    """
    if seen is not None and wait:
        await server.changes.wait(seen, wait)
    return await asyncio.to_thread(progress_of, server, watched, release_id, limit)


def draft_of(body: NewRelease, release_id: str | None) -> ReleaseDraft:
    """Return what a request asks for; raises InvalidError."""
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
        terms=terms_of(body.terms),
    )


def forecast_unpublished(server: Backend, draft: ReleaseDraft, facts: FirmwareFacts) -> Forecast:
    """Return who would take firmware that is not published yet."""
    candidate = NoticeRelease(
        release_id=draft.release_id or "",
        label=MAX_INTEGER,  # newer than all that there are
        order=MAX_INTEGER,
        firmware=unpublished_ref(draft, facts),
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


def unpublished_ref(draft: ReleaseDraft, facts: FirmwareFacts) -> FirmwareRef:
    """Return firmware that is not published yet as messages would name it."""
    return FirmwareRef(
        component=draft.channel.component,
        version=draft.version,
        build=facts.build,
        seq=facts.seq,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        hardware_models=tuple(facts.hardware_models),
        requires=structure(facts.requires, Requirements),
        data_schema=facts.data_schema,
        reads_schemas=facts.reads_schemas,
    )


def page_of(server: Backend, release: ReleaseView, *, metrics: bool = True) -> ReleasePage:
    """Return a release's page."""
    release_id = release.release_id
    return ReleasePage(
        release=release,
        rollout=server.store.standings.rollouts([release_id]).get(release_id),
        metrics=server.store.metrics.release(release_id) if metrics else None,
        link=_link(server, release),
    )


def _link(server: Backend, release: ReleaseView) -> str:
    return server.link("releases", release.release_id)


def progress_of(server: Backend, watching: Watching, release_id: str, limit: int) -> ReleaseProgress:
    """Return how far a release is."""
    revision = server.changes.revision  # before what it describes is read: a change in between is seen next time
    found = watching.standing(release_id, limit=limit)
    return ReleaseProgress(
        revision=revision,
        release=found.release,
        metrics=found.metrics,
        stages=found.stages,
        rollout=found.rollout,
        verdict=found.verdict,
        devices=found.devices,
        left_out=found.left_out,
    )
