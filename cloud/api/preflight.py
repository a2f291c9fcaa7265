"""Before anything moves: why one device does what it does, what a release would do, and a release held to that."""

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.api.backend import Actor, Backend, Server
from cloud.api.documents import ForecastRequest, NewRelease, ReleasePage, Text
from cloud.api.naming import find_device, find_firmware, find_group
from cloud.api.plans import policy_of
from cloud.api.releases import draft_of, forecast_unpublished, page_of, unpublished_ref
from cloud.guard.policy import plain
from cloud.holding import why_not_now
from cloud.planner import Forecast, components_of
from cloud.preflight import Bytes, Finish, Preflight, preflight, release_id_of, what_changed
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.preflights import DisturbedError
from cloud.values import MAX_PERCENTAGE
from protocol.codec import to_plain
from protocol.explaining import explain
from protocol.identity import MAX_INTEGER
from protocol.selection import Decision, select

TRIES: Final = 5
router = APIRouter(tags=["preflight"])


class Held(BaseModel):
    """Why a device does not move now: a reason of the planner's, and a sentence's end."""

    reason: str
    detail: str


class ComponentWhy(BaseModel):
    """What a device should do about one component: every rule in order, in `lines` for people.

    `held` is null for a device that may move now.
    """

    decision: Decision
    lines: tuple[str, ...]
    held: Held | None


class DeviceWhy(BaseModel):
    """Why one device does what it does, at a time, as the cloud knows it."""

    device_id: str
    at_ms: int
    online: bool
    components: tuple[ComponentWhy, ...]


@router.get("/devices/{device_id}/why")
def show_why(server: Server, device_id: str) -> DeviceWhy:
    """Return every rule for one device in order, what it saw and said, and why the device does not move now."""
    find_device(server.store, device_id)
    view = server.store.devices.alone(device_id)
    (device,), now_ms = view.devices, view.now_ms
    found = []
    for name in components_of(view.channels, device):
        decision = select(device.facts, device.assignment, view.channels, name, now_ms=now_ms)
        why = why_not_now(device, decision, now_ms)
        held = Held(reason=why[0].value, detail=why[1]) if why else None
        found.append(ComponentWhy(decision=decision, lines=explain(decision), held=held))
    return DeviceWhy(device_id=device_id, at_ms=now_ms, online=device.online, components=tuple(found))


class PlanRequest(ForecastRequest):
    """A release that may be made; with `devices` each device's verdict is told, too.

    Of many, those of one `verdict` alone, or `limit` of each; by id, `after` the last one of the answer before.
    """

    devices: Annotated[bool, Field(strict=True)] = False
    verdict: Text | None = None
    after: Text = ""
    limit: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None


class PlannedDevice(BaseModel):
    """A device's verdict: `takes`, or the planner's reason why it would not take it."""

    device_id: str
    verdict: str
    detail: str


class ReleasePlan(BaseModel):
    """What a release would do, and the hash that a release can be held to.

    `counts` maps each verdict to how many devices have it; `devices` are those of the group, if they are asked for.
    `warnings` say why it would be refused all the same.
    """

    release_id: str
    plan_hash: str
    sentence: str
    counts: dict[str, int]
    bytes: Bytes
    finish: Finish
    devices: tuple[PlannedDevice, ...] | None
    warnings: tuple[str, ...] = ()


@router.post("/releases/plan")
def plan_release(server: Server, actor: Actor, body: PlanRequest) -> ReleasePlan:
    """Tell what a release would do; moves nothing, and keeps the plan's hash in the audit log."""
    asked, told, made = _preflight(server, body)
    subject = f"plan/{made.plan_hash}"
    if server.store.audit.last(subject) is None:
        server.store.audit.record(actor, "release.planned", subject, after={"asked": asked, "counts": made.counts})
    some = _planned(told, body.verdict, body.after, body.limit) if body.devices else None
    return _page(made, some, _warnings(server, body))


@router.post("/releases/plan/{plan_hash}", status_code=HTTPStatus.CREATED)
def release_by_plan(server: Server, actor: Actor, plan_hash: str, body: NewRelease) -> ReleasePage:
    """Make a release that was planned, if what it would do is what was planned; conflict, and what changed, if not."""
    for _ in range(TRIES):
        decided = server.store.preflights.decided()
        _check_unchanged(server, plan_hash, body)
        draft = draft_of(body, release_id_of(_asked(server, body)))
        policy = policy_of(body.plan, draft.terms)
        try:
            made = server.store.releases.create(draft, by=actor, policy=policy, plan_hash=plan_hash, decided=decided)
        except DisturbedError:
            continue
        return page_of(server, made)
    raise ConflictError("others decide things all the time just now; nothing was released, try again")


