"""`fleetlift operator`: the first people of a server, on its own machine: who has its home needs nobody's leave.

Everywhere else `fleetlift person` and `fleetlift api-token` do this, as somebody, by the roles that they have.
"""

import time
from pathlib import Path
from typing import Final

import click

from cloud.access.roles import EVERYTHING, Role
from cloud.api.backend import hash_token, new_token
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.initialise import database_url
from cloud.cli.options import yes_option
from cloud.cli.render import Column, moment
from cloud.config import load_settings
from cloud.durable import write_durably
from cloud.store.errors import NotFoundError
from cloud.store.store import Store
from protocol.codec import to_plain
from protocol.errors import UserError

COLUMNS: Final = (
    Column("token", "name"),
    Column("person", "person"),
    Column("since", lambda row: moment(row["created_at_ms"])),
    Column("added by", "created_by"),
    Column("revoked", lambda row: moment(row.get("revoked_at_ms"))),
)
BY: Final = "server-machine"
"""What the audit calls whoever sits at the server's machine."""


@click.group("operator", cls=Group)
def operator_() -> None:
    """The first people of a server, and a way back in; run these on its machine, with its home."""


@operator_.command("add", examples=("fleetlift operator add alice --role admin --token-to alice.token",))
@click.argument("name")
@click.option(
    "--token-to",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where their token goes, for nobody else to read; they use it with --token-file.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.VIEWER.value,
    show_default=True,
    help="What they may do, everywhere.",
)
@pass_operator
def add(operator: Operator, *, name: str, token_to: Path, role: str) -> None:
    """Let somebody speak to the server, under NAME in the audit and in approvals; who is known gets a token alone."""
    if token_to.exists():
        raise UserError(f"{token_to} exists already. Nothing was changed; name another file.")
    token = new_token()
    with _store(operator) as store:
        try:
            store.people.person(name)
            known = True
        except NotFoundError:
            store.people.add(name, {EVERYTHING: Role(role)}, by=BY)
            known = False
        store.tokens.add(name, hash_token(token), person=name, by=BY)
        try:
            write_durably(token_to, f"{token}\n".encode())
        except OSError as error:
            store.tokens.revoke(name, by=BY)
            why = error.strerror or error
            raise UserError(
                f"{token_to} cannot be written: {why}. The token was revoked; choose another name."
            ) from None
        view = to_plain(store.tokens.token(name))
    what = "with the roles that they had" if known else f"as {role.replace('_', ' ')} of everything"
    operator.output.say(
        f"{name} may speak to the server, {what}, with the token in {token_to}. Hand it over privately."
    )
    operator.output.record(view, COLUMNS)


@operator_.command("list", examples=("fleetlift operator list",))
@pass_operator
def list_(operator: Operator) -> None:
    """List what speaks to the server, and what might once."""
    with _store(operator) as store:
        rows = [to_plain(it) for it in store.tokens.tokens()]
    operator.output.rows(rows, COLUMNS, nothing="Nobody may.")


@operator_.command("revoke", examples=("fleetlift operator revoke alice",))
@click.argument("name")
@yes_option
@pass_operator
def revoke(operator: Operator, *, name: str, yes: bool) -> None:
    """Take a token away: the server refuses it from now on."""
    operator.output.confirm(f"Revoke the token {name}?", yes=yes)
    with _store(operator) as store:
        view = to_plain(store.tokens.revoke(name, by=BY))
    operator.output.say(f"{name} may not speak to the server any more.")
    operator.output.record(view, COLUMNS)


def _store(operator: Operator) -> Store:
    """Open the records of the server whose home this is; raises UserError."""
    home = operator.home
    if not home.settings_file.exists():
        raise UserError(f"{home.root} is no server's home. Nothing was changed; run this on the server's machine.")
    return Store.open(database_url(home, load_settings(home.settings_file)), time.time)
