"""`fleetlift token`: enrolment tokens, each inside a code that an operator hands to devices."""

import sys
from pathlib import Path

import click

from cloud.cli.codes import lifetime_option, new_code, token_sha256
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, Row, moment
from cloud.credentials import MAX_USES
from cloud.durable import write_durably
from protocol.errors import UserError


def _standing(row: Row) -> str:
    if row["good"]:
        return "good"
    return "revoked" if row["revoked_at_ms"] else "expired" if row["uses_left"] else "used"


COLUMNS = (
    Column("token", "name"),
    Column("product", "product"),
    Column("for", lambda row: row["device_id"] or row["hardware_model"] or "any new device"),
    Column("groups", "groups"),
    Column("uses", lambda row: f"{row['max_uses'] - row['uses_left']} of {row['max_uses']}", justify="right"),
    Column("expires", lambda row: moment(row["expires_at_ms"])),
    Column("by", "created_by"),
    Column("is", _standing),
)


@click.group(cls=Group)
def token() -> None:
    """Enrolment codes: what a device becomes one of the fleet with."""


@token.command(
    "create",
    examples=(
        "fleetlift token create --uses 50 --expires 7d --group pilots --out batch.code",
        "fleetlift token create --device pump-17   # for this device alone",
    ),
)
@click.option("--product", metavar="P", help="The product (default: the context's).")
@click.option("--uses", type=click.IntRange(1, MAX_USES), default=1, show_default=True, help="How many devices.")
@lifetime_option
@click.option("--hardware", metavar="MODEL", help="For devices of this hardware model only.")
@click.option("--device", "device_id", metavar="DEVICE", help="For this device only; it may enrol again with it.")
@click.option("--group", "groups", multiple=True, metavar="G", help="Put new devices into this group; repeat.")
@click.option("--name", metavar="NAME", help="What the list calls it (default: made up).")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the code into this new file (0600) instead of to standard output.",
)
@pass_operator
def create(
    operator: Operator,
    *,
    product: str | None,
    uses: int,
    lifetime_s: int,
    hardware: str | None,
    device_id: str | None,
    groups: tuple[str, ...],
    name: str | None,
    out: Path | None,
) -> None:
    """Make a token and write the enrolment code with it: a secret, on standard output alone, or in a file.

    `fleetlift-agent enrol --code-file FILE` (or -) takes it on the device.
    """
    chosen, code = operator.product(product), new_code(operator)
    if out is not None and out.exists():
        raise UserError(f"{out} exists already. Nothing was changed; choose another --out.", exit_code=5)
    body = {
        "token_sha256": token_sha256(code),
        "product": chosen,
        "hardware_model": hardware,
        "device_id": device_id,
        "groups": list(groups),
        "uses": uses,
        "lifetime_s": lifetime_s,
        "name": name,
    }
    made = operator.api.post("enrolment-tokens", body=body)
    if out is not None:
        try:
            write_durably(out, f"{code}\n".encode(), replace=False)
        except OSError as error:
            operator.api.delete("enrolment-tokens", made["name"])
            raise UserError(
                f"{out} could not be written: {error.strerror}. The token was taken back.", exit_code=1
            ) from None
    operator.output.warn(
        f"Token {made['name']} is good for {uses} of {chosen} until {moment(made['expires_at_ms'])}. "
        "Whoever has the code can enrol with it: keep it secret."
    )
    if operator.output.for_program:
        operator.output.document(made | ({"file": str(out)} if out else {"code": str(code)}), names=[out or code])
    elif out is None:
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
    else:
        operator.output.say(f"Its code is in {out}.")


@token.command("list", examples=("fleetlift token list --all",))
@click.option("--all", "everything", is_flag=True, help="Those that are used, expired or revoked, too.")
@pass_operator
def list_(operator: Operator, *, everything: bool) -> None:
    """List enrolment tokens, newest first; nobody keeps the codes."""
    found = [row for row in operator.api.get("enrolment-tokens") if everything or row["good"]]
    operator.output.rows(found, COLUMNS, nothing="There is no enrolment token that is good.")


@token.command("revoke", examples=("fleetlift token revoke batch-7",))
@click.argument("name", metavar="TOKEN")
@pass_operator
def revoke(operator: Operator, *, name: str) -> None:
    """Take a token back; devices that it enrolled stay."""
    revoked = operator.api.delete("enrolment-tokens", name)
    operator.output.say(f"Token {name} enrols nobody any more.")
    operator.output.record(revoked, COLUMNS)
