"""`fleetlift release push`: package, sign, upload and release, in one action."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from cloud.cli.client import CONFLICT, Json
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
from cloud.cli.plan_options import describe, plan_of, plan_options, warnings
from cloud.cli.release_pages import channel_of, finish, label_of
from cloud.cli.render import moment, plural, size
from cloud.keyring import next_seq
from protocol.codec import to_plain
from protocol.errors import IdentityError, UserError
from protocol.identity import EVERYONE, check_version

F = TypeVar("F", bound=Callable[..., object])


def decision_options(function: F) -> F:
    """Add the options that say what is to be released to whom; `prepared` takes them as keyword arguments."""
    options = [
        click.option(
            "--group", default=EVERYONE, show_default=True, metavar="G", help="The devices that are to have it."
        ),
        click.option(
            "--percentage", type=PERCENTAGE, default=100, show_default=True, metavar="1-100", help="The share of them."
        ),
        click.option("--mandatory", is_flag=True, help="Installed at start-up, before the application runs."),
        click.option(
            "--immediate/--gradual", default=False, help="At once, or at the start of the next session (default)."
        ),
        click.option(
            "--force", is_flag=True, help="Go over disabled updates and holds; audited, and the application is told."
        ),
        click.option(
            "--range", "target_range", default="*", metavar="RANGE", help="The installed versions that it applies on."
        ),
        click.option("--description", default="", metavar="TEXT"),
    ]
    function = plan_options(facts_options(function))
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is to be released: the request, what a forecast needs beside it, the package, and lines for people."""

    request: Json
    unpublished: Json | None
    package: Package | None
    planned: Json
    headline: str

    @property
    def asked(self) -> Json:
        """The request of a forecast."""
        return self.request | ({"firmware": self.unpublished} if self.unpublished else {})


def prepared(operator: Operator, what: str, scratch: Path, said: dict[str, Any]) -> Prepared:
    """Return what the options of `decision_options` say of an image or version; signs and sends nothing."""
    planned = plan_of({name: said.pop(name) for name in (*PLAN_KEYS, "plan_file")}, said["percentage"])
    decision = {name: said.pop(name) for name in ("group", "percentage", "mandatory", "target_range", "description")}
    decision |= {"forced": said.pop("force"), "urgency": "immediate" if said.pop("immediate") else "gradual", **planned}
    package = _package(operator, what, scratch, said)
    firmware = _firmware(operator, what, package, said)
    return Prepared(
        request=decision | {name: firmware[name] for name in ("product", "component", "version")},
        unpublished=None if package is None or firmware.get("published") else _outline(operator, package),
        package=package,
        planned=planned,
        headline=_headline(firmware, decision),
    )


@click.command(
    "push",
    cls=Command,
    examples=(
        "fleetlift release push build/app --version 1.4.0 --group pilots",
        "fleetlift release push 1.4.0 --phase 5%:1h --phase 50%:4h --ramp 12h:1d --gate failures:2%/20%",
        "fleetlift release push app.img --yes --wait --timeout 30m   # from a pipeline: docs/ci.md",
    ),
)
@click.argument("what", metavar="IMAGE|VERSION")
@decision_options
@click.option("--plan", "plan_hash", metavar="HASH", help="Only if what it does is what `release plan` said.")
@click.option("--again", is_flag=True, help="Under a new label, even if the same was released already.")
@passphrase_option
@yes_option
@wait_option
@timeout_option
@pass_operator
def push(
    operator: Operator,
    *,
    what: str,
    plan_hash: str | None,
    again: bool,
    yes: bool,
    wait: bool,
    timeout: float,
    **said: Any,
) -> None:
    """Release an image (a file, or a directory with a __main__.py), or a VERSION that is published already.

    Says first how many devices it will reach, and why the others not. Until you agree nothing is signed or sent. The
    same image to the same group on the same terms is released once: a second time says under which label.
    """
    with tempfile.TemporaryDirectory(prefix="fleetlift-") as scratch:
        made = prepared(operator, what, Path(scratch), said)
        if not again and made.unpublished is None and (page := _same(operator, made.request)) is not None:
            finish(operator, page | {"forecast": None, "new": False}, wait=wait, timeout=timeout)
            return
        if plan_hash is not None:
            operator.api.post("releases", "plan", plan_hash, "check", body=made.asked)
        forecast = tell_forecast(operator, made.asked, made.headline)
        for line in describe(made.planned):
            operator.output.say(line)
        warned = warnings(made.planned, forecast["reach"] + len(forecast["holds"]))
        for line in warned:
            operator.output.warn(line)
        force = made.request["forced"]
        forced = "FORCED, over disabled updates and holds: " if force else ""
        reach = plural(forecast["reach"], "device")
        operator.output.confirm(f"{forced}{'release' if force else 'Release'} it to {reach}?", yes=yes)
        if made.unpublished is not None and made.package is not None:
            upload(operator, made.package.image, made.package.ref)
            publish(operator, made.package)
    if plan_hash is not None:
        page = operator.api.post("releases", "plan", plan_hash, body=made.request)
    else:
        page = operator.api.post("releases", body=made.request | {"release_id": forecast["release_id"]})
    operator.output.say(f"{channel_of(page)} {label_of(page)} is released. {page['link']}")
    finish(operator, page | {"forecast": forecast, "new": True, "warnings": warned}, wait=wait, timeout=timeout)


def _same(operator: Operator, request: Json) -> Json | None:
    """Return the release that says the same already, and say so; raises UserError for one that was stopped."""
    page: Json | None = operator.api.post("releases", "same", body=request)["same"]
    if page is None:
        return None
    name = f"{channel_of(page)} {label_of(page)}"
    if not page["release"]["enabled"]:
        raise UserError(
            f"{name} says exactly this, and was disabled {moment(page['release']['disabled_at_ms'])}. Nothing was "
            f"released; `fleetlift release enable {label_of(page).split()[0]}` lets it go on, and --again makes a new "
            "label of it.",
            exit_code=CONFLICT,
        )
    operator.output.say(f"{name} says exactly this already: nothing was signed, uploaded or released. {page['link']}")
    return page


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
        "data_schema": said.data_schema,
        "reads_schemas": list(said.reads_schemas),
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
