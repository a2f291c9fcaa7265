"""One device: what it should run and what it runs, why it does not move, what it did, and what can be done to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from anyio import from_thread
from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from cloud.access.roles import Role
from cloud.api.authorities import list_certificates
from cloud.api.devices import show_device, show_history
from cloud.api.documents import OtaPage
from cloud.api.firmware import list_firmware
from cloud.api.groups import list_groups
from cloud.api.otas import show_ota
from cloud.api.preflight import ComponentWhy, show_why
from cloud.api.redundancy import list_sets
from cloud.api.timelines import show_device_timeline
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.fleet import AttemptView, DeviceView
from cloud.turns import RedundancySetView, Standing
from protocol.explaining import ASKED
from protocol.identity import EVERYONE
from protocol.phases import Outcome, Phase
from protocol.selection import Step
from protocol.values import Via

ATTEMPTS: Final = 20
MOMENTS: Final = 40
_WRITTEN: Final = frozenset(Phase) - {Phase.IDLE, Phase.DOWNLOADING, Phase.VERIFYING}
"""From these phases on the other slot was written to."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What a component's two slots hold: the one that runs, and the other one as far as the journal tells."""

    component: str
    running: str
    digest: str
    other: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A component: what runs, what should, who says so, and whether it moves now."""

    component: str
    running: str
    digest: str
    wanted: str
    because: str
    href: str
    state: str
    kind: str
    detail: str


@router.get("/devices/{device_id}")
def show_one(visit: Visit, device_id: str) -> Response:
    """Show a device."""
    visit.require("show_device", device_id=device_id)
    standing = _standing(visit, device_id)
    device: DeviceView = standing["device"]
    return visit.page("device.html", **standing, **_story(visit, device_id), **_offered(visit, device))


@router.get("/devices/{device_id}/standing")
def show_standing(visit: Visit, device_id: str) -> Response:
    """Show how a device stands, alone."""
    visit.require("show_device", device_id=device_id)
    return visit.page("device_standing.html", **_standing(visit, device_id))


@router.get("/devices/{device_id}/story")
def show_story(visit: Visit, device_id: str) -> Response:
    """Show what a device did, alone."""
    visit.require("show_history", device_id=device_id)
    return visit.page("device_story.html", device=show_device(visit.server, device_id), **_story(visit, device_id))


@router.get("/otas/{ota_id}")
def show_ota_of(visit: Visit, ota_id: str) -> Response:
    """Lead to the device of a single-device OTA."""
    visit.require("show_ota", ota_id=ota_id)
    found = _ota(visit, ota_id)
    return RedirectResponse(f"{device_path(found.ota.device_id)}#standing", 303)


def device_path(device_id: str, *more: str) -> str:
    """Return the address of a device's page, or of one below it."""
    return "/".join(["/devices", quote(device_id, safe=""), *more])


def _standing(visit: Visiting, device_id: str) -> dict[str, Any]:
    server = visit.server
    device = show_device(server, device_id)
    why = show_why(server, device_id)
    tried = show_history(server, device_id, limit=ATTEMPTS)
    sets = [it for it in list_sets(server, visit.caller) if any(m.device_id == device_id for m in it.members)]
    return {
        "device": device,
        "why": why,
        "aims": [_aim(device, it) for it in why.components],
        "slots": [slots_of(device, tried, it.component) for it in device.components],
        "otas": [_ota(visit, it.ota_id) for it in device.otas],
        "traces": [(it, tuple(_step(step) for step in it.decision.trace)) for it in why.components],
        "sets": [(it, _turn(it, device_id)) for it in sets],
        "has_turn": any(_turn(it, device_id) is Standing.HOLDS for it in sets),
        "now_ms": why.at_ms,
        "may_operate": visit.may(Role.OPERATOR, device.product),
        "everyone": EVERYONE,
    }


def _story(visit: Visiting, device_id: str) -> dict[str, Any]:
    timeline = from_thread.run(show_device_timeline, visit.server, device_id, None, MOMENTS)
    return {
        "history": show_history(visit.server, device_id, limit=ATTEMPTS),
        "moments": timeline.moments[::-1],
        "good": {Outcome.SUCCEEDED},
    }


