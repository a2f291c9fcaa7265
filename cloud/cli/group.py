"""`fleetlift group`: ranked groups of devices."""

import click

from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, moment, plural, shown
from protocol.errors import UserError
from protocol.values import MAX_GROUPS

COLUMNS = (
    Column("product", "product"),
    Column("group", "group"),
    Column("rank", "rank", justify="right"),
    Column("devices", "devices", justify="right"),
    Column("where", "query"),
    Column("created", lambda row: moment(row["created_at_ms"])),
)
NAME = COLUMNS[1]
MATCHES = (Column("device", "device"),)
SAW = (Column("comparison", "comparison"), Column("saw", "saw"), Column("holds", "holds"))
MOST_GROUPS = f"A device is in {MAX_GROUPS - 1} groups at most, those that rank first."
product_option = click.option("--product", metavar="P", help="The product (default: the context's).")


@click.group(cls=Group)
def group() -> None:
    """Ranked groups of devices, filled by hand or by a query over what devices are.

    A device follows the releases of its first group, by rank, that has one for it.
    """


@group.command(
    "create",
    examples=(
        "fleetlift group create pilots --device pump-17 --device pump-18",
        'fleetlift group create berlin --where \'attributes.site == "berlin" and hardware_model == "pi4"\'',
    ),
)
@click.argument("name", metavar="GROUP")
@product_option
@click.option(
    "--rank", type=click.IntRange(min=1), help="1 decides first (default: after the others, before everyone)."
)
@click.option("--device", "devices", multiple=True, metavar="DEVICE", help="Put this device in; may be repeated.")
@click.option("--where", "query", metavar="QUERY", help="The devices of which this is true, from now on.")
@pass_operator
def create(
    operator: Operator,
    *,
    name: str,
    product: str | None,
    rank: int | None,
    devices: tuple[str, ...],
    query: str | None,
) -> None:
    """Make a group, of devices that are named or of those of which a query is true.

    For example: --where 'attributes.site == "berlin" and hardware_model == "pi4"'; docs/groups.md has the language.
    """
    chosen = operator.product(product)
    if devices and query is not None:
        raise UserError("a group is filled by --device or by --where, not by both. Nothing was changed.")
    if query is not None:
        _tell_trial(operator, _trial(operator, chosen, query)["trial"])
    for device in devices:  # looked up first: a device that does not exist leaves no half-made group
        operator.api.get("devices", device)
    made = operator.api.post("groups", body={"product": chosen, "group": name, "rank": rank, "query": query})
    if devices:
        operator.api.post("groups", chosen, name, "members", body={"add": list(devices)})
        made = operator.api.get("groups", chosen, name)["group"]
    operator.output.say(f"Group {name} of {chosen} is made, at rank {made['rank']}.")
    operator.output.record(made, COLUMNS, key=NAME)


@group.command("test", examples=("fleetlift group test --where 'attributes.site == \"berlin\"' --device pump-17",))
@click.option("--where", "query", metavar="QUERY", required=True, help="What is to be true of the devices.")
@product_option
@click.option("--device", metavar="DEVICE", help="Show what the query sees of this device, too.")
@pass_operator
def test(operator: Operator, *, query: str, product: str | None, device: str | None) -> None:
    """Show which devices a query is true of now; nothing is made."""
    page = operator.api.post("groups", operator.product(product), "trial", body={"query": query, "device_id": device})
    if operator.output.for_program:
        operator.output.document(page, names=page["trial"]["matches"])
        return
    _tell_trial(operator, page["trial"])
    operator.output.rows([{"device": it} for it in page["trial"]["matches"]], MATCHES, nothing="No device matches.")
    if page["device"]:
        _tell_match(operator, page["device"])


@group.command("where", examples=('fleetlift group where berlin \'attributes.site in ["berlin", "potsdam"]\'',))
@click.argument("name", metavar="GROUP")
@click.argument("query")
@product_option
@pass_operator
def where(operator: Operator, *, name: str, query: str, product: str | None) -> None:
    """Choose a group's devices by another QUERY: who matches comes in, who does not goes."""
    chosen = operator.product(product)
    _tell_trial(operator, _trial(operator, chosen, query)["trial"])
    changed = operator.api.patch("groups", chosen, name, body={"query": query})
    operator.output.say(f"Group {name} of {chosen} has {plural(changed['devices'], 'device')} now.")
    operator.output.record(changed, COLUMNS, key=NAME)


@group.command("list", examples=("fleetlift group list",))
@product_option
@pass_operator
def list_(operator: Operator, *, product: str | None) -> None:
    """List groups, the one that decides first on top."""
    found = operator.api.get("groups", product=product or operator.context.product)
    operator.output.rows(found, COLUMNS, nothing="There is no group yet.", key=NAME)


