"""`fleetlift init`: makes a home, with keys, metadata, a database, a token, settings; all of it or nothing."""

import json
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from cloud.api.backend import hash_token
from cloud.artifacts import Artifacts
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.render import Column
from cloud.config import DEFAULT_BROKER_PORT, DEFAULT_PORT, Home, Settings, load_settings, parse_broker_url
from cloud.durable import make_private_directory, sync_directory, write_durably
from cloud.intake import Intake
from cloud.keyring import Keyring
from cloud.online_key import OnlineKey
from cloud.store.store import Store
from cloud.trust import MetadataRepository
from protocol.errors import ProtocolError, UserError
from protocol.identity import check_id

TOKEN_BYTES: Final = 32
TOKEN_NAME: Final = "operator"  # noqa: S105 - a name
ONLINE_KEY: Final = "online.pem"
COLUMNS = (
    Column("home", "home"),
    Column("server's part", "cloud"),
    Column("operator's part", "operator"),
    Column("product", "product"),
    Column("server", "server"),
)
SETTINGS_TEXT: Final = """\
# The server's settings. What is commented out is the default; a key that is not known is refused by name and line.

[server]
host = {host}
port = {port}
# public_url = "https://ota.example"        what operators reach it by, behind a proxy
# max_image_bytes = 8589934592

[broker]
{url_line}
# device_url = "mqtt://broker.example:1883" what devices reach the broker by, if that is another address
embedded_port = {embedded_port}
# topic_root = "fleetlift/v1"

[devices]
# joining = "open"                          or "known": only devices that were enrolled
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a new home is to be."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    broker: str | None = None
    broker_port: int = DEFAULT_BROKER_PORT
    product: str | None = None
    hardware: tuple[str, ...] = ()


@click.command("init", cls=Command)
@click.option("--product", metavar="P", help="Make this product too, and let the operator's commands assume it.")
@click.option("--hardware", multiple=True, metavar="MODEL", help="A hardware model of the product; may be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the server listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True)
@click.option("--broker", metavar="URL", help="A running broker, mqtt://host:port (default: one is started).")
@click.option("--broker-port", type=click.IntRange(0, 65535), default=DEFAULT_BROKER_PORT, show_default=True)
@pass_operator
def init(
    operator: Operator,
    *,
    product: str | None,
    hardware: tuple[str, ...],
    host: str,
    port: int,
    broker: str | None,
    broker_port: int,
) -> None:
    """Make a home: keys, metadata, token, settings.

    It has two parts: what the server needs, and what is the operator's own and the server never sees.
    """
    plan = Plan(host=host, port=port, broker=broker, broker_port=broker_port, product=product, hardware=hardware)
    check_plan(plan)
    home = operator.home
    make_home(home, plan)
    say = operator.output.say
    say(f"Made {home.root}:")
    say(f"  {home.cloud}: what the server needs. Run it with `fleetlift serve`.")
    say(f"  {home.operator}: your keys and token. Keep it from the server's machine, and a copy of the keys offline.")
    row = {"home": home.root, "cloud": home.cloud, "operator": home.operator}
    shown: dict[str, object] = {name: str(path) for name, path in row.items()}
    operator.output.record(shown | {"product": product, "server": server_url(plan)}, COLUMNS)


def check_plan(plan: Plan) -> None:
    """Raise UserError for a plan that cannot be carried out."""
    if bool(plan.product) != bool(plan.hardware):
        raise UserError("--product and --hardware go together. Nothing was made.")
    try:
        for name in (plan.product, *plan.hardware):
            if name is not None and name != "*":
                check_id(name)
        if plan.broker:
            parse_broker_url(plan.broker)
    except (ProtocolError, ValueError) as error:
        raise UserError(f"{error}. Nothing was made.") from None


def make_home(home: Home, plan: Plan) -> None:
    """Make a home; raises UserError if something is there already, and leaves nothing behind when it fails."""
    try:
        if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
            raise UserError(
                f"{home.root} is there already and not empty. Nothing was changed: keys are never overwritten. "
                "Choose another --home, or move that one away.",
                exit_code=5,
            )
        home.root.parent.mkdir(parents=True, exist_ok=True)
        scratch = home.root.with_name(f".{home.root.name}.{secrets.token_hex(4)}")
        try:
            _fill(Home(scratch), plan)
            scratch.rename(home.root)
            sync_directory(home.root.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{home.root} could not be made: {error.strerror or error}. Nothing was changed.") from error


def _fill(home: Home, plan: Plan) -> None:
    for directory in (home.root, home.cloud, home.operator):
        make_private_directory(directory)
    write_durably(home.settings_file, _settings_text(plan).encode())
    settings = load_settings(home.settings_file)
    online = OnlineKey.load_or_create(online_key_path(home, settings))
    keyring = Keyring.create(home.keys, online.public)
    repository = MetadataRepository.create(
        home.storage_path(settings.storage.metadata), online, roots=keyring.roots(), targets=keyring.targets()
    )
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with Store.open(database_url(home, settings), time.time) as store:
        store.tokens.add(TOKEN_NAME, hash_token(token), by="init")
        if plan.product:
            delegation = keyring.delegate(plan.product)
            artifacts = Artifacts(home.storage_path(settings.storage.blobs))
            Intake(store, repository, artifacts).create_product(
                plan.product, plan.hardware, delegation.targets, delegation.role, by="init"
            )
    write_durably(home.token_file, f"{token}\n".encode())
    write_durably(home.context_file, _context_text(plan).encode())
    for path in (home.root, home.cloud, home.operator):
        sync_directory(path)


def database_url(home: Home, settings: Settings) -> str:
    """Return the address of the server's database."""
    named = settings.storage.database
    return named if "://" in named else f"sqlite:///{home.storage_path(named)}"


def online_key_path(home: Home, settings: Settings) -> Path:
    """Return where the server's own key is."""
    return home.storage_path(settings.storage.keys) / ONLINE_KEY


def server_url(plan: Plan) -> str:
    """Return what the operator reaches the server by."""
    anywhere: Sequence[str] = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if plan.host in anywhere else plan.host
    return f"http://{f'[{host}]' if ':' in host else host}:{plan.port}"


def _settings_text(plan: Plan) -> str:
    url = (
        f"url = {json.dumps(plan.broker)}"
        if plan.broker
        else '# url = "mqtt://127.0.0.1:1883"           without it a broker is started'
    )
    return SETTINGS_TEXT.format(
        host=json.dumps(plan.host), port=plan.port, url_line=url, embedded_port=plan.broker_port
    )


def _context_text(plan: Plan) -> str:
    lines = ["# What your commands assume where no option says otherwise.", f"server = {json.dumps(server_url(plan))}"]
    lines.append(f"product = {json.dumps(plan.product)}" if plan.product else '# product = "thermostat"')
    return "\n".join([*lines, '# component = "app"', ""])
