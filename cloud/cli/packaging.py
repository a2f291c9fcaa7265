"""From sources to signed, uploaded firmware: the steps that `firmware` takes one by one, `release push` at once."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # tuf exports it without saying so

from cloud.cli.client import CONFLICT
from cloud.cli.context import Operator, parse_pairs
from cloud.cli.render import shown
from cloud.images import (
    SOURCE_DESCRIPTION,
    Description,
    description_path,
    measure,
    pack,
    read_blocks,
    read_facts,
    to_description,
    write_description,
)
from cloud.keyring import Keyring, next_seq
from cloud.roles import firmware_of, parse
from protocol.chunks import BlobRef
from protocol.errors import UserError
from protocol.manifest import Blob, Manifest, target_path

SIGN_ATTEMPTS: Final = 3
"""How often a role is signed anew on top of what somebody else published meanwhile."""
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Package:
    """An image that is ready to be signed."""

    image: Path
    description: Description
    ref: BlobRef


def facts_options(function: F) -> F:
    """Add the options that say what an image is; they go over what a description says."""
    options = [
        click.option("--product", metavar="P", help="The product (default: the description's, else the context's)."),
        click.option(
            "--component", metavar="C", help="The component (default: the description's, else the context's)."
        ),
        click.option("--version", "version", metavar="V", help="The semantic version."),
        click.option("--build", type=click.IntRange(min=0), metavar="N", help="The build number (default 0)."),
        click.option(
            "--hardware", multiple=True, metavar="MODEL", help="A hardware model that may run it (default: any)."
        ),
        click.option(
            "--requires", multiple=True, metavar="COMPONENT=RANGE", help="What must be installed; repeatable."
        ),
        click.option("--agent", metavar="V", help="The lowest version of the agent that may take it."),
        click.option("--notes", metavar="TEXT", help="What is new, for people."),
        click.option(
            "--data-schema", type=click.IntRange(min=0), metavar="N", help="The schema of the data it writes."
        ),
        click.option(
            "--reads-schema",
            type=click.IntRange(min=0),
            multiple=True,
            metavar="N",
            help="Another schema of data that it takes over, older or newer; repeatable.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def given_facts(
    operator: Operator,
    *,
    product: str | None,
    component: str | None,
    version: str | None,
    build: int | None,
    hardware: tuple[str, ...],
    requires: tuple[str, ...],
    agent: str | None,
    notes: str | None,
    data_schema: int | None,
    reads_schema: tuple[int, ...],
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that lays what the options said over what a description says."""
    needs: dict[str, Any] = {}
    if requires:
        needs["components"] = parse_pairs(requires, "--requires")
    if agent:
        needs["agent"] = agent
    said = {
        "product": product,
        "component": component,
        "version": version,
        "build": build,
        "hardware_models": list(hardware) or None,
        "requires": needs or None,
        "notes": notes,
        "data_schema": data_schema,
        "reads_schemas": sorted(set(reads_schema)) or None,
    }

    def merge(facts: dict[str, Any]) -> dict[str, Any]:
        merged = facts | {name: value for name, value in said.items() if value is not None}
        merged.setdefault("component", operator.context.component)
        if operator.context.product:
            merged.setdefault("product", operator.context.product)
        return merged

    return merge


