"""Devices: enrolment, how they stand, what they did, and why they do what they do."""

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from cloud.api.access import seen_products
from cloud.api.backend import Actor, Backend, CallerDep, Server
from cloud.api.device_lists import MAX_LISTED_ATTRIBUTES, MAX_PAGE, MAX_QUIET_S, Which, filter_of
from cloud.api.documents import DevicePage, Lock, NewDevice
from cloud.api.naming import check_filter, find_device, find_firmware, find_group, find_product
from cloud.attention import Trouble
from cloud.fleet import AttemptFilter, AttemptView, CertificateStanding, DeviceView, PinView
from cloud.store.errors import NotFoundError
from protocol.identity import MAX_INTEGER
from protocol.phases import Outcome, Wait
from protocol.selection import Decision

router = APIRouter(tags=["devices"])


@router.get("/devices")
def list_devices(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    caller: CallerDep,
    product: str | None = None,
    group: str | None = None,
    online: bool | None = None,
    component: str | None = None,
    version: str | None = None,
    pending: bool | None = None,
    text: str | None = None,
    hardware_model: str | None = None,
    attribute: Annotated[list[str] | None, Query(max_length=MAX_LISTED_ATTRIBUTES)] = None,
    held: bool | None = None,
    failed: str | None = None,
    quiet_for_s: Annotated[int | None, Query(ge=0, le=MAX_QUIET_S)] = None,
    locked: bool | None = None,
    revoked: bool | None = None,
    decision: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
    waits: Wait | None = None,
    trouble: Trouble | None = None,
    certificate: CertificateStanding | None = None,
    refused: bool | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> DevicePage:
    """Return a page of devices by id; all that is asked must be true of each.

    `text` is somewhere in the id, an `attribute` is name=value (repeated: all of them), `failed` is why the newest
    attempt at some component did not succeed (`any`: for whatever reason, `none`: for none that it told); who is `held`
    has an application that holds updates back now, and who is away and was last heard so long ago is quiet
    (`quiet_for_s`). `decision`: one decision for many changed it, by the number of its row in the audit. On who `waits`
    there is something for that reason; who is in `trouble` needs somebody, as `/fleet/attention` counts; `certificate`
    is how the newest one stands; who has `refused` something was sent what it could not verify.
    """
    products = seen_products(caller, product)
    asked = Which(
        product=product,
        group=group,
        online=online,
        component=component,
        version=version,
        pending=pending,
        text=text,
        hardware_model=hardware_model,
        attribute=attribute or [],
        held=held,
        failed=failed,
        quiet_for_s=quiet_for_s,
        locked=locked,
        revoked=revoked,
        decision=decision,
        waits=waits,
        trouble=trouble,
        certificate=certificate,
        refused=refused,
    )
    which = filter_of(server, asked, products=products, after=after, limit=limit)
    found = server.store.devices.devices(which)
    if not found:
        check_filter(server.store, product=product, group=group, products=products)
    is_last = len(found) < limit
    total = len(found) if is_last and after is None else server.store.devices.count(which)
    devices = tuple(_with_refusals(server, device) for device in found)
    return DevicePage(total=total, devices=devices, next=None if is_last else found[-1].device_id)


@router.post("/devices", status_code=HTTPStatus.CREATED)
def enrol_device(server: Server, actor: Actor, body: NewDevice) -> DeviceView:
    """Make a device known before its first hello."""
    find_product(server.store, body.product)
    for group in dict.fromkeys(body.groups):
        find_group(server.store, body.product, group)
    return server.store.devices.register(
        body.device_id, product=body.product, hardware_model=body.hardware_model, groups=body.groups, by=actor
    )


@router.get("/devices/{device_id}")
def show_device(server: Server, device_id: str) -> DeviceView:
    """Return one device."""
    try:
        return _with_refusals(server, find_device(server.store, device_id))
    except NotFoundError as error:
        if refused := server.refusals.of(device_id):
            why = str(error) + ("" if str(error).endswith("?") else ".")
            last = f"{refused[0].kind} was refused: {refused[0].sentence}"
            raise NotFoundError(f"{why} Something of that name speaks to the server, and its last {last}") from None
        raise


@router.get("/devices/{device_id}/history")
def show_history(
    server: Server, device_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> tuple[AttemptView, ...]:
    """Return what a device did, newest first, with every step."""
    find_device(server.store, device_id)
    return server.store.journal.history(device_id, limit=limit)


@router.get("/devices/{device_id}/decisions")
def show_decisions(server: Server, device_id: str) -> tuple[Decision, ...]:
    """Return, per component, what a device should do and every step that led there."""
    find_device(server.store, device_id)
    return server.store.devices.decide(device_id)


@router.put("/devices/{device_id}/lock/{component}")
def lock_device(server: Server, actor: Actor, device_id: str, component: str, body: Lock) -> PinView:
    """Lock a device to a version of a component."""
    find_firmware(server.store, find_device(server.store, device_id).product, component, body.version)
    return server.store.devices.pin(device_id, component, body.version, by=actor)


@router.delete("/devices/{device_id}/lock/{component}", status_code=HTTPStatus.NO_CONTENT)
def unlock_device(server: Server, actor: Actor, device_id: str, component: str) -> None:
    """Let a device follow its releases again."""
    find_device(server.store, device_id)
    server.store.devices.unpin(device_id, component, by=actor)


@router.get("/attempts", tags=["attempts"])
def list_attempts(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    caller: CallerDep,
    device: str | None = None,
    product: str | None = None,
    source: str | None = None,
    open_only: bool = False,
    outcome: Outcome | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> tuple[AttemptView, ...]:
    """Return attempts, newest first; `source` is a release's or an OTA's id."""
    which = AttemptFilter(
        device_id=device,
        product=product,
        products=seen_products(caller, product),
        source_id=source,
        open_only=open_only,
        outcome=outcome,
        limit=limit,
    )
    found = server.store.journal.attempts(which)
    if not found:
        check_filter(server.store, product=product)
    return found


def _with_refusals(server: Backend, device: DeviceView) -> DeviceView:
    return replace(device, refused_messages=server.refusals.of(device.device_id))
