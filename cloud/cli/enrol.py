"""`fleetlift device enrol`: make a device known, and write the directory that its agent runs from."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from cloud.cli.context import Command, Operator, parse_pairs, pass_operator
from cloud.cli.render import Column
from cloud.config import parse_broker_url
from cloud.durable import make_private_directory, write_durably
from cloud.keyring import Keyring
from protocol.errors import IdentityError, UserError
from protocol.identity import check_id

SETTINGS_NAME: Final = "agent.toml"
ROOT_NAME: Final = "root.json"
ZIPAPP_COMMAND: Final = ("{python}", "{image}")
COLUMNS = (
    Column("device", "device_id"),
    Column("product", "product"),
    Column("hardware", "hardware_model"),
    Column("groups", "groups"),
    Column("settings", "settings"),
    Column("start it with", "command"),
)


@click.command("enrol", cls=Command)
@click.argument("device_id", metavar="DEVICE")
@click.option("--product", metavar="P", help="The product (default: the context's).")
@click.option("--hardware", metavar="MODEL", help="The hardware model (default: the product's, if it has one).")
@click.option("--group", "groups", multiple=True, metavar="G", help="Put it into this group; may be repeated.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), help="Where to write (default: ./DEVICE)."
)
@click.option("--broker", metavar="URL", help="Where the device finds the broker (default: the server says).")
@click.option("--component", metavar="C", help="The component that it runs (default: the context's).")
@click.option(
    "--app-command", multiple=True, metavar="WORD", help="A word of the command; repeat. Default: a zipapp's."
)
@click.option(
    "--app-env", multiple=True, metavar="NAME=VALUE", help="For the application's environment; may be repeated."
)
@click.option("--health-url", metavar="URL", help="The application is well when this answers with success.")
@click.option("--health-command", multiple=True, metavar="WORD", help="... or when this command ends with 0; repeat.")
@click.option("--soak", type=float, metavar="SECONDS", help="How long a new version has to stay well.")
@click.option("--prove-timeout", type=float, metavar="SECONDS", help="How long it may take to prove good.")
@click.option("--confirm/--no-confirm", default=False, help="The application has to confirm a trial itself.")
@click.option("--capacity", type=click.IntRange(min=1), metavar="BYTES", help="The largest image that a slot takes.")
@click.option("--updates-disabled", is_flag=True, help="No update starts until the application enables them.")
@click.option("--check-interval", type=float, metavar="SECONDS", help="How often it asks by itself (default: daily).")
@click.option("--startup-wait", type=float, metavar="SECONDS", help="How long a start waits for mandatory updates.")
@click.option("--window", type=click.IntRange(min=65536), metavar="BYTES", help="How much it asks for ahead.")
@click.option("--attribute", multiple=True, metavar="NAME=VALUE", help="A fact about the device; may be repeated.")
@click.option("--again", is_flag=True, help="It is known already: only write the directory.")
@pass_operator
def enrol(operator: Operator, *, device_id: str, **options: Any) -> None:
    """Make DEVICE known, and write a directory that `fleetlift-agent run --config DIR/agent.toml` takes as it is."""
    directory = _check_free(device_id, options["directory"])
    product = operator.product(options["product"])
    hardware = options["hardware"] or _only_model(operator, product)
    system = operator.api.get("system")
    broker = options["broker"] or system["broker_url"]
    try:
        parse_broker_url(broker)
    except ValueError as error:
        raise UserError(f"--broker: {error}. Nothing was changed.") from None
    device = {
        "id": device_id,
        "product": product,
        "hardware_model": hardware,
        "state_dir": "state",
        "root": ROOT_NAME,
        "attributes": parse_pairs(options["attribute"], "--attribute") or None,
    }
    settings = _settings(operator, device, {"url": broker, "topic_root": system["topic_root"]}, options)
    root = Keyring(operator.home.keys).roots()[0]  # from here, not from the server: it is what the device trusts
    body = {"device_id": device_id, "product": product, "hardware_model": hardware, "groups": list(options["groups"])}
    made = operator.api.get("devices", device_id) if options["again"] else operator.api.post("devices", body=body)
    make_private_directory(directory)
    write_durably(directory / ROOT_NAME, root)
    write_durably(directory / SETTINGS_NAME, settings.encode())
    command = f"{agent_program()} run --config {directory / SETTINGS_NAME}"
    operator.output.say(f"{device_id} is known, and {directory} is written.")
    operator.output.record(made | {"settings": str(directory / SETTINGS_NAME), "command": command}, COLUMNS)


def agent_program() -> str:
    """Return how the agent is called: by its name, when that is found."""
    return "fleetlift-agent" if shutil.which("fleetlift-agent") else "python -m device_agent.cli"


def _check_free(device_id: str, directory: Path | None) -> Path:
    try:
        check_id(device_id, "device")
    except IdentityError as error:
        raise UserError(f"{error}. Nothing was changed.") from None
    chosen = directory or Path(device_id)
    if (chosen / SETTINGS_NAME).exists():
        raise UserError(
            f"{chosen / SETTINGS_NAME} exists already. Nothing was changed; choose another --directory, or remove it.",
            exit_code=5,
        )
    return chosen


def _only_model(operator: Operator, product: str) -> str:
    models: list[str] = operator.api.get("products", product)["hardware_models"]
    if len(models) == 1 and models[0] != "*":
        return models[0]
    raise UserError(
        f"{product} has several hardware models ({', '.join(models)}). Nothing was changed; add --hardware."
    )


def _settings(
    operator: Operator, device: Mapping[str, Any], broker: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """Return the text of agent.toml."""
    updates = {
        "enabled_at_start": False if options["updates_disabled"] else None,
        "check_interval_s": options["check_interval"],
        "startup_wait_s": options["startup_wait"],
        "window_bytes": options["window"],
    }
    component = {
        "command": list(options["app_command"] or ZIPAPP_COMMAND),
        "env": parse_pairs(options["app_env"], "--app-env") or None,
        "health": _health(options["health_url"], options["health_command"]),
        "soak_s": options["soak"],
        "prove_timeout_s": options["prove_timeout"],
        "confirm": options["confirm"] or None,
        "capacity_bytes": options["capacity"],
    }
    name = operator.component(options["component"])
    return "\n".join(
        [
            f"# The settings of {device['id']}'s agent. Relative paths are relative to this file.",
            *_table("device", device),
            *_table("broker", broker),
            *_table("updates", updates),
            *_table(f"components.{name}", component),
            "",  # its last line ends, too: people append
        ]
    )


def _health(url: str | None, command: Sequence[str]) -> dict[str, Any]:
    if url:
        return {"kind": "http", "url": url}
    if command:
        return {"kind": "exec", "command": list(command)}
    return {"kind": "alive"}


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return [f"\n[{name}]", *lines] if lines else []


def _toml(value: Any) -> str:
    """Return a value as TOML: its strings, numbers, booleans and arrays are written as JSON writes them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
