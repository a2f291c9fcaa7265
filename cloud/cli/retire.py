"""`fleetlift firmware retire`: what has known holes is never installed again, by anybody's word."""

from typing import Any

import click
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # exported without saying so

from cloud.cli.client import CONFLICT
from cloud.cli.context import Command, Operator, pass_operator, passphrase_option
from cloud.cli.options import yes_option
from cloud.cli.packaging import SIGN_ATTEMPTS, current_role, follow_targets, open_keyring, record
from cloud.cli.render import Column, plural
from cloud.roles import floors_of, parse
from protocol.errors import UserError

COLUMNS = (
    Column("product", "product"),
    Column("component", "component"),
    Column("retired", lambda row: ", ".join(row["retired"]) or "nothing new"),
    Column("floor", "minimum_seq"),
)


@click.command(
    "retire", cls=Command, examples=("fleetlift firmware retire 1.3.0   # and all that was signed before it",)
)
@click.argument("version")
@click.option("--product", metavar="P")
@click.option("--component", metavar="C")
@yes_option
@passphrase_option
@pass_operator
def retire(operator: Operator, *, version: str, product: str | None, component: str | None, yes: bool) -> None:
    """Have VERSION, and all that was signed before it, never be installed again: for ever, on every device.

    It needs a release manager's key, as signing firmware does: neither the server nor who has stolen it can do it, or
    take it back. Devices that run such a version go on, until something newer is released to them.
    """
    chosen, part = operator.product(product), operator.component(component)
    last = operator.api.get("firmware", chosen, part, version)
    all_of_it = operator.api.get("firmware", product=chosen, component=part)
    floor = _floor(current_role(operator, chosen), chosen, part)
    gone = [item for item in all_of_it if floor <= item["seq"] <= last["seq"]]
    kept = [item["version"] for item in all_of_it if item["seq"] > last["seq"]]
    if not kept:
        raise UserError(
            f"nothing of {chosen}/{part} is newer than {version}: devices could install nothing at all, for ever. "
            "Nothing was signed; publish what is to replace it first.",
            exit_code=CONFLICT,
        )
    names = [item["version"] for item in gone]
    if names:
        operator.output.say(f"Left to install: {', '.join(kept)}.")
        operator.output.confirm(f"Retire {plural(len(names), 'version')} ({', '.join(names)}) for ever?", yes=yes)
        _raise_floor(operator, chosen, part, last["seq"] + 1)
    row: dict[str, Any] = {"product": chosen, "component": part, "retired": names}
    operator.output.record(row | {"minimum_seq": max(floor, last["seq"] + 1)}, COLUMNS)


def _raise_floor(operator: Operator, product: str, component: str, seq: int) -> None:
    """Sign the floor on top of the server's role and send the role; again, where somebody else was faster."""
    with open_keyring(operator) as keyring:
        for attempts_left in reversed(range(SIGN_ATTEMPTS)):
            follow_targets(operator, keyring)
            role = keyring.raise_floor(product, current_role(operator, product), component, seq)
            try:
                operator.api.post_bytes("products", product, "role", content=role)
            except UserError as error:
                if error.exit_code != CONFLICT or not attempts_left:
                    raise
            else:
                record(operator, keyring, product)
                return


def _floor(role: bytes, product: str, component: str) -> int:
    return floors_of(parse(role, Targets, product).signed).get(component, 1)
