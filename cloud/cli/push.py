"""`fleetlift release push`: package, sign, upload and release, in one action."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator, passphrase_option
from cloud.cli.options import PERCENTAGE, timeout_option, wait_option, yes_option
from cloud.cli.outlook import tell_forecast
from cloud.cli.packaging import (
    Package,
    current_role,
    default_name,
    facts_options,
    given_facts,
    make_package,
    publish,
    source_facts,
    upload,
    version_taken,
    warn_of_same_image,
)
from cloud.cli.plan_options import KEYS as PLAN_KEYS
from cloud.cli.plan_options import describe, plan_of, plan_options
from cloud.cli.release_pages import channel_of, finish, label_of
from cloud.cli.render import plural, size
from cloud.keyring import next_seq
from protocol.codec import to_plain
from protocol.errors import IdentityError, UserError
from protocol.identity import EVERYONE, check_version


@click.command("push", cls=Command)
@click.argument("what", metavar="IMAGE|VERSION")
@click.option("--group", default=EVERYONE, show_default=True, metavar="G", help="The devices that are to have it.")
@click.option(
    "--percentage", type=PERCENTAGE, default=100, show_default=True, metavar="1-100", help="The share of them."
)
@click.option("--mandatory", is_flag=True, help="Installed at start-up, before the application runs.")
@click.option("--immediate/--gradual", default=False, help="At once, or at the start of the next session (default).")
@click.option("--force", is_flag=True, help="Go over disabled updates and holds; audited, and the application is told.")
@click.option(
    "--range", "target_range", default="*", metavar="RANGE", help="The installed versions that it applies on."
)
@click.option("--description", default="", metavar="TEXT")
@plan_options
@facts_options
@passphrase_option
@yes_option
@wait_option
@timeout_option
@pass_operator
def push(
    operator: Operator,
    *,
    what: str,
    group: str,
    percentage: int,
    mandatory: bool,
    immediate: bool,
    force: bool,
    target_range: str,
    description: str,
    yes: bool,
    wait: bool,
    timeout: float,
    **facts: Any,
) -> None:
    """Release an image (a file, or a directory with a __main__.py), or a VERSION that is published already.

    Says first how many devices it will reach, and why the others not. Until you agree nothing is signed or sent.
    """
    planned = plan_of({name: facts.pop(name) for name in (*PLAN_KEYS, "plan_file")}, percentage)
    decision = {
        "group": group,
        "percentage": percentage,
        "mandatory": mandatory,
        "forced": force,
        "urgency": "immediate" if immediate else "gradual",
        "target_range": target_range,
        "description": description,
        **planned,
    }
    with tempfile.TemporaryDirectory(prefix="fleetlift-") as scratch:
        package = _package(operator, what, Path(scratch), facts)
        firmware = _firmware(operator, what, package, facts)
        request = decision | {name: firmware[name] for name in ("product", "component", "version")}
        unpublished = None if package is None or firmware.get("published") else _outline(operator, package)
        asked = request | ({"firmware": unpublished} if unpublished else {})
        forecast = tell_forecast(operator, asked, _headline(firmware, decision))
        for line in describe(planned):
            operator.output.say(line)
        forced = "FORCED, over disabled updates and holds: " if force else ""
        reach = plural(forecast["reach"], "device")
        operator.output.confirm(f"{forced}{'release' if force else 'Release'} it to {reach}?", yes=yes)
        if unpublished is not None and package is not None:
            upload(operator, package.image, package.ref)
            publish(operator, package)
    page = operator.api.post("releases", body=request | {"release_id": forecast["release_id"]})
    operator.output.say(f"{channel_of(page)} {label_of(page)} is released. {page['link']}")
    finish(operator, page | {"forecast": forecast}, wait=wait, timeout=timeout)


def _package(operator: Operator, what: str, scratch: Path, facts: dict[str, Any]) -> Package | None:
    """Return the packaged image, or None for a version that is published already; raises UserError."""
    source = Path(what)
    if source.exists():
        said = source_facts(source, given_facts(operator, **facts))
        return make_package(source, said, into=scratch / default_name(said) if source.is_dir() else None)
    try:
        check_version(what)
    except IdentityError:
        raise UserError(f"{what!r} is neither a file or directory here nor a version. Nothing was changed.") from None
    return None


def _firmware(operator: Operator, what: str, package: Package | None, facts: dict[str, Any]) -> Json:
    """Return the firmware as the server knows it, or as the package says it; raises UserError."""
    if package is None:
        path = (operator.product(facts["product"]), operator.component(facts["component"]), what)
        found: Json = operator.api.get("firmware", *path)
        return found
    said = package.description
    for item in operator.api.get("firmware", product=said.product, component=said.component):
        if item["version"] == said.version:
            if item["digest"] != package.ref.digest:
                raise version_taken(said)
            known: Json = item
            return known
    warn_of_same_image(operator, package)
    return dict(to_plain(said))


def _outline(operator: Operator, package: Package) -> Json:
    """Return what a forecast needs to know of firmware that the server does not have."""
    said = package.description
    role = current_role(operator, said.product)
    return {
        "build": said.build,
        "seq": next_seq(role, said.product, said.component),
        "digest": said.digest,
        "size_bytes": said.size_bytes,
        "hardware_models": list(said.hardware_models),
        "requires": {name: value for name, value in asdict(said.requires).items() if value},
    }


def _headline(firmware: Json, decision: Json) -> str:
    """Return what is about to be released, in a line."""
    parts = ["by a plan" if "plan" in decision else f"{decision['percentage']} %", decision["urgency"]]
    parts += [name for name in ("mandatory", "forced") if decision[name]]
    if decision["target_range"] != "*":
        parts.append(f"on {decision['target_range']}")
    name = f"{firmware['product']}/{firmware['component']} {firmware['version']}"
    return (
        f"{name}, build {firmware['build']}, {size(firmware['size_bytes'])}, to {decision['group']}: {', '.join(parts)}"
    )
