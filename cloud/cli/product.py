"""`fleetlift product`: kinds of devices."""

import click

from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, no_passphrase_option, pass_operator, passphrase_option
from cloud.cli.packaging import follow_targets, open_keyring
from cloud.cli.render import Column, moment, plural
from cloud.values import MAX_APPROVALS
from protocol.errors import UserError
from protocol.selection import BASE

COLUMNS = (
    Column("product", "product"),
    Column("hardware", "hardware_models"),
    Column("devices", "devices", justify="right"),
    Column("updates", lambda row: "on" if row["ota_enabled"] else "off"),
    Column("distribution", lambda row: "base-only" if row["base_only"] else "hybrid"),
    Column("approvals", "approvals", justify="right"),
    Column("floors", "floors"),
    Column("created", lambda row: moment(row["created_at_ms"])),
)


@click.group(cls=Group)
def product() -> None:
    """Kinds of devices."""


@product.command(
    "create", examples=("fleetlift product create thermostat --hardware raspberrypi4 --hardware raspberrypi5",)
)
@click.argument("name", metavar="PRODUCT")
@click.option("--hardware", multiple=True, required=True, metavar="MODEL", help="A hardware model; may be repeated.")
@passphrase_option
@no_passphrase_option
@pass_operator
def create(operator: Operator, *, name: str, hardware: tuple[str, ...]) -> None:
    """Make a product: its signing key stays here, the server gets what it signed."""
    with open_keyring(operator) as keyring:
        follow_targets(operator, keyring)
        delegation = keyring.delegate(name)
    body = {
        "product": name,
        "hardware_models": list(hardware),
        "targets": delegation.targets.decode(),
        "role": delegation.role.decode(),
    }
    made = operator.api.post("products", body=body)
    operator.output.say(f"Product {name} is made. Its signing key is in {operator.home.keys} and nowhere else.")
    operator.output.record(made, COLUMNS)


@product.command("list", examples=("fleetlift product list -o json",))
@pass_operator
def list_(operator: Operator) -> None:
    """List products."""
    operator.output.rows(operator.api.get("products"), COLUMNS, nothing="There is no product yet.")


@product.command("show", examples=("fleetlift product show thermostat",))
@click.argument("name", required=False, metavar="[PRODUCT]")
@pass_operator
def show(operator: Operator, *, name: str | None) -> None:
    """Show one product."""
    operator.output.record(operator.api.get("products", operator.product(name)), COLUMNS)


@product.command(
    "set",
    examples=(
        "fleetlift product set thermostat --approvals 1",
        "fleetlift product set --ota off   # the context's product",
    ),
)
@click.argument("name", required=False, metavar="[PRODUCT]")
@click.option("--ota", type=click.Choice(["on", "off"]), help="Off: no device of it moves until it is on again.")
@click.option(
    "--distribution",
    type=click.Choice(["hybrid", "base-only"]),
    help=f"base-only: nothing but the component {BASE} is updated. hybrid: every component.",
)
@click.option(
    "--approvals", type=click.IntRange(0, MAX_APPROVALS), metavar="N", help="A release waits for this many others."
)
@click.option("--yes", is_flag=True, help="Do not ask before updates are switched off.")
@pass_operator
def set_(
    operator: Operator,
    *,
    name: str | None,
    ota: str | None,
    distribution: str | None,
    approvals: int | None,
    yes: bool,
) -> None:
    """Change how a whole product is updated; its devices are told at once."""
    chosen = operator.product(name)
    said = {
        "ota_enabled": None if ota is None else ota == "on",
        "base_only": None if distribution is None else distribution == "base-only",
        "approvals": approvals,
    }
    changes = {field: value for field, value in said.items() if value is not None}
    if not changes:
        raise UserError("nothing to change was said, and nothing was changed; see `fleetlift product set --help`")
    known = operator.api.get("products", chosen)
    if ota == "off" and known["ota_enabled"]:
        operator.output.confirm(f"Switch updates of {chosen} off, for {plural(known['devices'], 'device')}?", yes=yes)
    changed = operator.api.patch("products", chosen, body=changes)
    operator.output.say(f"{chosen}: {_policy(changed)}.")
    operator.output.record(changed, COLUMNS)


def _policy(product: Json) -> str:
    if not product["ota_enabled"]:
        return "updates are off, nothing moves"
    scope = f"updates are on, of {BASE} alone" if product["base_only"] else "updates are on, of every component"
    needed = product["approvals"]
    return scope + (f"; a release needs {plural(needed, 'approval')}" if needed else "")


def _switch(operator: Operator, name: str | None, *, enabled: bool) -> None:
    chosen = operator.product(name)
    changed = operator.api.patch("products", chosen, body={"ota_enabled": enabled})
    operator.output.say(f"Updates of {chosen} are {'on' if enabled else 'off'}.")
    operator.output.record(changed, COLUMNS)


@product.command("enable", examples=("fleetlift product enable thermostat",))
@click.argument("name", required=False, metavar="[PRODUCT]")
@pass_operator
def enable(operator: Operator, *, name: str | None) -> None:
    """Switch the updates of a whole product on."""
    _switch(operator, name, enabled=True)


@product.command("disable", examples=("fleetlift product disable thermostat",))
@click.argument("name", required=False, metavar="[PRODUCT]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def disable(operator: Operator, *, name: str | None, yes: bool) -> None:
    """Switch the updates of a whole product off: nothing moves until they are on again."""
    chosen = operator.product(name)
    known = operator.api.get("products", chosen)
    operator.output.confirm(f"Switch updates of {chosen} off, for {plural(known['devices'], 'device')}?", yes=yes)
    _switch(operator, chosen, enabled=False)
