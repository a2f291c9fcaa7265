"""`fleetlift ca`: the authorities that certificates come from, and how one follows another."""

from pathlib import Path
from typing import Any

import click

from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, moment
from cloud.durable import write_durably
from protocol.errors import UserError

COLUMNS = (
    Column("for", "kind"),
    Column("authority", "name"),
    Column("signs", "issuing"),
    Column("needed by devices", "needed_by", justify="right"),
    Column("until", lambda row: moment(row["not_after_ms"])),
    Column("sha256", lambda row: str(row["sha256"])[:16]),
)
NAME = COLUMNS[1]
kind_argument = click.argument("kind", type=click.Choice(["devices", "services"]))


@click.group(cls=Group)
def ca() -> None:
    """Certificate authorities: `devices` for the devices' certificates, `services` for broker, API and cloud.

    To change one: `rotate`; wait until `list` says that no device needs the old one; `retire`.
    """


@ca.command(
    "list",
    examples=(
        "fleetlift ca list",
        "fleetlift ca list --needed-by devices-1 -o name",
    ),
)
@click.option("--needed-by", "authority", metavar="AUTHORITY", help="List the devices that need this one.")
@pass_operator
def list_(operator: Operator, *, authority: str | None) -> None:
    """List the trusted authorities, newest first, and how many devices could not connect without each."""
    if authority is not None:
        found = operator.api.get("authorities", authority.partition("-")[0], authority, "devices")
        rows = [{"device_id": device_id} for device_id in found]
        operator.output.rows(rows, [Column("device", "device_id")], nothing=f"No device needs {authority}.")
        return
    pages = operator.api.get("authorities")
    rows = [row for page in pages for row in page["authorities"]]
    operator.output.rows(rows, COLUMNS, nothing="There is none.", key=NAME)


@ca.command("rotate", examples=("fleetlift ca rotate devices",))
@kind_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def rotate(operator: Operator, *, kind: str, yes: bool) -> None:
    """Make the next authority; the one before stays trusted until it is retired."""
    operator.output.confirm(f"Make the next authority for {kind}?", yes=yes)
    page = operator.api.post("authorities", kind, "rotate")
    name = page["authorities"][0]["name"]
    if kind == "devices":
        operator.output.say(f"{name} signs from now on; devices change over as they renew.")
    else:
        _keep(operator, page["bundle"])
        operator.output.say(f"{name} is told to devices from now on; it signs when the one before is retired.")
    operator.output.rows(page["authorities"], COLUMNS, nothing="", key=NAME)


@ca.command("retire", examples=("fleetlift ca retire services",))
@kind_argument
@click.option("--force", is_flag=True, help="Also if devices still need the old one: they are shut out.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def retire(operator: Operator, *, kind: str, force: bool, yes: bool) -> None:
    """Trust the newest authority alone. Enrolment codes that name the one before (`services`) are of no use then."""
    operator.output.confirm(f"Stop trusting all authorities for {kind} but the newest?", yes=yes)
    page = operator.api.post("authorities", kind, "retire", body={"force": force})
    if kind == "services":
        _keep(operator, page["bundle"])
    operator.output.say(f"{page['authorities'][0]['name']} alone is trusted for {kind}.")
    operator.output.rows(page["authorities"], COLUMNS, nothing="", key=NAME)


@ca.command("fetch", examples=("fleetlift ca fetch",))
@pass_operator
def fetch(operator: Operator) -> None:
    """Take over the services' authorities of today into this home: after another operator rotated them."""
    (page,) = (page for page in operator.api.get("authorities") if page["kind"] == "services")
    path = _keep(operator, page["bundle"])
    operator.output.say(f"{path} has {', '.join(row['name'] for row in page['authorities'])}.")
    if operator.output.for_program:
        operator.output.document(page["authorities"], names=[row["name"] for row in page["authorities"]])


def _keep(operator: Operator, bundle: Any) -> Path:
    """Write what this home knows the server by; the server has just been known by what is replaced."""
    path = operator.ca or operator.home.operator_ca
    try:
        write_durably(path, str(bundle).encode())
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror}. The server did what was asked; "
            "`fleetlift ca fetch` writes the file.",
            exit_code=1,
        ) from None
    return path
