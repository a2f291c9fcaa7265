"""`fleetlift operator`: who may speak to the server, each by a name and a token of their own; on the server's machine.

The server hands out no such token: whoever could ask it for one could agree to their own release under another name.
"""

import secrets
import time
from pathlib import Path
from typing import Final

import click

from cloud.api.backend import hash_token
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.initialise import TOKEN_BYTES, database_url
from cloud.cli.options import yes_option
from cloud.cli.render import Column, moment
from cloud.config import load_settings
from cloud.durable import write_durably
from cloud.store.store import Store
from protocol.codec import to_plain
from protocol.errors import UserError

COLUMNS: Final = (
    Column("operator", "name"),
    Column("since", lambda row: moment(row["created_at_ms"])),
    Column("added by", "created_by"),
    Column("revoked", lambda row: moment(row.get("revoked_at_ms"))),
)
BY: Final = "server-machine"
"""What the audit calls whoever sits at the server's machine."""


@click.group("operator", cls=Group)
def operator_() -> None:
    """Who may speak to the server; run these on its machine, with its home."""


@operator_.command("add")
@click.argument("name")
@click.option(
    "--token-to",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where their token goes, for nobody else to read; they use it with --token-file.",
)
@pass_operator
def add(operator: Operator, *, name: str, token_to: Path) -> None:
    """Let somebody speak to the server, under NAME in the audit and in approvals."""
    if token_to.exists():
        raise UserError(f"{token_to} exists already. Nothing was changed; name another file.")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with _store(operator) as store:
        store.tokens.add(name, hash_token(token), by=BY)
        try:
            write_durably(token_to, f"{token}\n".encode())
        except OSError as error:
            store.tokens.revoke(name, by=BY)
            why = error.strerror or error
            raise UserError(
                f"{token_to} cannot be written: {why}. The token was revoked; choose another name."
            ) from None
        views = [to_plain(it) for it in store.tokens.tokens() if it.name == name]
    operator.output.say(f"{name} may speak to the server, with the token in {token_to}. Hand it over privately.")
    operator.output.record(views[0], COLUMNS)


@operator_.command("list")
@pass_operator
def list_(operator: Operator) -> None:
    """List who may speak to the server, and who might once."""
    with _store(operator) as store:
        rows = [to_plain(it) for it in store.tokens.tokens()]
    operator.output.rows(rows, COLUMNS, nothing="Nobody may.")


@operator_.command("revoke")
@click.argument("name")
@yes_option
@pass_operator
def revoke(operator: Operator, *, name: str, yes: bool) -> None:
    """Take somebody's token away: the server refuses it from now on."""
    operator.output.confirm(f"Revoke the token of {name}?", yes=yes)
    with _store(operator) as store:
        store.tokens.revoke(name, by=BY)
        view = next(to_plain(it) for it in store.tokens.tokens() if it.name == name)
    operator.output.say(f"{name} may not speak to the server any more.")
    operator.output.record(view, COLUMNS)


def _store(operator: Operator) -> Store:
    """Open the records of the server whose home this is; raises UserError."""
    home = operator.home
    if not home.settings_file.exists():
        raise UserError(f"{home.root} is no server's home. Nothing was changed; run this on the server's machine.")
    return Store.open(database_url(home, load_settings(home.settings_file)), time.time)
