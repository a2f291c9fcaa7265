"""Before anything moves: why one device does what it does."""

from fastapi import APIRouter
from pydantic import BaseModel

from cloud.api.backend import Server
from cloud.api.naming import find_device
from cloud.holding import why_not_now
from cloud.planner import components_of
from protocol.explaining import explain
from protocol.selection import Decision, select

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
