"""`fleetlift firmware`: build, sign, upload and look at images."""

import json
from pathlib import Path
from typing import Any

import click
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # tuf exports it without saying so

from cloud.cli.context import Group, Operator, pass_operator, passphrase_option
from cloud.cli.packaging import (
    Package,
    current_role,
    default_name,
    facts_options,
    given_facts,
    make_package,
    open_keyring,
    publish,
    record,
    save,
    sign,
    source_facts,
    upload,
    warn_of_same_image,
)
from cloud.cli.render import Column, Row, moment, plural, size
from cloud.cli.requirements import matrix
from cloud.cli.retire import retire
from cloud.durable import write_durably
from cloud.keyring import Keyring
from cloud.keys.drafts import Draft
from cloud.roles import parse
from protocol.codec import to_plain
from protocol.errors import UserError


def _schemas(row: Row) -> str:
    """Return of which schema a firmware's data is, and which others it reads."""
    reads = ", ".join(str(schema) for schema in row["reads_schemas"])
    return f"{row['data_schema']}" + (f", reads {reads}" if reads else "")


COLUMNS = (
    Column("product", "product"),
    Column("component", "component"),
    Column("version", "version"),
    Column("build", "build", justify="right"),
    Column("seq", "seq", justify="right"),
    Column("size", lambda row: size(row["size_bytes"]), justify="right"),
    Column("hardware", "hardware_models"),
    Column("published", lambda row: moment(row["published_at_ms"])),
    Column("data", _schemas),
    Column("digest", lambda row: row["digest"][:12]),
)
DETAILS = (
    *COLUMNS[:-2],
    Column("digest", "digest"),
    Column("needs agent", lambda row: row["requires"]["agent"]),
    Column("needs", lambda row: row["requires"]["components"]),
    Column("signed by", "signer_keyids"),
    Column("data schema", "data_schema"),
    Column("reads schemas", "reads_schemas"),
    Column("notes", "notes"),
)
BUILT = (
    Column("image", "image"),
    Column("description", "described_in"),
    Column("product", "product"),
    Column("component", "component"),
    Column("version", "version"),
    Column("size", lambda row: size(row["size_bytes"])),
    Column("digest", "digest"),
)
VERSION = COLUMNS[2]
ROLE_SUFFIX = ".role.json"
image_argument = click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group(cls=Group)
def firmware() -> None:
    """Immutable, signed images."""


@firmware.command("build", examples=("fleetlift firmware build src/app --version 1.4.0 --to app-1.4.0.img",))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "to", type=click.Path(path_type=Path), help="The image to write (default: here, by its name).")
@facts_options
@pass_operator
def build(operator: Operator, *, source: Path, to: Path | None, **facts: Any) -> None:
    """Make an image of SOURCE, a file or a directory with a __main__.py, and its description.

    The same sources give the same bytes.
    """
    said = source_facts(source, given_facts(operator, **facts))
    package = make_package(source, said, into=to or Path(default_name(said)))
    described_in = save(package)
    row = to_plain(package.description) | {"image": str(package.image), "described_in": str(described_in)}
    operator.output.record(row, BUILT)


@firmware.command("sign", examples=("fleetlift firmware sign app-1.4.0.img --role thermostat.json",))
@image_argument
@click.option(
    "--role", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The product's current role."
)
@click.option("--to", type=click.Path(path_type=Path), help="The signed role to write (default: beside the image).")
@facts_options
@passphrase_option
@pass_operator
def sign_(operator: Operator, *, image: Path, role: Path | None, to: Path | None, **facts: Any) -> None:
    """Sign IMAGE into its product's role, offline: the server is not asked.

    Without --role the newest role that this home has seen is signed on top of.
    """
    package = make_package(image, source_facts(image, given_facts(operator, **facts)))
    product = package.description.product
    with open_keyring(operator) as keyring:
        current = role.read_bytes() if role else keyring.role(product)
        if current is None:
            raise UserError(
                f"this home has seen no role of product {product}. Nothing was signed; give one with --role."
            )
        signed = sign(keyring, current, package, partial=True)
        missing = _missing(keyring, product, signed)
    path = to or image.with_name(image.name + ROLE_SUFFIX)
    write_durably(path, signed)
    save(package)
    if missing:
        operator.output.say(f"{missing} more must sign it: `fleetlift key sign {path}`, each with a key of his own.")
    row = {"product": product, "version": package.description.version, "role": str(path), "missing": missing}
    operator.output.record(row, SIGNED, key=ROLE_FILE)


