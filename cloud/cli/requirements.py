"""`fleetlift firmware matrix` and `fleetlift release needs`: what needs what, and which devices need it first."""

from typing import Any, Final

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.options import channel_options
from cloud.cli.release_pages import channel_of, find, label_of
from cloud.cli.render import Column, plural, shown

MAX_NAMES: Final = 5


def _needs(row: Any) -> list[str]:
    return [f"{it['what']} {it['needs']}" for it in row["requires"]]


def _fulfilled(row: Any) -> list[str]:
    return [f"{it['what']} {shown(it['fulfilled_by'])}" for it in row["requires"] if it["what"] != "agent"]


def _names(row: Any) -> str:
    return ", ".join(map(shown, row["devices"][:MAX_NAMES])) + (", …" if len(row["devices"]) > MAX_NAMES else "")


MATRIX = (
    Column("component", "component"),
    Column("version", "version"),
    Column("build", "build", justify="right"),
    Column("hardware", "hardware_models"),
    Column("needs", _needs),
    Column("fulfilled by", _fulfilled),
    Column("does not work with", "breaks"),
    Column("published", "published"),
)
VERSION = MATRIX[1]
NEEDS = (
    Column("needs", lambda row: f"{row['what']} {row['needs']}"),
    Column("has", "has"),
    Column("devices", lambda row: len(row["devices"]), justify="right"),
    Column("on its way to", lambda row: len(row["on_its_way"]), justify="right"),
    Column("fulfilled by", "fulfilled_by"),
    Column("which", _names),
)


@click.command("matrix", cls=Command, examples=("fleetlift firmware matrix --component app",))
@click.option("--product", metavar="P", help="The product (default: the context's).")
@click.option("--component", metavar="C", help="Of this component alone.")
@pass_operator
def matrix(operator: Operator, *, product: str | None, component: str | None) -> None:
    """Show which firmware needs which base or agent, and which works with which."""
    rows = operator.api.get("products", operator.product(product), "matrix", component=component)
    operator.output.rows(rows, MATRIX, nothing="There is no firmware yet.", key=VERSION)


@click.command("needs", cls=Command, examples=("fleetlift release needs v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def needs(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Show which devices need another component or agent before they can take RELEASE, or would break by it."""
    page = find(operator, name, channel)
    found = operator.api.get("releases", page["release"]["release_id"], "needs")
    if operator.output.for_program:
        operator.output.document(found, names=sorted({device for it in found["needs"] for device in it["devices"]}))
        return
    _tell(operator, f"{channel_of(page)} {label_of(page)}", found)


def _tell(operator: Operator, what: str, found: Json) -> None:
    waiting = {device for it in found["needs"] for device in it["devices"]}
    count = plural(found["devices"], "device")
    if waiting:
        first = "needs" if len(waiting) == 1 else "need"
        operator.output.say(f"{what}: {len(waiting)} of {count} {first} something else first.")
        operator.output.rows(found["needs"], NEEDS, nothing="")
    for it in found["breaks"]:
        operator.output.say(f"{plural(len(it['devices']), 'device')} would break ({shown(it['what'])}): {_names(it)}")
    if not waiting and not found["breaks"]:
        operator.output.say(f"{what}: none of {count} needs something else first.")