def source_facts(source: Path, merge: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return what the description of a source and the options say together; raises UserError for what is missing."""
    facts = merge(read_facts(source / SOURCE_DESCRIPTION if source.is_dir() else description_path(source)))
    for name in ("version", "product"):
        if name not in facts:
            raise UserError(f"what {name} {source} is was not said. Nothing was done; add --{name}")
    to_description({"digest": "0" * 64, "size_bytes": 1} | facts, str(source))  # all the rest, before the work
    return facts


def make_package(source: Path, facts: dict[str, Any], into: Path | None = None) -> Package:
    """Return the image of a source, described; with `into` it is written there.

    Raises:
        UserError: the description is of another image.
        ImageError: the image cannot be made.
    """
    image = into or source
    if image != source:
        pack(source, image)
    ref = measure(image)
    if facts.get("digest", ref.digest) != ref.digest:
        raise UserError(
            f"{source} is not the image that {description_path(source)} describes: its digest is another. Nothing was "
            "signed or uploaded; build it again with `fleetlift firmware build`."
        )
    description = to_description(facts | {"digest": ref.digest, "size_bytes": ref.size_bytes}, str(source))
    return Package(image, description, ref)


def default_name(facts: dict[str, Any]) -> str:
    """Return the file name of an image."""
    return "{product}-{component}-{version}.img".format(**facts)


def save(package: Package) -> Path:
    """Write the description beside the image; return its path."""
    return write_description(package.image, package.description)


@contextmanager
def open_keyring(operator: Operator) -> Iterator[Keyring]:
    """Open the operator's keyring for one process at a time."""
    keyring = Keyring(operator.home.keys, passphrases=operator.passphrases)
    lock = os.open(operator.home.keys, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield keyring
    finally:
        os.close(lock)


def sign(keyring: Keyring, role: bytes, package: Package, *, partial: bool = False) -> bytes:
    """Return the product's role with the package in it; the same role if it is in there already.

    With `partial` it may lack the signatures of other release managers.

    Raises:
        UserError: the version is signed already with another image (exit code 5).
        TrustError, KeyringError, KeyFileError: see `Keyring.sign_firmware`.
    """
    said = package.description
    there = firmware_of(parse(role, Targets, said.product).signed, said.product)
    known = there.get(target_path(said.product, said.component, said.version))
    if known is not None and known.sha256 != package.ref.digest:
        raise version_taken(said)
    manifest = Manifest(
        product=said.product,
        component=said.component,
        version=said.version,
        build=said.build,
        seq=known.manifest.seq if known else next_seq(role, said.product, said.component),
        hardware_models=said.hardware_models,
        blobs=(Blob(encoding="identity", ref=package.ref),),
        requires=said.requires,
        notes=said.notes,
        data_schema=said.data_schema,
        reads_schemas=said.reads_schemas,
    )
    return keyring.sign_firmware(role, manifest, package.ref.size_bytes, package.ref.digest, partial=partial)


def version_taken(said: Description) -> UserError:
    """Return the refusal of a version that exists with another image."""
    return UserError(
        f"version {said.version} of {said.product}/{said.component} exists already, with another image. Firmware never "
        "changes: nothing was signed, uploaded or released. Give this image a new version.",
        exit_code=CONFLICT,
    )


def warn_of_same_image(operator: Operator, package: Package) -> None:
    """Tell a person that the package's very image is published under another version already.

    Raises UserError if its version is published with another image: nothing has been sent yet.
    """
    said = package.description
    there = operator.api.get("firmware", product=said.product, component=said.component)
    if any(it["version"] == said.version and it["digest"] != package.ref.digest for it in there):
        raise version_taken(said)
    same = [it["version"] for it in there if it["digest"] == package.ref.digest and it["version"] != said.version]
    if same:
        names = ", ".join(shown(version) for version in same)
        operator.output.warn(
            f"Warning: this image is already published as {names} (same digest). Devices that run it have nothing to "
            f"take, and go on calling it what they call it now: none of them will report {said.version}."
        )


def current_role(operator: Operator, product: str) -> bytes:
    """Return the server's current role of a product; raises UserError."""
    role = operator.api.read("metadata", f"{product}.json")
    if role is None:
        operator.api.get("products", product)  # says so, with the name that may have been meant
        raise UserError(f"the server has no signed metadata of product {product}. Nothing was changed.", exit_code=1)
    return role


def upload(operator: Operator, image: Path, ref: BlobRef) -> None:
    """Send the image, unless the server has it."""
    if operator.api.read("blobs", ref.digest) is not None:
        operator.output.warn(f"The server has image {ref.digest[:12]} already.")
        return
    with operator.output.progress(f"Uploading {image.name}", ref.size_bytes) as advance:
        operator.api.put_stream("blobs", ref.digest, content=read_blocks(image, advance), size_bytes=ref.size_bytes)


def publish(operator: Operator, package: Package) -> None:
    """Sign the package on top of the server's role and send the role; again, where somebody else was faster."""
    product = package.description.product
    with open_keyring(operator) as keyring:
        for attempts_left in reversed(range(SIGN_ATTEMPTS)):
            follow_targets(operator, keyring)
            role = sign(keyring, current_role(operator, product), package)
            try:
                operator.api.post_bytes("products", product, "role", content=role)
            except UserError as error:
                if error.exit_code != CONFLICT or not attempts_left:
                    raise
            else:
                record(operator, keyring, product)
                return


def follow_targets(operator: Operator, keyring: Keyring) -> None:
    """Take note of roots and delegations that another keyring made."""
    keyring.known.follow_roots(lambda name: operator.api.read("metadata", name))
    if targets := operator.api.read("metadata", "targets.json"):
        keyring.record(targets)


def record(operator: Operator, keyring: Keyring, product: str) -> None:
    """Remember what the server has taken, to recognise an older answer later."""
    keyring.known.follow_roots(lambda name: operator.api.read("metadata", name))
    if targets := operator.api.read("metadata", "targets.json"):
        keyring.record(targets, (product, current_role(operator, product)))
