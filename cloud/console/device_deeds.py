"""What can be done to one device: each is an operation of the API, and leads back to the device's page."""

from fastapi import APIRouter, Response

from cloud.api.authorities import Revocation, revoke_device
from cloud.api.devices import lock_device, unlock_device
from cloud.api.documents import Lock, MembersChange, NewOta
from cloud.api.groups import change_members
from cloud.api.otas import cancel_ota, create_ota
from cloud.api.redundancy import take_turn_away
from cloud.console.device import device_path
from cloud.console.lines import line
from cloud.console.visiting import Visit
from cloud.store.errors import NotFoundError
from protocol.values import Urgency

router = APIRouter(include_in_schema=False)


@router.post("/devices/{device_id}/ota")
def update(visit: Visit, device_id: str) -> Response:
    """Decide a firmware for this device."""
    component, _, version = visit.form.text("firmware").partition(" ")
    gradual, forced = visit.form.text("urgency") == "gradual", visit.form.ticked("forced")
    words = ["--component", component, *(["--gradual"] if gradual else []), *(["--force", "--yes"] if forced else [])]
    return visit.act(
        "create_ota",
        lambda: create_ota(
            visit.server,
            visit.name,
            device_id,
            NewOta(
                component=component,
                version=version,
                urgency=Urgency.GRADUAL if gradual else Urgency.IMMEDIATE,
                forced=forced,
            ),
        ),
        to=device_path(device_id),
        said=f"{device_id} is to run {component} {version}.",
        cli=line("ota", "start", device_id, version, *words),
        body={"forced": forced},
        device_id=device_id,
    )


@router.post("/devices/{device_id}/ota/cancel")
def cancel(visit: Visit, device_id: str) -> Response:
    """Stop wanting a single-device OTA."""
    ota_id = visit.form.text("ota")
    return visit.act(
        "cancel_ota",
        lambda: cancel_ota(visit.server, visit.name, ota_id),
        to=device_path(device_id),
        said="The update is cancelled.",
        cli=line("ota", "cancel", ota_id),
        ota_id=ota_id,
    )


@router.post("/devices/{device_id}/lock")
def lock(visit: Visit, device_id: str) -> Response:
    """Lock this device to a version."""
    component, _, version = visit.form.text("locked").partition(" ")
    return visit.act(
        "lock_device",
        lambda: lock_device(visit.server, visit.name, device_id, component, Lock(version=version)),
        to=device_path(device_id),
        said=f"{device_id} is locked to {component} {version}.",
        cli=line("device", "lock", device_id, version, "--component", component),
        device_id=device_id,
    )


@router.post("/devices/{device_id}/unlock")
def unlock(visit: Visit, device_id: str) -> Response:
    """Let this device follow its releases again."""
    component = visit.form.text("component")
    return visit.act(
        "unlock_device",
        lambda: unlock_device(visit.server, visit.name, device_id, component),
        to=device_path(device_id),
        said=f"{device_id} follows the releases of {component} again.",
        cli=line("device", "unlock", device_id, "--component", component),
        device_id=device_id,
    )


@router.post("/devices/{device_id}/revoke")
def revoke(visit: Visit, device_id: str) -> Response:
    """Shut this device out."""
    reason = visit.form.text("reason")
    return visit.act(
        "revoke_device",
        lambda: revoke_device(visit.server, visit.name, device_id, Revocation(reason=reason)),
        to=device_path(device_id),
        said=f"{device_id} is shut out; the broker hears of it now.",
        cli=line("device", "revoke", device_id, *(["--reason", reason] if reason else []), "--yes"),
        device_id=device_id,
    )


@router.post("/devices/{device_id}/join")
def join(visit: Visit, device_id: str) -> Response:
    """Put this device into a group."""
    return _regroup(visit, device_id, visit.form.text("group"), joins=True)


@router.post("/devices/{device_id}/leave")
def leave(visit: Visit, device_id: str) -> Response:
    """Take this device out of a group."""
    return _regroup(visit, device_id, visit.form.text("group"), joins=False)


@router.post("/devices/{device_id}/turn")
def take_turn(visit: Visit, device_id: str) -> Response:
    """Let the other members of its redundancy sets go first."""
    return visit.act(
        "take_turn_away",
        lambda: take_turn_away(visit.server, visit.name, device_id),
        to=device_path(device_id),
        said=f"{device_id} has its turn no more: the others go on.",
        cli=line("set", "take-turn-away", device_id, "--yes"),
        device_id=device_id,
    )


def _regroup(visit: Visit, device_id: str, group: str, *, joins: bool) -> Response:
    visit.require("show_device", device_id=device_id)
    try:
        product = visit.server.store.devices.product_of(device_id)
    except NotFoundError as error:
        return visit.go("/devices", str(error), kind="error")
    body = MembersChange(add=[device_id]) if joins else MembersChange(remove=[device_id])
    return visit.act(
        "change_members",
        lambda: change_members(visit.server, visit.caller, product, group, body),
        to=device_path(device_id),
        said=f"{device_id} is in group {group} now." if joins else f"{device_id} is out of group {group}.",
        cli=line("group", "add" if joins else "remove", group, device_id, "--product", product),
        product=product,
    )