def _missing(keyring: Keyring, product: str, role: bytes) -> int:
    """Return how many signatures a role lacks."""
    draft = Draft(roles={product: parse(role, Targets, product)})
    return sum(max(0, demand.threshold - len(demand.signed)) for demand in draft.demands(keyring.known))


SIGNED = (
    Column("product", "product"),
    Column("version", "version"),
    Column("signed role", "role"),
    Column("signatures missing", lambda row: row.get("missing", 0)),
)
ROLE_FILE = SIGNED[2]


@firmware.command("upload", examples=("fleetlift firmware upload app-1.4.0.img",))
@image_argument
@click.option(
    "--role", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The role that `firmware sign` wrote."
)
@facts_options
@passphrase_option
@pass_operator
def upload_(operator: Operator, *, image: Path, role: Path | None, **facts: Any) -> None:
    """Send IMAGE and its signed role; without --role it is signed now, on top of the server's role."""
    package = make_package(image, source_facts(image, given_facts(operator, **facts)))
    said = package.description
    operator.api.get("products", said.product)
    warn_of_same_image(operator, package)
    upload(operator, image, package.ref)
    beside = image.with_name(image.name + ROLE_SUFFIX)
    if role is not None or beside.exists():
        _send_role(operator, package, role or beside)
    else:
        publish(operator, package)
    page = operator.api.get("firmware", said.product, said.component, said.version)
    operator.output.say(f"{said.product}/{said.component} {said.version} is published. {page['link']}")
    operator.output.record(page, DETAILS, key=VERSION)


def _send_role(operator: Operator, package: Package, role: Path) -> None:
    product = package.description.product
    operator.api.post_bytes("products", product, "role", content=role.read_bytes())
    if operator.home.keys.exists():
        with open_keyring(operator) as keyring:
            record(operator, keyring, product)


@firmware.command("list", examples=("fleetlift firmware list --component app",))
@click.option("--product", metavar="P")
@click.option("--component", metavar="C")
@pass_operator
def list_(operator: Operator, *, product: str | None, component: str | None) -> None:
    """List firmware, newest first."""
    found = operator.api.get("firmware", product=product or operator.context.product, component=component)
    operator.output.rows(found, COLUMNS, nothing="There is no firmware yet.", key=VERSION)


@firmware.command("show", examples=("fleetlift firmware show 1.4.0",))
@click.argument("version")
@click.option("--product", metavar="P")
@click.option("--component", metavar="C")
@pass_operator
def show(operator: Operator, *, version: str, product: str | None, component: str | None) -> None:
    """Show one firmware, and how many devices run it."""
    chosen = operator.product(product)
    found = operator.api.get("firmware", chosen, operator.component(component), version)
    same = ("component", "version", "digest")
    running = (it for it in operator.api.get("products", chosen, "running") if all(it[of] == found[of] for of in same))
    devices = sum(it["devices"] for it in running)
    operator.output.record(found, (*DETAILS, Column("runs on", lambda _: plural(devices, "device"))), key=VERSION)


@firmware.command("role", examples=("fleetlift firmware role --to thermostat.json",))
@click.option("--product", metavar="P")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The file to write.")
@pass_operator
def role_(operator: Operator, *, product: str | None, to: Path) -> None:
    """Fetch a product's current role, to sign on top of it on a machine without network."""
    chosen = operator.product(product)
    write_durably(to, current_role(operator, chosen))
    row = {"product": chosen, "version": _version_of(to), "role": str(to)}
    operator.output.record(row, SIGNED, key=ROLE_FILE)


def _version_of(role: Path) -> object:
    return json.loads(role.read_bytes())["signed"]["version"]


firmware.add_command(retire)
firmware.add_command(matrix)