@group.command(
    "show",
    examples=(
        "fleetlift group show pilots",
        "fleetlift group show berlin --device pump-17",
    ),
)
@click.argument("name", metavar="GROUP")
@product_option
@click.option("--device", metavar="DEVICE", help="Whether this device is in it, and why.")
@pass_operator
def show(operator: Operator, *, name: str, product: str | None, device: str | None) -> None:
    """Show a group and its devices, or why one device is in it or not."""
    chosen = operator.product(product)
    if device is not None:
        match = operator.api.get("groups", chosen, name, "devices", device)
        if operator.output.for_program:
            operator.output.document(match, names=[device] if match["member"] else [])
        else:
            operator.output.say(f"{shown(device)} is {'' if match['member'] else 'not '}in group {name} of {chosen}.")
            _tell_match(operator, match, grouped=True)
        return
    page = operator.api.get("groups", chosen, name)
    columns = [Column(c.heading, lambda row, c=c: c.text(row["group"])) for c in COLUMNS]  # type: ignore[misc]
    operator.output.record(page, [*columns, Column("members", "members")], key=columns[1])


@group.command("add", examples=("fleetlift group add pilots pump-19 pump-20",))
@click.argument("name", metavar="GROUP")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@product_option
@pass_operator
def add(operator: Operator, *, name: str, devices: tuple[str, ...], product: str | None) -> None:
    """Put devices into a group."""
    chosen = operator.product(product)
    changed = operator.api.post("groups", chosen, name, "members", body={"add": list(devices)})
    operator.output.say(f"{plural(changed['added'], 'device')} new in group {name} of {chosen}.")
    if operator.output.for_program:
        operator.output.document(changed, names=devices)


@group.command("remove", examples=("fleetlift group remove pilots pump-19",))
@click.argument("name", metavar="GROUP")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@product_option
@pass_operator
def remove(operator: Operator, *, name: str, devices: tuple[str, ...], product: str | None) -> None:
    """Take devices out of a group."""
    chosen = operator.product(product)
    changed = operator.api.post("groups", chosen, name, "members", body={"remove": list(devices)})
    operator.output.say(f"{plural(changed['removed'], 'device')} taken out of group {name} of {chosen}.")
    if operator.output.for_program:
        operator.output.document(changed, names=devices)


@group.command("rank", examples=("fleetlift group rank pilots 1",))
@click.argument("name", metavar="GROUP")
@click.argument("rank", type=click.IntRange(min=1))
@product_option
@pass_operator
def rank(operator: Operator, *, name: str, rank: int, product: str | None) -> None:
    """Move a group to another rank."""
    changed = operator.api.patch("groups", operator.product(product), name, body={"rank": rank})
    operator.output.record(changed, COLUMNS, key=NAME)


@group.command("delete", examples=("fleetlift group delete pilots",))
@click.argument("name", metavar="GROUP")
@product_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def delete(operator: Operator, *, name: str, product: str | None, yes: bool) -> None:
    """Delete a group that has no enabled release."""
    chosen = operator.product(product)
    known = operator.api.get("groups", chosen, name)["group"]
    operator.output.confirm(f"Delete group {name} of {chosen}, with {plural(known['devices'], 'device')}?", yes=yes)
    operator.api.delete("groups", chosen, name)
    operator.output.say(f"Group {name} of {chosen} is deleted.")
    if operator.output.for_program:
        operator.output.document(known, names=[name])


def _trial(operator: Operator, product: str, query: str) -> Json:
    trial: Json = operator.api.post("groups", product, "trial", body={"query": query})
    return trial


def _tell_trial(operator: Operator, trial: Json) -> None:
    """Say how many match, and what may surprise."""
    count = len(trial["matches"])
    matches = "matches" if count == 1 else "match"
    operator.output.say(f"{count} of {plural(trial['devices'], 'device')} {matches}: {shown(trial['query'])}")
    for name in trial["nobody_has"]:
        operator.output.warn(f"No device and no firmware has a component {shown(name)}: is it the name of a fact?")
    if trial["follows_versions"]:
        operator.output.warn(
            "It asks for versions: a device leaves as soon as an update makes it false, and follows its other groups "
            "then. To choose who takes a release, use `release push --range`, which does not let go of who took it."
        )


def _tell_match(operator: Operator, match: Json, *, grouped: bool = False) -> None:
    """Say whether a query is true of a device, and what it saw."""
    if match["query"] is None:
        operator.output.say("It is filled by hand.")
        return
    true = "true" if match["matches"] else "not true"
    operator.output.say(f"{shown(match['query'])} is {true} of {shown(match['device_id'])}.")
    if match["matches"] and grouped and not match["member"]:
        operator.output.say(MOST_GROUPS)
    operator.output.rows(match["saw"], SAW, nothing="It looks at nothing.")
