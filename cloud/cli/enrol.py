"""`fleetlift device enrol`: make devices known, and write the directories that their agents run from."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cloud.cli.agent_settings import SETTINGS_NAME, settings_options
from cloud.cli.codes import lifetime_option
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.device_lists import ListedDevice, read_devices
from cloud.cli.enrolling import Place, Wish, enrol_places
from cloud.cli.render import Column, plural
from cloud.config import check_encrypted, parse_broker_url
from protocol.errors import IdentityError, UserError
from protocol.identity import check_id

COLUMNS = (
    Column("device", "device_id"),
    Column("product", "product"),
    Column("hardware", "hardware_model"),
    Column("groups", "groups"),
    Column("settings", "settings"),
    Column("start it with", "command"),
)
LISTED = (Column("device", "device_id"), Column("new", "new"), Column("settings", "settings"))


@click.command(
    "enrol",
    cls=Command,
    examples=(
        "fleetlift device enrol pump-17 --group pilots",
        "fleetlift device enrol --from devices.csv --out devices --code-only",
    ),
)
@click.argument("device_id", metavar="[DEVICE]", required=False)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Many devices: CSV with device_id, hardware_model, groups, or JSON lines of the same.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="With --from: write DIR/DEVICE/."
)
@click.option("--product", metavar="P", help="The product (default: the context's).")
@click.option("--hardware", metavar="MODEL", help="The hardware model (default: the product's, if it has one).")
@click.option("--group", "groups", multiple=True, metavar="G", help="Put it into this group; may be repeated.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="What to write (default ./DEVICE).")
@click.option("--code-only", is_flag=True, help="Write a code instead of a key: the device makes its own.")
@lifetime_option
@click.option("--device-server", metavar="URL", help="Where the device finds the server (default: where you do).")
@click.option(
    "--again", is_flag=True, help="It is known already: it gets a new identity; if it was revoked, it is back."
)
@settings_options
@pass_operator
def enrol(operator: Operator, *, device_id: str | None, source: Path | None, out: Path | None, **options: Any) -> None:
    """Make DEVICE known, and write a directory that `fleetlift-agent run --config DIR/agent.toml` takes as it is.

    With --from FILE --out DIR it does so for every device of a list: all of them, or none.
    """
    if (device_id is None) == (source is None) or (source is None) != (out is None):
        raise UserError("give a DEVICE, or --from FILE with --out DIR. Nothing was changed.")
    if source is not None and options["directory"] is not None:
        raise UserError("--directory is for one DEVICE; with --from it is --out. Nothing was changed.")
    listed = read_devices(source) if source else ()
    directory = _check_free(device_id, options["directory"]) if device_id else None
    wish = _wish(operator, options)
    if device_id and directory:
        model = options["hardware"] or _only_model(operator, wish.product)
        place = Place(device_id, model, tuple(options["groups"]), directory)
        enrol_places(operator, wish, [place], options)
        _tell_one(operator, wish, place)
    elif out is not None:
        places = _places(operator, wish, listed, out, options)
        left = [place for place in places if not place.settings.exists()]
        new = enrol_places(operator, wish, left, options) if left else {}
        _tell_all(operator, places, new, out)


def agent_program() -> str:
    """Return how the agent is called: by its name, when that is found."""
    return "fleetlift-agent" if shutil.which("fleetlift-agent") else "python -m device_agent.cli"


def _wish(operator: Operator, options: Mapping[str, Any]) -> Wish:
    product = operator.product(options["product"])
    system = operator.api.get("system")
    broker = options["broker"] or system["broker_url"]
    try:
        parse_broker_url(broker)
        check_encrypted(broker)
    except ValueError as error:
        raise UserError(f"--broker: {error}. Nothing was changed.") from None
    wish = Wish(
        product=product,
        broker=broker,
        topic_root=system["topic_root"],
        server=(options["device_server"] or operator.api.url).rstrip("/"),
        code_only=options["code_only"],
        again=options["again"],
        lifetime_s=options["lifetime_s"],
    )
    if wish.tls and not wish.server.startswith("https://"):
        raise UserError(f"devices enrol at https:// only, not at {wish.server}. Nothing was changed.")
    if wish.code_only and not wish.tls:
        raise UserError("this server works without TLS, so there are no codes. Nothing was changed.")
    return wish


def _places(
    operator: Operator, wish: Wish, listed: Sequence[ListedDevice], out: Path, options: Mapping[str, Any]
) -> list[Place]:
    if any(device.hardware_model is None for device in listed):
        default = options["hardware"] or _only_model(operator, wish.product)
    else:
        default = ""
    common = tuple(options["groups"])
    return [
        Place(it.device_id, it.hardware_model or default, (*it.groups, *common), out / it.device_id, it.line)
        for it in listed
    ]


def _tell_one(operator: Operator, wish: Wish, place: Place) -> None:
    made = operator.api.get("devices", place.device_id)
    command = f"{agent_program()} run --config {place.settings}"
    operator.output.say(f"{place.device_id} is known, and {place.directory} is written.")
    if wish.code_only:
        words = f"enrol --config {place.settings} --code-file {place.code}"
        operator.output.say(f"Its code is secret, and good once. On the device: {agent_program()} {words}")
        made |= {"code": str(place.code)}
    operator.output.record(made | {"settings": str(place.settings), "command": command}, COLUMNS)


def _tell_all(operator: Operator, places: Sequence[Place], new: Mapping[str, bool], out: Path) -> None:
    before = len(places) - len(new)
    there = f" ({before} of them were there already)" if before else ""
    operator.output.say(f"{plural(len(places), 'device')} of the list have their directories in {out}{there}.")
    rows = [
        {"device_id": it.device_id, "new": new.get(it.device_id, False), "settings": str(it.settings)} for it in places
    ]
    operator.output.rows(rows, LISTED, nothing="")


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
