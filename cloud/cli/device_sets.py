"""`fleetlift set`: redundancy sets, of which never two devices are unconfirmed at once."""

from typing import Any

import click

from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, moment, plural
from cloud.turns import Standing


def _standing(*standings: Standing) -> Any:
    return lambda row: [it["device_id"] for it in row["members"] if it["standing"] in standings]


COLUMNS = (
    Column("set", "name"),
    Column("devices", lambda row: len(row["members"]), justify="right"),
    Column("has its turn", _standing(Standing.HOLDS)),
    Column("waits", _standing(Standing.WAITS)),
    Column("created", lambda row: moment(row["created_at_ms"])),
    Column("by", "created_by"),
)
MEMBERS = (
    Column("device", "device_id"),
    Column("product", "product"),
    Column("online", "online"),
    Column("turn", lambda row: {"free": "-", "waits": "waits for it", "holds": "has it"}[row["standing"]]),
    Column("attempt", "attempt_id"),
)


@click.group("set", cls=Group)
def set_() -> None:
    """Redundancy sets: devices of which never two are updated at once.

    A member installs nothing before it has its turn in all its sets, and keeps it until the cloud knows how the update
    ended; who asked first goes first.
    """


@set_.command("create", examples=("fleetlift set create icu-3 --device monitor-1 --device monitor-2",))
@click.argument("name", metavar="SET")
@click.option("--device", "devices", multiple=True, metavar="DEVICE", help="Put this device in; may be repeated.")
@pass_operator
def create(operator: Operator, *, name: str, devices: tuple[str, ...]) -> None:
    """Make a set."""
    for device in devices:  # looked up first: a device that does not exist leaves no half-made set
        operator.api.get("devices", device)
    made = operator.api.post("sets", body={"name": name})
    if devices:
        operator.api.post("sets", name, "members", body={"add": list(devices)})
        made = operator.api.get("sets", name)
    operator.output.say(f"Redundancy set {name} is made, with {plural(len(devices), 'device')}.")
    operator.output.record(made, COLUMNS)


@set_.command("add", examples=("fleetlift set add icu-3 monitor-3",))
@click.argument("name", metavar="SET")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@pass_operator
def add(operator: Operator, *, name: str, devices: tuple[str, ...]) -> None:
    """Put devices into a set."""
    changed = operator.api.post("sets", name, "members", body={"add": list(devices)})
    operator.output.say(f"{plural(changed['added'], 'device')} new in redundancy set {name}.")
    if operator.output.for_program:
        operator.output.document(changed, names=devices)


@set_.command("remove", examples=("fleetlift set remove icu-3 monitor-3",))
@click.argument("name", metavar="SET")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@pass_operator
def remove(operator: Operator, *, name: str, devices: tuple[str, ...]) -> None:
    """Take devices out of a set."""
    changed = operator.api.post("sets", name, "members", body={"remove": list(devices)})
    operator.output.say(f"{plural(changed['removed'], 'device')} taken out of redundancy set {name}.")
    if operator.output.for_program:
        operator.output.document(changed, names=devices)


@set_.command("list", examples=("fleetlift set list",))
@pass_operator
def list_(operator: Operator) -> None:
    """List sets, and whose turn it is."""
    operator.output.rows(operator.api.get("sets"), COLUMNS, nothing="There is no redundancy set yet.")


@set_.command("show", examples=("fleetlift set show icu-3",))
@click.argument("name", metavar="SET")
@pass_operator
def show(operator: Operator, *, name: str) -> None:
    """Show a set: who has its turn, who waits, the one that goes next on top."""
    found = operator.api.get("sets", name)
    if operator.output.for_program:
        operator.output.document(found, names=[it["device_id"] for it in found["members"]])
        return
    order = {standing: place for place, standing in enumerate((Standing.HOLDS, Standing.WAITS, Standing.FREE))}
    members = sorted(found["members"], key=lambda it: (order[it["standing"]], it["asked"] or 0, it["device_id"]))
    operator.output.rows(members, MEMBERS, nothing=f"Redundancy set {name} has no device.")


@set_.command("delete", examples=("fleetlift set delete icu-3",))
@click.argument("name", metavar="SET")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def delete(operator: Operator, *, name: str, yes: bool) -> None:
    """Delete a set: its devices are updated without regard to each other."""
    known = operator.api.get("sets", name)
    operator.output.confirm(f"Delete redundancy set {name}, of {plural(len(known['members']), 'device')}?", yes=yes)
    operator.api.delete("sets", name)
    operator.output.say(f"Redundancy set {name} is deleted.")
    if operator.output.for_program:
        operator.output.document(known, names=[name])


@set_.command("take-turn-away", examples=("fleetlift set take-turn-away monitor-2",))
@click.argument("device_id", metavar="DEVICE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def take_turn_away(operator: Operator, *, device_id: str, yes: bool) -> None:
    """Let others go before DEVICE, which has its turn, says how its update ended.

    For a device that does not come back: should it be in mid-update after all, two members are unconfirmed at once.
    """
    operator.output.confirm(
        f"Take its turn away from {device_id}? Another member may be updated while nobody knows how {device_id} is.",
        yes=yes,
    )
    taken = operator.api.delete("devices", device_id, "turn")
    operator.output.say(f"{device_id} has its turn no more: the others go on.")
    if operator.output.for_program:
        operator.output.document(taken, names=[device_id])
