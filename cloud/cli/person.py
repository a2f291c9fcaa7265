"""`fleetlift person`: who may do what; and `fleetlift console`, the way into a browser."""

import stat
import sys
import webbrowser
from pathlib import Path
from typing import Final

import click

from cloud.access.roles import EVERYTHING, Role
from cloud.cli.client import Json
from cloud.cli.context import Command, Group, Operator, pass_operator
from cloud.cli.options import yes_option
from cloud.cli.render import Column, moment
from protocol.errors import UserError

MAX_PASSWORD_BYTES: Final = 4096
COLUMNS: Final = (
    Column("name", "name"),
    Column("roles", "grants"),
    Column("password", "has_password"),
    Column("disabled", lambda row: moment(row["disabled_at_ms"])),
    Column("added", lambda row: f"{moment(row['created_at_ms'])} by {row['created_by']}"),
)
_ROLES: Final = click.Choice([role.value for role in Role])
_role_argument = click.argument("role", type=_ROLES)
_product_option = click.option("--product", metavar="P", help="For this product.")
_everywhere_option = click.option("--everywhere", is_flag=True, help="For every product, and the server itself.")


@click.group(cls=Group)
def person() -> None:
    """People: who may do what. viewer < operator < release_manager < admin, per product or everywhere."""


@person.command("add", examples=("fleetlift person add alice --role release_manager --product thermostat",))
@click.argument("name", metavar="PERSON")
@click.option("--role", type=_ROLES, help="What they may do; more with `person grant`.")
@_product_option
@_everywhere_option
@pass_operator
def add(operator: Operator, *, name: str, role: str | None, product: str | None, everywhere: bool) -> None:
    """Make somebody, or some program, known. Without a password they use tokens alone."""
    if role is None and (product or everywhere):
        raise UserError("--product and --everywhere say where a --role is for. Nothing was changed.")
    grants = {} if role is None else {_where(product, everywhere): role}
    made = operator.api.post("people", body={"name": name, "grants": grants})
    operator.output.say(f"{name} is known. Next: fleetlift person password {name}, or an api-token.")
    operator.output.record(made, COLUMNS)


@person.command("list", examples=("fleetlift person list",))
@pass_operator
def list_(operator: Operator) -> None:
    """List people and their roles."""
    operator.output.rows(operator.api.get("people"), COLUMNS, nothing="There is nobody that you may see.")


@person.command(
    "show",
    examples=(
        "fleetlift person show",
        "fleetlift person show alice -o json",
    ),
)
@click.argument("name", required=False, metavar="[PERSON]")
@pass_operator
def show(operator: Operator, *, name: str | None) -> None:
    """Show one person: without PERSON yourself."""
    operator.output.record(operator.api.get("people", name or operator.api.get("me")["name"]), COLUMNS)


@person.command("grant", examples=("fleetlift person grant alice operator --product pump",))
@click.argument("name", metavar="PERSON")
@_role_argument
@_product_option
@_everywhere_option
@pass_operator
def grant(operator: Operator, *, name: str, role: str, product: str | None, everywhere: bool) -> None:
    """Give somebody a role, instead of the one that they had there."""
    where = _where(product, everywhere)
    found = operator.api.put("people", name, "grants", where, body={"role": role})
    operator.output.say(f"{name} is {role.replace('_', ' ')} {_place(where)}.")
    operator.output.record(found, COLUMNS)


@person.command("withdraw", examples=("fleetlift person withdraw alice --product pump",))
@click.argument("name", metavar="PERSON")
@_product_option
@_everywhere_option
@pass_operator
def withdraw(operator: Operator, *, name: str, product: str | None, everywhere: bool) -> None:
    """Take a role away."""
    where = _where(product, everywhere)
    found = operator.api.delete("people", name, "grants", where)
    operator.output.say(f"{name} has no role of their own {_place(where)} any more.")
    operator.output.record(found, COLUMNS)


