"""A keyring of one's own: join with a root that came by another way than the server, and keep up with it."""

import json
from pathlib import Path
from typing import Final

import click

from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.packaging import open_keyring
from cloud.cli.render import Column
from cloud.durable import make_private_directory, write_durably
from cloud.keys.known_metadata import KnownMetadata, Read
from cloud.roles import MAX_OFFLINE_BYTES, ROOT, TARGETS, check_fresh, utc_now
from protocol.errors import MessageError, UserError
from protocol.values import check_metadata_name

JOINED: Final = (
    Column("keyring", "keyring"),
    Column("root", "root_version"),
    Column("targets", "targets_version"),
    Column("products", "products"),
)
CA_NAME: Final = "ca.crt"
from_option = click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory that `key metadata` wrote, where there is no network (default: the server).",
)


@click.command(
    "join",
    cls=Command,
    examples=(
        "fleetlift key join --server https://ota.example --ca ca.crt --token-file token --root-sha256 8f43…",
        "fleetlift key join --root root.json --from metadata",
    ),
)
@click.option(
    "--root", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A root.json that you were handed."
)
@click.option("--root-sha256", metavar="HEX", help="... or its SHA-256, that somebody told you.")
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The CA of the server's certificate."
)
@from_option
@pass_operator
def join(
    operator: Operator, *, root: Path | None, root_sha256: str | None, ca: Path | None, source: Path | None
) -> None:
    """Make a keyring in this home, with the public metadata and no keys: for a key holder on his own machine.

    The server's word is not enough for where to begin: bring the root, or its SHA-256, from somebody who has it. Then
    `key create` your own key, and hand its public part to whoever may add it.
    """
    if (root is None) == (root_sha256 is None):
        raise UserError("either --root FILE or --root-sha256 HEX is needed. Nothing was made.")
    make_private_directory(operator.home.operator)
    _write_context(operator, ca)
    known = KnownMetadata.join(
        operator.home.keys,
        _reader(operator, source),
        root=root.read_bytes() if root is not None else None,
        root_sha256=root_sha256,
    )
    check_fresh(ROOT, known.read_root(), utc_now())
    operator.output.say(f"{operator.home.keys} is a keyring now, without keys. Make yours: fleetlift key create NAME")
    _tell(operator, known)


@click.command(
    "fetch",
    cls=Command,
    examples=(
        "fleetlift key fetch",
        "fleetlift key fetch --from /media/stick/metadata",
    ),
)
@from_option
@pass_operator
def fetch(operator: Operator, *, source: Path | None) -> None:
    """Bring this keyring's public metadata up to date; every step is checked."""
    with open_keyring(operator) as keyring:
        keyring.known.follow(_reader(operator, source))
        _tell(operator, keyring.known)


@click.command("metadata", cls=Command, examples=("fleetlift key metadata --to /media/stick/metadata",))
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path), help="The directory to write.")
@pass_operator
def metadata(operator: Operator, *, to: Path) -> None:
    """Write the public metadata that this keyring knows, to carry it to a machine without network."""
    with open_keyring(operator) as keyring:
        known = keyring.known
        files = {
            f"{version}.{ROOT}.json": data for version, data in zip(known.root_versions(), known.roots(), strict=True)
        }
        files[f"{TARGETS}.json"] = known.targets()
        files |= {f"{product}.json": role for product in known.products() if (role := known.role(product)) is not None}
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_durably(to / name, data)
    except OSError as error:
        raise UserError(f"{to} could not be written: {error.strerror}.") from None
    operator.output.say(f"{to} holds no secret. On the other machine: fleetlift key fetch --from {to}")
    operator.output.record({"directory": str(to), "files": sorted(files)}, (Column("files", "files"),))


def _reader(operator: Operator, source: Path | None) -> Read:
    if source is None:
        return lambda name: operator.api.read("metadata", name)
    directory = source

    def read(name: str) -> bytes | None:
        try:
            with (directory / check_metadata_name(name)).open("rb") as file:
                return file.read(MAX_OFFLINE_BYTES + 1)
        except FileNotFoundError:
            return None
        except (OSError, MessageError) as error:
            raise UserError(f"{directory / name} cannot be read: {error}. Nothing was changed.") from None

    return read


def _write_context(operator: Operator, ca: Path | None) -> None:
    """Remember the server, CA and token that were named, in a home that has no context yet."""
    if operator.home.context_file.exists() or operator.server_option is None:
        return
    lines = [
        "# What your commands assume where no option says otherwise.",
        f"server = {json.dumps(operator.server_option)}",
    ]
    if ca is not None:
        write_durably(operator.home.operator / CA_NAME, ca.read_bytes())
        lines.append(f"ca = {json.dumps(CA_NAME)}")
    write_durably(operator.home.context_file, "\n".join([*lines, ""]).encode())
    if operator.token_option is not None and not operator.home.token_file.exists():
        write_durably(operator.home.token_file, f"{operator.read_token()}\n".encode())
    operator.__dict__.pop("context", None)  # it was read before it was there


def _tell(operator: Operator, known: KnownMetadata) -> None:
    row = {
        "keyring": str(known.directory),
        "root_version": known.read_root().signed.version,
        "targets_version": known.read_targets().signed.version,
        "products": list(known.products()),
    }
    operator.output.record(row, JOINED)
