"""Single-device OTAs."""

import asyncio
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from cloud.api.backend import MAX_WAIT_S, Actor, Backend, Server
from cloud.api.documents import NewOta, OtaPage
from cloud.api.naming import find_device, find_firmware
from cloud.fleet import AttemptFilter, OtaView
from cloud.progress import DeviceProgress, Stage, device_progress

router = APIRouter(tags=["otas"])


@router.post("/devices/{device_id}/ota", status_code=HTTPStatus.CREATED)
def create_ota(server: Server, actor: Actor, device_id: str, body: NewOta) -> OtaPage:
    """Decide a firmware for one device."""
    find_firmware(server.store, find_device(server.store, device_id).product, body.component, body.version)
    made = server.store.devices.create_ota(
        device_id, body.component, body.version, by=actor, urgency=body.urgency, forced=body.forced
    )
    return _page(server, made)


@router.get("/otas/{ota_id}")
async def show_ota(
    server: Server,
    ota_id: str,
    seen: int | None = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
) -> OtaPage:
    """Return an OTA and how its device stands with it; with `wait` and `seen`, as soon as that revision is past."""
    if seen is not None and wait:
        await server.changes.wait(seen, wait)
    return await asyncio.to_thread(lambda: _page(server, server.store.devices.ota(ota_id)))


@router.delete("/otas/{ota_id}")
def cancel_ota(server: Server, actor: Actor, ota_id: str) -> OtaPage:
    """Stop wanting an OTA."""
    return _page(server, server.store.devices.cancel_ota(ota_id, by=actor))


def _page(server: Backend, ota: OtaView) -> OtaPage:
    revision = server.changes.revision
    seen = server.store.devices.alone(ota.device_id)
    (situation,) = seen.devices
    attempts = server.store.journal.attempts(AttemptFilter(source_id=ota.ota_id, limit=1))
    found = device_progress(
        ota.ota_id,
        ota.firmware.component,
        situation,
        seen.channels,
        now_ms=seen.now_ms,
        view=server.store.devices.device(ota.device_id),
        attempt=attempts[0] if attempts else None,
    )
    device = found or DeviceProgress(
        device_id=ota.device_id, online=situation.online, stage=Stage.CANCELLED, detail="another decision came after it"
    )
    # Read last: an OTA whose device is seen to have settled is seen to be closed.
    latest = server.store.devices.ota(ota.ota_id)
    return OtaPage(revision=revision, ota=latest, device=device, link=server.link("otas", ota.ota_id))
