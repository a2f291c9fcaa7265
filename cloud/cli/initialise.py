"""`fleetlift init`: makes a home, with keys, metadata, a database, a token, settings; all of it or nothing."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from cloud.access.roles import EVERYTHING, Role
from cloud.api.backend import hash_token, new_token
from cloud.artifacts import Artifacts
from cloud.broker import find_mosquitto
from cloud.cli.context import Command, Operator, no_passphrase_option, pass_operator, passphrase_option
from cloud.cli.render import Column
from cloud.cli.securing import check_name, reachable_host, secure, url_of
from cloud.config import (
    DEFAULT_BROKER_PORT,
    DEFAULT_CLOUD_PORT,
    DEFAULT_PORT,
    MQTT_CLOUD_PORT,
    Home,
    Settings,
    check_encrypted,
    is_loopback,
    load_settings,
    parse_broker_url,
)
from cloud.durable import make_private_directory, sync_directory, write_durably
from cloud.intake import Intake
from cloud.keyring import Keyring
from cloud.keys.passphrases import Passphrases
from cloud.online_key import OnlineKey
from cloud.store.store import Store
from cloud.trust import MetadataRepository
from protocol.errors import ProtocolError, UserError
from protocol.identity import check_id

FIRST_PERSON: Final = "operator"
"""Who a new server believes first, with a token of the same name: an administrator of everything."""
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
tls = {tls}
names = {names}
# public_url = "https://ota.example"        what operators reach it by, behind a proxy
# max_image_bytes = 8589934592

[broker]
{broker_lines}
# directory = "../broker"                   the broker's files: certificates, access rules, revocations
# reload_command = ["systemctl", "reload", "mosquitto"]
# topic_root = "fleetlift/v1"

[storage]
{database_line}

[devices]
joining = {joining}                         # "open": a device registers itself by its first word
# renewal_grace_days = 90                   how long after its end a certificate still gets the next one
"""
DATABASE_LINE: Final = '# database = "postgresql://fleetlift@/fleetlift?host=/run/postgresql"    without it a file'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a new home is to be."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    names: tuple[str, ...] = ()
    plain: bool = False
    broker: str | None = None
    broker_port: int = DEFAULT_BROKER_PORT
    cloud_port: int | None = None
    product: str | None = None
    hardware: tuple[str, ...] = ()
    database: str | None = None

    @property
    def tls(self) -> bool:
        """Whether everything is encrypted: always, but for what cannot leave this machine."""
        return not (self.plain or (self.broker is not None and self.broker.startswith("mqtt:")))


