"""Redundancy sets: who is in one, whose turn it is, and how a turn is taken away."""

from urllib.parse import quote

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import MembersChange, MembersChanged
from cloud.api.redundancy import (
    NewSet,
    change_set_members,
    create_set,
    delete_set,
    show_set,
    take_turn_away,
)
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit
from cloud.turns import SetMember, Standing

ORDER = (Standing.HOLDS, Standing.WAITS, Standing.FREE)

router = APIRouter(include_in_schema=False)


def set_path(name: str, *more: str) -> str:
    """Return the address of a set's page, or of one below it."""
    return "/".join(["/sets", quote(name, safe=""), *more])


@router.post("/sets")
def make(visit: Visit) -> Response:
    """Make a set, of devices that are named."""
    name, devices = visit.form.text("name"), list(visit.form.words("devices"))
    words = [it for device in devices for it in ("--device", device)]
    try:
        visit.do("create_set", lambda: create_set(visit.server, visit.name, NewSet(name=name)))
    except RefusedError as error:
        return visit.go("/groups#sets", str(error), kind="error", code=error.code)
    if not devices:
        return visit.go(set_path(name), f"Redundancy set {name} is made.", cli=line("set", "create", name))
    return visit.act(
        "change_set_members",
        lambda: change_set_members(visit.server, visit.caller, name, MembersChange(add=devices)),
        to=set_path(name),
        said=f"Redundancy set {name} is made.",
        cli=line("set", "create", name, *words),
        name=name,
    )


@router.get("/sets/{name}")
def show_one(visit: Visit, name: str) -> Response:
    """Show a set: who has its turn on top, then who waits, the next one first."""
    visit.require("show_set", name=name)
    shown = show_set(visit.server, name)
    products = sorted({it.product for it in shown.members})
    return visit.page(
        "redundancy_set.html",
        set=shown,
        members=sorted(shown.members, key=_place),
        may_fill=all(visit.may(Role.OPERATOR, it) for it in products),
        may_delete=all(visit.may(Role.RELEASE_MANAGER, it) for it in products),
        line=line,
    )


@router.post("/sets/{name}/members")
def set_members(visit: Visit, name: str) -> Response:
    """Put devices in, or take them out."""
    devices, adds = list(visit.form.words("devices")), visit.form.text("deed") == "add"

    def deed() -> MembersChanged:
        if not devices:
            raise RefusedError("No device was named. Nothing was changed; write the ids of some.")
        body = MembersChange(add=devices) if adds else MembersChange(remove=devices)
        return change_set_members(visit.server, visit.caller, name, body)

    return visit.act(
        "change_set_members",
        deed,
        to=set_path(name),
        said=lambda done: f"{done.added} devices are new in {name}." if adds else f"{done.removed} left {name}.",
        cli=line("set", "add" if adds else "remove", name, *devices),
        name=name,
    )


@router.post("/sets/{name}/turn")
def take_turn(visit: Visit, name: str) -> Response:
    """Let the others go before a device has told how its update ended."""
    device_id = visit.form.text("device_id")
    return visit.act(
        "take_turn_away",
        lambda: take_turn_away(visit.server, visit.name, device_id),
        to=set_path(name),
        said=f"{device_id} has its turn no more: the others go on.",
        cli=line("set", "take-turn-away", device_id, "--yes"),
        device_id=device_id,
    )


@router.post("/sets/{name}/delete")
def delete(visit: Visit, name: str) -> Response:
    """Delete a set."""
    try:
        visit.do("delete_set", lambda: delete_set(visit.server, visit.name, name), name=name)
    except RefusedError as error:
        return visit.go(set_path(name), str(error), kind="error", code=error.code)
    said = f"Redundancy set {name} is deleted: its devices are updated without regard to each other."
    return visit.go("/groups#sets", said, cli=line("set", "delete", name, "--yes"))


def _place(member: SetMember) -> tuple[int, int, str]:
    return ORDER.index(member.standing), member.asked or 0, member.device_id
