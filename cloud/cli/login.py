"""`fleetlift login, logout, context`: several servers, each with its address, authority and token."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from cloud.cli.client import CONFLICT, NOT_ALLOWED, ApiClient, Json
from cloud.cli.codes import Duration
from cloud.cli.context import Command, Group, Operator, pass_operator
from cloud.cli.contexts import CONTEXT_VARIABLE, Contexts, Place
from cloud.cli.operating import check_token
from cloud.cli.options import yes_option
from cloud.cli.render import Column, moment
from cloud.cli.server_identity import authority_for
from cloud.config import OperatorContext
from protocol.errors import UserError

COLUMNS: Final = (
    Column("context", "context"),
    Column("server", "server"),
    Column("product", "product"),
    Column("logged in", "has_token"),
    Column("current", "current"),
)
DETAILS: Final = (
    *COLUMNS[:3],
    Column("component", "component"),
    Column("known by", lambda row: row["ca"] or "the system's list"),
    Column("token", "token_file"),
    Column("logged in", "has_token"),
    Column("settings", "settings"),
)
WHO: Final = (
    Column("context", "context"),
    Column("server", "server"),
    Column("you are", "person"),
    Column("roles", "grants"),
    Column("until", lambda row: moment(row["expires_at_ms"])),
    Column("token", "token_file"),
)
_HOST = re.compile(r"[^\x00-\x20\x7f\s]+")
_NO_NAME = re.compile(r"[^a-z0-9-]+")
_CODE = re.compile(r"[A-Za-z0-9_-]{20,100}")
_IN_LINK = re.compile(r"https?://\S+/login\?code=")
MAX_TYPED: Final = 2000


@click.command(
    "login",
    cls=Command,
    examples=(
        "fleetlift login https://ota.example:8321",
        "fleetlift login https://ota.example --name production --token-file token --product thermostat",
        "fleetlift login https://ota.example --token-file - < token   # the token from standard input",
        "fleetlift login https://ota.example --code   # asks for what `fleetlift console` said elsewhere",
    ),
)
@click.argument("url")
@click.option(
    "--code",
    "by_code",
    is_flag=True,
    help="By a code that is good once, in place of a token: asked for, or the first line of standard input.",
)
@click.option(
    "--expires",
    "lifetime_s",
    type=Duration(),
    metavar="TIME",
    help="With --code: for how long you are logged in (default: 30d, at most 90d).",
)
@click.option("--name", metavar="NAME", help="What to call it (default: the host's name).")
@click.option("--ca-sha256", metavar="HEX", help="The SHA-256 of the authority that its certificate is from.")
@click.option("--product", metavar="PRODUCT", help="The product that commands assume.")
@click.option("--component", metavar="C", help="The component that commands assume (default: app).")
@pass_operator
def login(
    operator: Operator,
    *,
    url: str,
    by_code: bool,
    lifetime_s: int | None,
    name: str | None,
    ca_sha256: str | None,
    product: str | None,
    component: str | None,
) -> None:
    """Remember a server, and use it from now on: its address, what it is known by, and an API token.

    The token is read from --token-file, or asked for without being shown; with --code you get one of your own for a
    code, or the link with it, that `fleetlift console` says where you are logged in. An authority that this machine
    does not know is shown by its SHA-256, to be compared with the server's, or taken from --ca-file.
    """
    if by_code and operator.token_option is not None:
        raise UserError("--code and --token-file are two ways to log in. Nothing was changed; choose one.")
    if lifetime_s is not None and not by_code:
        raise UserError("--expires goes with --code: a token that is there ends when it ends. Nothing was changed.")
    server = _address(url)
    contexts = Contexts.of_user()
    chosen = contexts.place(name or _name_of(server)).name or ""
    if chosen in contexts.names() and (known := contexts.find(chosen).load().server) != server:
        raise UserError(
            f"the context {chosen} is of {known}. Nothing was changed; choose another --name, or do: "
            f"fleetlift context remove {chosen}",
            exit_code=CONFLICT,
        )
    authority = authority_for(operator.output, server, operator.ca_option, ca_sha256)
    secret = _code(operator) if by_code else operator.read_token() if operator.token_option else _ask(operator)
    said = {"server": server, "product": product, "component": component}
    context = OperatorContext.model_validate({key: value for key, value in said.items() if value is not None})
    with tempfile.TemporaryDirectory(prefix="fleetlift-") as scratch:  # 0700; what there is stays until this is good
        tried = Contexts(Path(scratch))
        token = secret if not by_code else _redeem(tried.write(chosen, context, "", authority), secret, lifetime_s)
        here = tried.write(chosen, context, token, authority)
        me = _who(here)
        try:
            place = contexts.write(chosen, context, token, authority)
            contexts.use(chosen)
        except UserError:
            if by_code:
                _revoke(here, str(me["token"]))  # nobody has it but us
            raise
    operator.output.say(f"You are {me['name']} at {server}. The context {chosen} is used from now on.")
    if me.get("expires_at_ms"):
        operator.output.say(f"You are logged in until {moment(me['expires_at_ms'])}, as the token {me['token']}.")
    if operator.home.root.exists() and not os.environ.get(CONTEXT_VARIABLE):
        operator.output.warn(
            f"Here the home {operator.home.root} goes before it: add --context {chosen}, or set FLEETLIFT_CONTEXT."
        )
    row = {"context": chosen, "server": server, "person": me["name"], "grants": me["grants"]}
    row["expires_at_ms"] = me.get("expires_at_ms")
    operator.output.record(row | {"token_file": str(place.token)}, WHO)


@click.command(
    "logout",
    cls=Command,
    examples=("fleetlift logout", "fleetlift logout production --revoke --yes"),
)
@click.argument("name", required=False, metavar="[CONTEXT]")
@click.option("--revoke", is_flag=True, help="Have the server refuse the token from now on, too.")
@yes_option
@pass_operator
def logout(operator: Operator, *, name: str | None, revoke: bool, yes: bool) -> None:
    """Forget a context's token on this machine (default: of the current one); the rest of it stays."""
    contexts = Contexts.of_user()
    place = contexts.find(_chosen(operator, contexts, name))
    if place.name is None or not place.token.exists():
        raise UserError(f"nobody is logged in with the context {place.name}. Nothing was changed.", exit_code=1)
    if revoke:
        token = _who(place)["token"]
        operator.output.confirm(f"Revoke the token {token} at {place.load().server}?", yes=yes)
        _revoke(place, token)
    contexts.forget_token(place.name)
    after = "the server refuses it" if revoke else "stays good until `fleetlift api-token revoke`"
    operator.output.say(f"The token of {place.name} is forgotten here, and {after}.")
    if operator.output.for_program:
        operator.output.record(_row(contexts, place), DETAILS)


