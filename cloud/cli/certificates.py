"""`fleetlift device revoke` and `certificates`: who is shut out, and what a device is known by."""

import click

from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.render import Column, Row, moment, plural


def _standing(row: Row) -> str:
    if row["revoked_at_ms"]:
        return f"revoked {moment(row['revoked_at_ms'])}"
    return f"followed by another {moment(row['superseded_at_ms'])}" if row["superseded_at_ms"] else "present"


COLUMNS = (
    Column("serial", "serial"),
    Column("authority", "authority"),
    Column("from", lambda row: moment(row["not_before_ms"])),
    Column("until", lambda row: moment(row["not_after_ms"])),
    Column("by", lambda row: f"token {row['token']}" if row["token"] else "renewal"),
    Column("is", _standing),
)
REVOKED = (
    Column("device", "device_id"),
    Column("revoked", lambda row: moment(row["revoked_at_ms"])),
    Column("certificates", "certificates"),
)


@click.command("certificates", cls=Command, examples=("fleetlift device certificates pump-17",))
@click.argument("device_id", metavar="DEVICE")
@pass_operator
def certificates(operator: Operator, *, device_id: str) -> None:
    """Show a device's certificates, newest first."""
    found = operator.api.get("devices", device_id, "certificates")
    operator.output.rows(found, COLUMNS, nothing=f"{device_id} has no certificate.")


@click.command("revoke", cls=Command, examples=("fleetlift device revoke pump-17 --reason stolen",))
@click.argument("device_id", metavar="DEVICE")
@click.option("--reason", default="", metavar="TEXT", help="For the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_operator
def revoke(operator: Operator, *, device_id: str, reason: str, yes: bool) -> None:
    """Shut a device out: its certificates, its tokens, and the session that it has. `enrol --again` lets it back in."""
    operator.output.confirm(f"Shut {device_id} out of the fleet?", yes=yes)
    revoked = operator.api.post("devices", device_id, "revoke", body={"reason": reason})
    count = plural(revoked["certificates"], "good certificate")
    operator.output.say(f"{device_id} is shut out, with {count}; the broker hears of it now.")
    operator.output.record(revoked, REVOKED)
