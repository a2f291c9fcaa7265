"""Redundancy sets: devices of which never two are unconfirmed at once, and whose turn it is."""

from http import HTTPStatus

from fastapi import APIRouter
from pydantic import BaseModel

from cloud.access.roles import Role
from cloud.api.access import may_see, permit
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import Document, MembersChange, MembersChanged
from cloud.api.naming import find_device, find_set
from cloud.turns import RedundancySetView

router = APIRouter(tags=["redundancy sets"])


class NewSet(Document):
    """A redundancy set, empty at first."""

    name: str


class TurnTaken(BaseModel):
    """Whose turn was taken away, and the attempt that it was for."""

    device_id: str
    attempt_id: str


@router.get("/sets")
def list_sets(server: Server, caller: CallerDep) -> tuple[RedundancySetView, ...]:
    """Return redundancy sets by name, with how their members stand."""
    sets = server.store.redundancy.sets()
    return tuple(it for it in sets if all(may_see(caller, member.product) for member in it.members))


@router.post("/sets", status_code=HTTPStatus.CREATED)
def create_set(server: Server, actor: Actor, body: NewSet) -> RedundancySetView:
    """Make an empty redundancy set."""
    return server.store.redundancy.create_set(body.name, by=actor)


@router.get("/sets/{name}")
def show_set(server: Server, name: str) -> RedundancySetView:
    """Return one redundancy set and how its members stand."""
    return find_set(server.store, name)


@router.delete("/sets/{name}", status_code=HTTPStatus.NO_CONTENT)
def delete_set(server: Server, actor: Actor, name: str) -> None:
    """Delete a redundancy set: its devices are updated without regard to each other."""
    find_set(server.store, name)
    server.store.redundancy.delete_set(name, by=actor)


@router.post("/sets/{name}/members")
def change_set_members(server: Server, caller: CallerDep, name: str, body: MembersChange) -> MembersChanged:
    """Put devices into a redundancy set and take others out of it."""
    find_set(server.store, name)
    for device_id in dict.fromkeys([*body.add, *body.remove]):
        permit(server, caller, Role.OPERATOR, device_id)
        find_device(server.store, device_id)
    redundancy = server.store.redundancy
    added = redundancy.add_to_set(name, body.add, by=caller.name) if body.add else 0
    removed = redundancy.remove_from_set(name, body.remove, by=caller.name) if body.remove else 0
    return MembersChanged(added=added, removed=removed)


@router.delete("/devices/{device_id}/turn")
def take_turn_away(server: Server, actor: Actor, device_id: str) -> TurnTaken:
    """Let the other members go before this device has told how its attempt ended."""
    find_device(server.store, device_id)
    return TurnTaken(device_id=device_id, attempt_id=server.store.redundancy.take_turn_away(device_id, by=actor))