@click.group(cls=Group)
def context() -> None:
    """Contexts: servers that you have logged in to.

    A command uses the context of --context, else of FLEETLIFT_CONTEXT, else the home's own where there is a home, else
    the current one.
    """


@context.command("list", examples=("fleetlift context list", "fleetlift context list -o name"))
@pass_operator
def list_(operator: Operator) -> None:
    """List contexts."""
    contexts = Contexts.of_user()
    rows = [_row(contexts, contexts.place(name)) for name in contexts.names()]
    operator.output.rows(rows, COLUMNS, nothing="There is no context. `fleetlift login URL` makes one.")


@context.command("use", examples=("fleetlift context use production",))
@click.argument("name", metavar="CONTEXT")
@pass_operator
def use(operator: Operator, *, name: str) -> None:
    """Let commands use a context from now on, where nothing else is said."""
    contexts = Contexts.of_user()
    contexts.use(name)
    place = contexts.place(name)
    operator.output.say(f"{name} is used from now on: {place.load().server}.")
    if operator.output.for_program:
        operator.output.record(_row(contexts, place), DETAILS)


@context.command("show", examples=("fleetlift context show", "fleetlift context show production -o yaml"))
@click.argument("name", required=False, metavar="[CONTEXT]")
@pass_operator
def show(operator: Operator, *, name: str | None) -> None:
    """Show a context; without a name the one that commands use here and now."""
    contexts = Contexts.of_user()
    operator.output.record(_row(contexts, contexts.find(name) if name else operator.place), DETAILS)