@click.command(
    "init",
    cls=Command,
    examples=(
        "fleetlift init --product thermostat --hardware raspberrypi4",
        "fleetlift init --host 0.0.0.0 --name ota.example --database 'postgresql://fleetlift@db/fleetlift'",
    ),
)
@click.option("--product", metavar="P", help="Make this product too, and let the operator's commands assume it.")
@click.option("--hardware", multiple=True, metavar="MODEL", help="A hardware model of the product; may be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the server listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True)
@click.option("--name", "names", multiple=True, metavar="NAME", help="What devices and operators reach it by; repeat.")
@click.option("--broker", metavar="URL", help="What devices reach a broker by that runs by itself, mqtts://host:port.")
@click.option("--broker-port", type=click.IntRange(0, 65535), default=DEFAULT_BROKER_PORT, help="For devices.")
@click.option("--cloud-port", type=click.IntRange(0, 65535), help="The broker's port for the server itself.")
@click.option("--database", metavar="URL", help="An empty PostgreSQL database, postgresql://user@host/name.")
@click.option("--plain", is_flag=True, help="Without TLS, for this machine alone.")
@passphrase_option
@no_passphrase_option
@pass_operator
def init(
    operator: Operator,
    *,
    product: str | None,
    hardware: tuple[str, ...],
    host: str,
    port: int,
    names: tuple[str, ...],
    broker: str | None,
    broker_port: int,
    cloud_port: int | None,
    database: str | None,
    plain: bool,
) -> None:
    """Make a home: keys, metadata, certificates, token, settings, and what the broker needs.

    It has three parts: what the server needs, what the broker needs, and what is the operator's own, which neither of
    them ever sees.
    """
    plan = settle(
        Plan(
            host=host,
            port=port,
            names=names,
            plain=plain,
            broker=broker,
            broker_port=broker_port,
            cloud_port=cloud_port,
            product=product,
            hardware=hardware,
            database=database,
        ),
        operator.output.warn,
    )
    check_plan(plan)
    home = operator.home
    make_home(home, plan, operator.passphrases)
    say = operator.output.say
    say(f"Made {home.root}:")
    say(f"  {home.cloud}: what the server needs. Run it with `fleetlift serve`.")
    if plan.tls:
        say(
            f"  {home.broker}: what the broker needs"
            + (f", and mosquitto -c {home.broker}/mosquitto.conf" if plan.broker else ". The server starts one")
            + "."
        )
    say(f"  {home.operator}: your keys and token. Keep it from the server's machine, and a copy of the keys offline.")
    row = {"home": home.root, "cloud": home.cloud, "operator": home.operator}
    shown: dict[str, object] = {name: str(path) for name, path in row.items()}
    operator.output.record(shown | {"product": product, "server": server_url(plan), "tls": plan.tls}, COLUMNS)


def settle(plan: Plan, warn: Callable[[str], None]) -> Plan:
    """Return the plan for this machine: without Mosquitto there is no broker here that speaks TLS."""
    if plan.tls and plan.broker is None and find_mosquitto() is None and is_loopback(plan.host):
        warn(
            "Mosquitto is not installed, so the broker will be amqtt, without TLS and for this machine alone. For "
            "anything more: apt install mosquitto, and `fleetlift init` anew."
        )
        return replace(plan, plain=True)
    return plan


def check_plan(plan: Plan) -> None:
    """Raise UserError for a plan that cannot be carried out."""
    if bool(plan.product) != bool(plan.hardware):
        raise UserError("--product and --hardware go together. Nothing was made.")
    try:
        for name in (plan.product, *plan.hardware):
            if name is not None and name != "*":
                check_id(name)
        for name in plan.names:
            check_name(name)
        if plan.broker:
            check_encrypted(plan.broker)
        if plan.database:
            _check_database(plan.database)
    except (ProtocolError, ValueError) as error:
        raise UserError(f"{error}. Nothing was made.") from None
    if not plan.tls and not is_loopback(plan.host):
        raise UserError(f"without TLS the server listens on loopback alone, not on {plan.host}. Nothing was made.")


def _check_database(url: str) -> None:
    """Raise ValueError for what is no PostgreSQL's address, or says a secret where everybody sees it."""
    parts = urlsplit(url)
    if parts.scheme != "postgresql" or not parts.path.strip("/"):
        raise ValueError("--database is not postgresql://user@host/name")
    if parts.password is not None:
        raise ValueError(
            "a password on a command line is seen by everybody on this machine; write it to a file that is yours "
            "alone, as a line host:port:database:user:password, and add ?passfile=/path to the URL"
        )


def make_home(home: Home, plan: Plan, passphrases: Passphrases | None = None) -> None:
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
            _fill(Home(scratch), plan, home, passphrases)
            scratch.rename(home.root)
            sync_directory(home.root.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{home.root} could not be made: {error.strerror or error}. Nothing was changed.") from error


def _fill(home: Home, plan: Plan, final: Home, passphrases: Passphrases | None) -> None:
    """Make everything in `home`, which is going to be `final`."""
    for directory in (home.root, home.cloud, home.broker, home.operator):
        make_private_directory(directory)
    write_durably(home.settings_file, _settings_text(plan).encode())
    settings = load_settings(home.settings_file)
    online = OnlineKey.load_or_create(online_key_path(home, settings))
    keyring = Keyring.create(home.keys, online.public, passphrases=passphrases)
    repository = MetadataRepository.create(
        home.storage_path(settings.storage.metadata), online, roots=keyring.roots(), targets=keyring.targets()
    )
    if plan.tls:
        secure(home, settings, final)
    token = new_token()
    write_durably(home.token_file, f"{token}\n".encode())
    write_durably(home.context_file, _context_text(plan).encode())
    delegation = keyring.delegate(plan.product) if plan.product else None
    artifacts = Artifacts(home.storage_path(settings.storage.blobs))
    # The database comes last: what fails before leaves nothing in one that is not a file of this home.
    with Store.open(database_url(home, settings), time.time) as store:
        if store.audit.rows(limit=1):
            raise UserError(
                "the database is another home's already. Nothing was made, and what it holds is as it was; name an "
                "empty one (one that an `init` left half filled is dropped by DROP DATABASE).",
                exit_code=5,
            )
        store.people.add(FIRST_PERSON, {EVERYTHING: Role.ADMIN}, by="init")
        store.tokens.add(FIRST_PERSON, hash_token(token), person=FIRST_PERSON, by="init")
        if plan.product and delegation:
            Intake(store, repository, artifacts).create_product(
                plan.product, plan.hardware, delegation.targets, delegation.role, by="init"
            )
    for path in (home.root, home.cloud, home.broker, home.operator):
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
    return url_of("https" if plan.tls else "http", reachable_host(plan.host, plan.names), plan.port)


def _settings_text(plan: Plan) -> str:
    return SETTINGS_TEXT.format(
        host=json.dumps(plan.host),
        port=plan.port,
        tls=json.dumps(plan.tls),
        names=json.dumps(list(plan.names)),
        broker_lines="\n".join(_broker_lines(plan)),
        database_line=f"database = {json.dumps(plan.database)}" if plan.database else DATABASE_LINE,
        joining=json.dumps("known" if plan.tls else "open"),
    )


def _broker_lines(plan: Plan) -> Iterator[str]:
    if plan.broker is None:
        yield '# url = "mqtts://broker.example:8884"      without it a broker is started'
        yield f"embedded_port = {plan.broker_port}"
        yield f"cloud_port = {DEFAULT_CLOUD_PORT if plan.cloud_port is None else plan.cloud_port}"
    elif plan.tls:
        address, cloud_port = parse_broker_url(plan.broker), plan.cloud_port or MQTT_CLOUD_PORT
        yield f"url = {json.dumps(url_of('mqtts', address.host, cloud_port))}"
        yield f"device_url = {json.dumps(url_of('mqtts', address.host, address.port))}"
    else:
        yield f"url = {json.dumps(plan.broker)}"


def _context_text(plan: Plan) -> str:
    lines = ["# What your commands assume where no option says otherwise.", f"server = {json.dumps(server_url(plan))}"]
    lines += ['ca = "ca.crt"'] if plan.tls else []
    lines.append(f"product = {json.dumps(plan.product)}" if plan.product else '# product = "thermostat"')
    return "\n".join([*lines, '# component = "app"', ""])