@router.post("/releases/plan/{plan_hash}/check")
def check_plan(server: Server, plan_hash: str, body: ForecastRequest) -> ReleasePlan:
    """Tell whether what a release would do is what was planned; conflict, and what changed, if not."""
    return _page(_check_unchanged(server, plan_hash, body), None)


def _check_unchanged(server: Backend, plan_hash: str, body: NewRelease) -> Preflight:
    planned = server.store.audit.last(f"plan/{plan_hash}")
    if planned is None:
        raise ConflictError(f"no plan {plan_hash:.80} was made here; nothing was released. `release plan` makes one")
    asked, _, made = _preflight(server, body)
    if made.plan_hash != plan_hash:
        before = planned.after
        changes = what_changed(before["asked"], asked, before["counts"], made.counts)
        raise ConflictError(f"the world is not as it was planned: {changes}. Nothing was released; plan it again")
    return made


def _asked(server: Backend, body: NewRelease) -> dict[str, Any]:
    """Return what is asked for, with all that follows from it, as JSON values."""
    draft = draft_of(body, None)
    policy = policy_of(body.plan, draft.terms)
    unpublished = body.firmware if isinstance(body, ForecastRequest) else None
    found = unpublished or find_firmware(server.store, body.product, body.component, body.version)
    there = server.store.releases.releases(product=body.product, group=body.group, component=body.component)
    return {
        "product": body.product,
        "group": body.group,
        "component": body.component,
        "version": body.version,
        "digest": found.digest,
        "label": max((it.label for it in there), default=0) + 1,
        "percentage": body.percentage,
        "mandatory": body.mandatory,
        "forced": body.forced,
        "urgency": body.urgency.value,
        "target_range": body.target_range,
        "terms": to_plain(draft.terms),
        "plan": plain(policy) if policy else None,
    }


def _preflight(server: Backend, body: NewRelease) -> tuple[dict[str, Any], Forecast, Preflight]:
    find_group(server.store, body.product, body.group)
    draft = draft_of(body, None)
    policy = policy_of(body.plan, draft.terms)
    if policy is not None and body.percentage != MAX_PERCENTAGE:
        raise InvalidError("a plan sets the percentage by its phases: give one of the two; nothing was changed")
    asked = _asked(server, body)
    begun = replace(draft, release_id=release_id_of(asked), terms=replace(draft.terms, not_before_ms=0))
    if isinstance(body, ForecastRequest) and body.firmware is not None:
        told, size_bytes = forecast_unpublished(server, begun, body.firmware), body.firmware.size_bytes
    else:
        told = server.store.releases.forecast(begun)
        size_bytes = find_firmware(server.store, body.product, body.component, body.version).size_bytes
    made = preflight(
        asked,
        size_bytes,
        told,
        policy=policy,
        absences_ms=server.store.preflights.absences_ms(body.product),
        now_ms=server.store.preflights.now_ms(),
    )
    return asked, told, made


def _warnings(server: Backend, body: ForecastRequest) -> tuple[str, ...]:
    draft = draft_of(body, None)
    unpublished = unpublished_ref(draft, body.firmware) if body.firmware else None
    return server.store.preflights.warnings(draft, unpublished)


def _page(made: Preflight, devices: tuple[PlannedDevice, ...] | None, warnings: tuple[str, ...] = ()) -> ReleasePlan:
    return ReleasePlan(
        release_id=made.release_id,
        plan_hash=made.plan_hash,
        sentence=made.sentence,
        counts=dict(made.counts),
        bytes=made.bytes,
        finish=made.finish,
        devices=devices,
        warnings=warnings,
    )


def _planned(told: Forecast, only: str | None, after: str, limit: int | None) -> tuple[PlannedDevice, ...]:
    return tuple(
        PlannedDevice(device_id=device_id, verdict=verdict, detail=detail)
        for device_id, verdict, detail in told.verdicts(only, after=after, limit=limit)
    )
