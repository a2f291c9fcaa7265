"""`fleetlift api-token`: what programs prove themselves with, each no more than they need."""

import sys
from pathlib import Path
from typing import Final

import click

from cloud.access.roles import EVERYTHING, Role
from cloud.cli.client import Json
from cloud.cli.codes import Duration
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.options import yes_option
from cloud.cli.render import Column, Row, moment
from cloud.durable import write_durably
from protocol.errors import UserError


def _scope(row: Row) -> str:
    return f"{row['role']} of {'everything' if row['product'] == EVERYTHING else row['product']}"


COLUMNS: Final = (
    Column("token", "name"),
    Column("person", "person"),
    Column("at most", _scope),
    Column("expires", lambda row: moment(row["expires_at_ms"])),
    Column("used", lambda row: moment(row["used_at_ms"])),
    Column("made", lambda row: f"{moment(row['created_at_ms'])} by {row['created_by']}"),
    Column("revoked", lambda row: moment(row["revoked_at_ms"])),
)


@click.group("api-token", cls=Group)
def api_token() -> None:
    """API tokens: each belongs to a person, and may do what they may, but no more than it says itself."""


@api_token.command(
    "create",
    examples=("fleetlift api-token create ci --role release_manager --product pump --expires 90d",),
)
@click.argument("name", metavar="API-TOKEN")
@click.option("--person", metavar="PERSON", help="Whose it is (default: yours).")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="What it may do at most.")
@click.option("--product", metavar="P", help="Where it may do it (default: wherever its person may).")
@click.option("--expires", "lifetime_s", type=Duration(), metavar="TIME", help="As in 90d (default: never).")
@click.option(
    "--token-to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where it goes, for nobody else to read (default: standard output).",
)
@pass_operator
def create(
    operator: Operator,
    *,
    name: str,
    person: str | None,
    role: str | None,
    product: str | None,
    lifetime_s: int | None,
    token_to: Path | None,
) -> None:
    """Make a token; it is told this once."""
    if token_to is not None and token_to.exists():
        raise UserError(f"{token_to} exists already. Nothing was changed; name another file.")
    asked = {"name": name, "person": person, "role": role, "product": product, "lifetime_s": lifetime_s}
    made: Json = operator.api.post("tokens", body={key: value for key, value in asked.items() if value is not None})
    if token_to is not None:
        try:
            write_durably(token_to, f"{made['text']}\n".encode(), replace=False)
        except OSError as error:
            operator.api.delete("tokens", name)
            why = error.strerror or error
            raise UserError(f"{token_to} cannot be written: {why}. The token was revoked.", exit_code=1) from None
    operator.output.warn(f"{name} may do as {made['token']['person']} may, at most as {_scope(made['token'])}.")
    if operator.output.for_program:
        document = made["token"] | ({"file": str(token_to)} if token_to else {"text": made["text"]})
        operator.output.document(document, names=[token_to or made["text"]])
    elif token_to is None:
        sys.stdout.write(f"{made['text']}\n")
        sys.stdout.flush()
    else:
        operator.output.say(f"It is in {token_to}; use it with --token-file.")


@api_token.command(
    "list",
    examples=(
        "fleetlift api-token list",
        "fleetlift api-token list --all -o yaml",
    ),
)
@click.option("--all", "everything", is_flag=True, help="Those that are revoked, too.")
@pass_operator
def list_(operator: Operator, *, everything: bool) -> None:
    """List your tokens; as an administrator of everything, everybody's."""
    rows = [row for row in operator.api.get("tokens") if everything or row["revoked_at_ms"] is None]
    operator.output.rows(rows, COLUMNS, nothing="There is no token.")


@api_token.command("revoke", examples=("fleetlift api-token revoke ci",))
@click.argument("name", metavar="API-TOKEN")
@yes_option
@pass_operator
def revoke(operator: Operator, *, name: str, yes: bool) -> None:
    """Take a token away: the server refuses it from now on."""
    operator.output.confirm(f"Revoke the token {name}?", yes=yes)
    revoked = operator.api.delete("tokens", name)
    operator.output.say(f"{name} opens nothing any more.")
    operator.output.record(revoked, COLUMNS)
