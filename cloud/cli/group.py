"""`fleetlift group`: ranked groups of devices."""

import click

from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, moment, plural

COLUMNS = (
    Column("product", "product"),
    Column("group", "group"),
    Column("rank", "rank", justify="right"),
    Column("devices", "devices", justify="right"),
    Column("created", lambda row: moment(row["created_at_ms"])),
)
product_option = click.option("--product", metavar="P", help="The product (default: the context's).")


@click.group(cls=Group)
def group() -> None:
    """Ranked groups of devices.

    A device follows the releases of its first group, by rank, that has one for it.
    """


@group.command("create")
@click.argument("name")
@product_option
@click.option(
    "--rank", type=click.IntRange(min=1), help="1 decides first (default: after the others, before everyone)."
)
@click.option("--device", "devices", multiple=True, metavar="DEVICE", help="Put this device in; may be repeated.")
@pass_operator
def create(operator: Operator, *, name: str, product: str | None, rank: int | None, devices: tuple[str, ...]) -> None:
    """Make a group."""
    chosen = operator.product(product)
    for device in devices:  # looked up first: a device that does not exist leaves no half-made group
        operator.api.get("devices", device)
    made = operator.api.post("groups", body={"product": chosen, "group": name, "rank": rank})
    if devices:
        operator.api.post("groups", chosen, name, "members", body={"add": list(devices)})
        made = operator.api.get("groups", chosen, name)["group"]
    operator.output.say(f"Group {name} of {chosen} is made, at rank {made['rank']}.")
    operator.output.record(made, COLUMNS)


@group.command("list")
@product_option
@pass_operator
def list_(operator: Operator, *, product: str | None) -> None:
    """List groups, the one that decides first on top."""
    found = operator.api.get("groups", product=product or operator.context.product)
    operator.output.rows(found, COLUMNS, nothing="There is no group yet.")


@group.command("show")
@click.argument("name")
@product_option
@pass_operator
def show(operator: Operator, *, name: str, product: str | None) -> None:
    """Show a group and its devices."""
    page = operator.api.get("groups", operator.product(product), name)
    columns = [Column(c.heading, lambda row, c=c: c.text(row["group"])) for c in COLUMNS]  # type: ignore[misc]
    operator.output.record(page, [*columns, Column("members", "members")])


@group.command("add")
@click.argument("name")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@product_option
@pass_operator
def add(operator: Operator, *, name: str, devices: tuple[str, ...], product: str | None) -> None:
    """Put devices into a group."""
    chosen = operator.product(product)
    changed = operator.api.post("groups", chosen, name, "members", body={"add": list(devices)})
    operator.output.say(f"{plural(changed['added'], 'device')} new in group {name} of {chosen}.")
    if operator.output.is_json:
        operator.output.document(changed)


@group.command("remove")
@click.argument("name")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@product_option
@pass_operator
def remove(operator: Operator, *, name: str, devices: tuple[str, ...], product: str | None) -> None:
    """Take devices out of a group."""
    chosen = operator.product(product)
    changed = operator.api.post("groups", chosen, name, "members", body={"remove": list(devices)})
    operator.output.say(f"{plural(changed['removed'], 'device')} taken out of group {name} of {chosen}.")
    if operator.output.is_json:
        operator.output.document(changed)


@group.command("rank")
@click.argument("name")
@click.argument("rank", type=click.IntRange(min=1))
@product_option
@pass_operator
def rank(operator: Operator, *, name: str, rank: int, product: str | None) -> None:
    """Move a group to another rank."""
    changed = operator.api.patch("groups", operator.product(product), name, body={"rank": rank})
    operator.output.record(changed, COLUMNS)


@group.command("delete")
@click.argument("name")
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
    if operator.output.is_json:
        operator.output.document(known)