@person.command("disable", examples=("fleetlift person disable alice",))
@click.argument("name", metavar="PERSON")
@yes_option
@pass_operator
def disable(operator: Operator, *, name: str, yes: bool) -> None:
    """Shut somebody out: password, sessions and tokens open nothing until they are enabled again."""
    operator.output.confirm(f"Shut {name} out, with all their tokens?", yes=yes)
    found = operator.api.patch("people", name, body={"disabled": True})
    operator.output.say(f"{name} is shut out.")
    operator.output.record(found, COLUMNS)


@person.command("enable", examples=("fleetlift person enable alice",))
@click.argument("name", metavar="PERSON")
@pass_operator
def enable(operator: Operator, *, name: str) -> None:
    """Let somebody in again, with the roles and tokens that they had."""
    found = operator.api.patch("people", name, body={"disabled": False})
    operator.output.say(f"{name} may come in again.")
    operator.output.record(found, COLUMNS)


@person.command(
    "password",
    examples=(
        "fleetlift person password",
        "fleetlift person password alice --password-file new-password",
    ),
)
@click.argument("name", required=False, metavar="[PERSON]")
@click.option(
    "--password-file", type=click.Path(path_type=Path), metavar="FILE", help="Its first line, instead of being asked."
)
@click.option("--current-file", type=click.Path(path_type=Path), metavar="FILE", help="The password that you have now.")
@click.option("--remove", is_flag=True, help="None: they use tokens alone.")
@pass_operator
def password(
    operator: Operator, *, name: str | None, password_file: Path | None, current_file: Path | None, remove: bool
) -> None:
    """Set the password that somebody logs in to the console with: without PERSON your own. All their sessions end."""
    me: Json = operator.api.get("me")
    whose = name or me["name"]
    body: Json = {}
    if whose == me["name"] and me["has_password"]:
        body["current"] = _read(operator, current_file, "Your present password", "--current-file")
    body["password"] = None if remove else _read(operator, password_file, "New password", "--password-file", twice=True)
    found = operator.api.put("people", whose, "password", body=body)
    operator.output.say(
        f"{whose} has no password any more."
        if remove
        else f"{whose} logs in to the console with it: {operator.api.url}/login"
    )
    operator.output.record(found, COLUMNS)


@click.command(
    "console",
    cls=Command,
    examples=(
        "fleetlift console",
        "fleetlift console --open",
    ),
)
@click.option("--open", "open_", is_flag=True, help="Open it in this machine's browser.")
@pass_operator
def console(operator: Operator, *, open_: bool) -> None:
    """Print a link that logs you in to the console: good once, for five minutes."""
    made: Json = operator.api.post("login-codes")
    operator.output.warn(f"Good once, until {moment(made['expires_at_ms'])}; whoever has it logs in as you.")
    if operator.ca is not None:
        operator.output.warn(f"A browser that warns does not know the fleet's authority: have it import {operator.ca}.")
    if operator.output.for_program:
        operator.output.document(made, names=[made["url"]])
    else:
        sys.stdout.write(f"{made['url']}\n")
        sys.stdout.flush()
    if open_ and not webbrowser.open(made["url"]):
        raise UserError("this machine has no browser that could be opened. The link is good.", exit_code=1)


def _where(product: str | None, everywhere: bool) -> str:
    if bool(product) == everywhere:
        raise UserError("say where: --product P, or --everywhere. Nothing was changed.")
    return product or EVERYTHING


def _place(where: str) -> str:
    return "everywhere" if where == EVERYTHING else f"for {where}"


def _read(operator: Operator, path: Path | None, what: str, option: str, *, twice: bool = False) -> str:
    """Return a secret of a file of one's own, or of the terminal; raises UserError."""
    if path is None:
        if not operator.output.can_ask:
            raise UserError(f"{what}: nobody is here to say it. Nothing was changed; name a file with {option}.")
        said: str = click.prompt(what, hide_input=True, confirmation_prompt=twice, err=True)
        return said
    try:
        with path.expanduser().open("rb") as file:
            mode, data = path.expanduser().stat().st_mode, file.read(MAX_PASSWORD_BYTES)
        text = data.decode().splitlines()[0]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from None
    except (UnicodeDecodeError, IndexError):
        raise UserError(f"{path} holds no password: it is the file's first line. Nothing was changed.") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UserError(f"{path} can be read by others, so it was not used. Nothing was changed; chmod 600 {path}")
    return text