def _offered(visit: Visiting, device: DeviceView) -> dict[str, Any]:
    """Return what can be chosen: only what is offered to somebody is looked up."""
    may = visit.may(Role.OPERATOR, device.product)
    firmware = list_firmware(visit.server, visit.caller, device.product) if may else ()
    groups = list_groups(visit.server, visit.caller, device.product) if may else ()
    fitting = [it for it in firmware if it.published and _fits(it.hardware_models, device)]
    return {
        "certificates": list_certificates(visit.server, device.device_id),
        "firmware": [(f"{it.component} {it.version}", f"{it.component} {it.version}") for it in fitting],
        "joinable": [(it.group, it.group) for it in groups if it.query is None and it.group not in device.groups],
        "by_hand": {it.group for it in groups if it.query is None and it.group != EVERYONE},
        "may_force": visit.may(Role.RELEASE_MANAGER, device.product),
        "line": line,
        "here": device_path(device.device_id),
    }


def _fits(models: Sequence[str], device: DeviceView) -> bool:
    return "*" in models or device.hardware_model in models


def _ota(visit: Visiting, ota_id: str) -> OtaPage:
    return from_thread.run(show_ota, visit.server, ota_id)


def _turn(found: RedundancySetView, device_id: str) -> Standing:
    return next(it.standing for it in found.members if it.device_id == device_id)


def _step(step: Step) -> dict[str, Any]:
    return {"asks": ASKED[step.rule], "subject": step.subject, "saw": step.saw, "passed": step.passed}


def _aim(device: DeviceView, why: ComponentWhy) -> Aim:
    decision, held = why.decision, why.held
    runs = next((it for it in device.components if it.component == decision.component), None)
    wanted = decision.wanted
    because, href = "nothing is decided for it", ""
    if wanted is not None and wanted.via is Via.PIN:
        because = "locked"
    elif wanted is not None and wanted.via is Via.OTA:
        because = "single-device OTA"
    elif wanted is not None:
        because, href = f"release v{wanted.label} of {wanted.group}", f"/releases/{quote(wanted.source_id, safe='')}"
    state, kind = ("takes it", "busy") if held is None else _KINDS.get(held.reason, (held.reason, "warn"))
    return Aim(
        component=decision.component,
        running=runs.version if runs else "",
        digest=runs.digest if runs else "",
        wanted=wanted.firmware.version if wanted else "",
        because=because,
        href=href,
        state=state.replace("_", " "),
        kind=kind,
        detail=held.detail if held else "as far as the cloud knows",
    )


_KINDS: Final = {
    "up_to_date": ("up to date", "good"),
    "nothing_released": ("nothing to do", "idle"),
    "not_in_group": ("nothing to do", "idle"),
    "percentage": ("not covered yet", "idle"),
    "target_range": ("not in the target range", "idle"),
    "not_before": ("not begun", "idle"),
    "next_session": ("waits for its session", "idle"),
    "under_way": ("under way", "busy"),
    "failed_before": ("failed before", "bad"),
}
"""How the planner's reasons are shown; the others are warnings in their own words."""


def slots_of(device: DeviceView, tried: Sequence[AttemptView], component: str) -> Slots:
    """Return what a component's slots hold; the other slot's content is known from the attempts, newest first."""
    running = next(it for it in device.components if it.component == component)
    other, note = "not known", "its journal tells of nothing that was installed"
    for it in tried:
        reached = {it.phase, *(step.phase for step in it.steps)}
        if it.component != component or not reached & _WRITTEN:
            continue
        if it.digest == running.digest and it.from_version:
            other, note = it.from_version, "what it ran before, to fall back on"
        elif it.outcome is None:
            other, note = it.version, f"{it.phase.value.replace('_', ' ')} now"
        else:
            other, note = it.version, "tried, and not kept"
        break
    return Slots(component=component, running=running.version, digest=running.digest, other=other, note=note)
