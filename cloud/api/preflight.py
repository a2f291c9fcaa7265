"""Before anything moves: why one device does what it does, what a release would do, and a release held to that."""

from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.api.backend import Actor, Backend, Server
from cloud.api.documents import ForecastRequest, NewRelease, Promotion, ReleasePage, Rollback, Text
from cloud.api.naming import find_device, find_firmware, find_group
from cloud.api.plans import policy_of
from cloud.api.releases import draft_of, forecast_unpublished, page_of, unpublished_ref
from cloud.guard.policy import plain
from cloud.holding import why_not_now
from cloud.planner import Forecast, components_of
from cloud.preflight import Bytes, Finish, Preflight, preflight, release_id_of, what_changed
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.preflights import DisturbedError, HeldTo
from cloud.values import MAX_PERCENTAGE, ReleaseDraft, ReleaseView
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
    With `rollback_to`, a label of the channel, it is the roll-back to that label, which reaches whom that one reached:
    its firmware and its target range are what that label says, whatever stands here.
    """

    devices: Annotated[bool, Field(strict=True)] = False
    verdict: Text | None = None
    after: Text = ""
    limit: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None
    rollback_to: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None


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
    draft = draft_of(body, None)
    policy = policy_of(body.plan, draft.terms)
    return _held(
        server, plan_hash, body, lambda held: server.store.releases.create(draft, by=actor, policy=policy, held=held)
    )


@router.post("/releases/{release_id}/rollback", status_code=HTTPStatus.CREATED)
def roll_back(server: Server, actor: Actor, release_id: str, body: Rollback) -> ReleasePage:
    """Make this earlier, successful release Live again, under a new label that references it.

    With the `plan_hash` of such a roll-back, only if what it would do is what was planned.
    """
    target = server.store.releases.release(release_id)

    def make(held: HeldTo | None) -> ReleaseView:
        return server.store.releases.rollback(
            target.channel, target.label, by=actor, urgency=body.urgency, description=body.description, held=held
        )

    planned = PlanRequest(**_channel(target, target.channel.group), urgency=body.urgency, rollback_to=target.label)
    return _held(server, body.plan_hash, planned, make)


@router.post("/releases/{release_id}/promote", status_code=HTTPStatus.CREATED)
def promote_release(server: Server, actor: Actor, release_id: str, body: Promotion) -> ReleasePage:
    """Release what succeeded here to another group, or to a new label of its own channel.

    With the `plan_hash` of a release that says the same, only if what it would do is what was planned.
    """
    source = server.store.releases.release(release_id)
    find_group(server.store, source.channel.product, body.group)

    def make(held: HeldTo | None) -> ReleaseView:
        return server.store.releases.promote(
            release_id,
            body.group,
            by=actor,
            percentage=body.percentage,
            mandatory=body.mandatory,
            urgency=body.urgency,
            description=body.description,
            held=held,
        )

    planned = NewRelease(
        **_channel(source, body.group),
        percentage=body.percentage,
        mandatory=source.mandatory if body.mandatory is None else body.mandatory,
        urgency=body.urgency or source.urgency,
        target_range=source.target_range,
    )
    return _held(server, body.plan_hash, planned, make)


@router.post("/releases/plan/{plan_hash}/check")
def check_plan(server: Server, plan_hash: str, body: ForecastRequest) -> ReleasePlan:
    """Tell whether what a release would do is what was planned; conflict, and what changed, if not."""
    return _page(_check_unchanged(server, plan_hash, body), None)


def _held(
    server: Backend, plan_hash: str | None, body: NewRelease, make: Callable[[HeldTo | None], ReleaseView]
) -> ReleasePage:
    """Make a release; with a plan's hash only if what it would do is what was planned, when it is made."""
    if plan_hash is None:
        return page_of(server, make(None))
    for _ in range(TRIES):
        decided = server.store.preflights.decided()
        planned = _check_unchanged(server, plan_hash, body)
        try:
            return page_of(server, make(HeldTo(planned.release_id, plan_hash, decided)))
        except DisturbedError:
            continue
    raise ConflictError("others decide things all the time just now; nothing was released, try again")


def _channel(release: ReleaseView, group: str) -> dict[str, Any]:
    channel = release.channel
    return {
        "product": channel.product,
        "group": group,
        "component": channel.component,
        "version": release.firmware.version,
    }


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


def _draft(server: Backend, body: NewRelease) -> ReleaseDraft:
    """Return what would be released."""
    draft = draft_of(body, None)
    if not isinstance(body, PlanRequest) or body.rollback_to is None:
        return draft
    back = server.store.releases.rollback_draft(draft.channel, body.rollback_to)
    return replace(back, urgency=draft.urgency)


def _asked(server: Backend, body: NewRelease, draft: ReleaseDraft) -> dict[str, Any]:
    """Return what is asked for, with all that follows from it, as JSON values."""
    policy = policy_of(body.plan, draft.terms)
    unpublished = body.firmware if isinstance(body, ForecastRequest) else None
    found = unpublished or find_firmware(server.store, body.product, body.component, draft.version)
    there = server.store.releases.releases(product=body.product, group=body.group, component=body.component)
    back = {"rollback_to": body.rollback_to} if isinstance(body, PlanRequest) and body.rollback_to else {}
    return back | {
        "product": body.product,
        "group": body.group,
        "component": body.component,
        "version": draft.version,
        "digest": found.digest,
        "label": max((it.label for it in there), default=0) + 1,
        "percentage": draft.percentage,
        "mandatory": draft.mandatory,
        "forced": draft.forced,
        "urgency": draft.urgency.value,
        "target_range": draft.target_range,
        "terms": to_plain(draft.terms),
        "plan": plain(policy) if policy else None,
    }


def _preflight(server: Backend, body: NewRelease) -> tuple[dict[str, Any], Forecast, Preflight]:
    find_group(server.store, body.product, body.group)
    draft = _draft(server, body)
    policy = policy_of(body.plan, draft.terms)
    if policy is not None and body.percentage != MAX_PERCENTAGE:
        raise InvalidError("a plan sets the percentage by its phases: give one of the two; nothing was changed")
    asked = _asked(server, body, draft)
    begun = replace(draft, release_id=release_id_of(asked), terms=replace(draft.terms, not_before_ms=0))
    if isinstance(body, ForecastRequest) and body.firmware is not None:
        told, size_bytes = forecast_unpublished(server, begun, body.firmware), body.firmware.size_bytes
    else:
        told = server.store.releases.forecast(begun)
        size_bytes = find_firmware(server.store, body.product, body.component, draft.version).size_bytes
    made = preflight(
        asked,
        size_bytes,
        told,
        policy=policy,
        absences_ms=server.store.preflights.absences_ms(body.product),
        now_ms=server.store.preflights.now_ms(),
    )
    return asked, told, made


def _warnings(server: Backend, body: PlanRequest) -> tuple[str, ...]:
    if body.rollback_to is not None:  # what brings a version back is a brake, and not refused
        return ()
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