@context.command("remove", examples=("fleetlift context remove staging",))
@click.argument("name", metavar="CONTEXT")
@yes_option
@pass_operator
def remove(operator: Operator, *, name: str, yes: bool) -> None:
    """Forget a context: its address, authority and token. The token stays good at the server until it is revoked."""
    contexts = Contexts.of_user()
    row = _row(contexts, contexts.find(name))
    operator.output.confirm(f"Forget {name} ({row['server']}) and its token?", yes=yes)
    contexts.remove(name)
    operator.output.say(f"{name} is forgotten here.")
    if operator.output.for_program:
        operator.output.record(row, DETAILS)


def _address(url: str) -> str:
    """Return a server's address in one form; raises UserError."""
    said = url if "://" in url else f"https://{url}"
    try:
        parts = urlsplit(said)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    good = host is not None and _HOST.fullmatch(host) and not (parts.username or parts.query or parts.fragment)
    if not good or parts.scheme not in ("http", "https"):
        raise UserError(f"{url!r:.200} is not a server's address, as https://ota.example:8321. Nothing was changed.")
    return said.rstrip("/")


def _name_of(server: str) -> str:
    return _NO_NAME.sub("-", urlsplit(server).hostname or "").strip("-")[:60] or "server"


def _ask(operator: Operator) -> str:
    if not operator.output.can_ask:
        raise UserError("nobody is here to type the API token. Nothing was changed; add --token-file.", exit_code=2)
    return check_token(click.prompt("API token", hide_input=True, err=True), "what was typed")


def _code(operator: Operator) -> str:
    """Return a login code, itself or in its link: asked for, or of standard input; never of the arguments."""
    if operator.output.can_ask:
        said = click.prompt("Login code", hide_input=True, err=True)
    else:
        said = sys.stdin.readline(MAX_TYPED)
    code = _IN_LINK.sub("", said.strip())
    if not _CODE.fullmatch(code):
        raise UserError(
            "that is no login code. Nothing was changed; `fleetlift console`, where you are logged in, says one: type "
            "it, or pipe it in.",
            exit_code=NOT_ALLOWED,
        )
    return code


def _redeem(place: Place, code: str, lifetime_s: int | None) -> str:
    """Return a token for a login code, which is used up; raises UserError."""
    known = place.load()
    api = ApiClient(known.server, "", _authority(place))
    try:
        made: Any = api.post(
            "login-codes", "token", body={"code": code} | ({} if lifetime_s is None else {"lifetime_s": lifetime_s})
        )
    finally:
        api.close()
    if not isinstance(made, dict) or not isinstance(made.get("text"), str):
        raise UserError(f"{api.url} does not answer as a Fleetlift server does. Nothing was changed.", exit_code=1)
    return check_token(made["text"], f"the answer of {api.url}")


def _revoke(place: Place, token: str) -> None:
    api = _client(place)
    try:
        api.delete("tokens", token)
    finally:
        api.close()


def _authority(place: Place) -> Path | None:
    known = place.load()
    return place.settings.parent / known.ca if known.ca else None


def _client(place: Place) -> ApiClient:
    token = check_token(place.token.read_text(encoding="ascii"), str(place.token))
    return ApiClient(place.load().server, token, _authority(place))


def _who(place: Place) -> Json:
    """Ask the server who it takes the bearer of the token for; raises UserError."""
    api = _client(place)
    try:
        me: Any = api.get("me")
    finally:
        api.close()
    if not isinstance(me, dict) or not {"name", "grants", "token"} <= me.keys():
        raise UserError(f"{api.url} does not answer as a Fleetlift server does. Nothing was changed.", exit_code=1)
    return me


def _chosen(operator: Operator, contexts: Contexts, name: str | None) -> str:
    if found := name or operator.place.name or contexts.current():
        return found
    raise UserError("there is no current context. Nothing was changed; name one.", exit_code=NOT_ALLOWED)


def _row(contexts: Contexts, place: Place) -> Json:
    known = place.load()
    return {
        "context": place.name or "(home)",
        "current": place.name is not None and place.name == contexts.current(),
        "server": known.server,
        "product": known.product,
        "component": known.component,
        "ca": str(place.settings.parent / known.ca) if known.ca else None,
        "has_token": place.token.exists(),
        "token_file": str(place.token),
        "settings": str(place.settings),
    }
