"""`fleetlift device bulk`: one decision for many devices, those that are named or all that are found."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from cloud.bulk import Deed
from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.device_filters import filter_options, where_of
from cloud.cli.options import yes_option
from cloud.cli.render import Column, plural, shown
from protocol.errors import UserError

F = TypeVar("F", bound=Callable[..., object])
COLUMNS: Final = (
    Column("decision", "decision"),
    Column("devices", "devices", justify="right"),
    Column("changed", "changed", justify="right"),
    Column("so already", "unchanged", justify="right"),
    Column("left out", lambda row: sum(it["count"] for it in row["left_out"]), justify="right"),
)
of_option = click.option("--of", "of", metavar="C", help="The firmware's component (default: the context's).")


def bulk_options(function: F) -> F:
    """Add the options that say which devices, and how sure one is."""
    options = (
        click.option("--device", "devices", multiple=True, metavar="DEVICE", help="This device; may be repeated."),
        click.option("--all", "everything", is_flag=True, help="All devices of the product."),
        filter_options,
        click.option("--count", type=click.IntRange(min=0), help="Refuse unless they are so many."),
        click.option("--dry-run", is_flag=True, help="Only show what it would do."),
        yes_option,
        pass_operator,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(
    "bulk",
    cls=Group,
    examples=(
        "fleetlift device bulk lock 1.2.0 --group pilots --dry-run",
        "fleetlift device bulk add pilots --attribute site=berlin --online",
    ),
)
def bulk() -> None:
    """Decide one thing for many devices: for those that options find, or for each --device.

    What it would do is counted first, and asked about; if the devices are not as many when it is done, nothing is.
    """


@bulk.command("add", examples=("fleetlift device bulk add pilots --attribute site=berlin",))
@click.argument("name", metavar="GROUP")
@bulk_options
def add(operator: Operator, *, name: str, **options: Any) -> None:
    """Put devices into a group."""
    _do(operator, Deed.ADD_TO_GROUP, f"Put {{}} into group {name}?", options, group=name)


@bulk.command("remove", examples=("fleetlift device bulk remove pilots --version 1.2.0",))
@click.argument("name", metavar="GROUP")
@bulk_options
def remove(operator: Operator, *, name: str, **options: Any) -> None:
    """Take devices out of a group."""
    _do(operator, Deed.REMOVE_FROM_GROUP, f"Take {{}} out of group {name}?", options, group=name)


@bulk.command("lock", examples=("fleetlift device bulk lock 1.2.0 --group pilots --count 12 --yes",))
@click.argument("target", metavar="VERSION")
@of_option
@bulk_options
def lock(operator: Operator, *, target: str, of: str | None, **options: Any) -> None:
    """Lock devices to a version: releases pass them by."""
    chosen = operator.component(of)
    _do(operator, Deed.LOCK, f"Lock {{}} to {chosen} {target}?", options, component=chosen, version=target)


@bulk.command("unlock", examples=("fleetlift device bulk unlock --locked --group pilots",))
@of_option
@bulk_options
def unlock(operator: Operator, *, of: str | None, **options: Any) -> None:
    """Let devices follow their releases again."""
    chosen = operator.component(of)
    _do(operator, Deed.UNLOCK, f"Let {{}} follow the releases of {chosen} again?", options, component=chosen)


@bulk.command("ota", examples=("fleetlift device bulk ota 1.2.1 --failed health_failed --gradual",))
@click.argument("target", metavar="VERSION")
@of_option
@click.option("--immediate/--gradual", default=True, help="At once (default), or at the start of their next sessions.")
@click.option("--force", is_flag=True, help="Go over disabled updates and holds; audited, and applications are told.")
@bulk_options
def ota(operator: Operator, *, target: str, of: str | None, immediate: bool, force: bool, **options: Any) -> None:
    """Update devices by a single-device OTA for each."""
    chosen = operator.component(of)
    question = f"{'Force' if force else 'Send'} {chosen} {target} to {{}}?"
    urgency = "immediate" if immediate else "gradual"
    more = {"component": chosen, "version": target, "urgency": urgency, "forced": force}
    _do(operator, Deed.OTA, question, options, **more)


@bulk.command("revoke", examples=("fleetlift device bulk revoke --attribute site=closed --reason 'site closed'",))
@click.option("--reason", default="", metavar="TEXT", help="For the audit.")
@bulk_options
def revoke(operator: Operator, *, reason: str, **options: Any) -> None:
    """Shut devices out: their certificates, their tokens, and the sessions that they have."""
    _do(operator, Deed.REVOKE, "Shut {} out of the fleet?", options, reason=reason)


def _do(operator: Operator, deed: Deed, question: str, options: dict[str, Any], **more: Any) -> None:
    """Count, ask, and do it; `options` are those of `bulk_options`, `question` has a place for the devices."""
    devices, everything = options.pop("devices"), options.pop("everything")
    count, dry_run, yes = options.pop("count"), options.pop("dry_run"), options.pop("yes")
    product = operator.product(options.pop("product"))
    where = where_of(options)
    if sum((bool(devices), bool(where), everything)) != 1:
        raise UserError(
            "say which devices: by --device, by what they are found by (--group, --text and so on), or --all. "
            "Nothing was changed."
        )
    chosen: Json = {"devices": list(devices)} if devices else {"where": where}
    body = {"product": product, "deed": deed.value, **chosen, **more}
    would: Json = operator.api.post("devices", "bulk", body={**body, "dry_run": True})
    _tell(operator, would)
    if dry_run:
        operator.output.record(would, COLUMNS[1:])
        return
    operator.output.confirm(question.format(plural(would["changed"], "device")), yes=yes)
    asked_for = would["devices"] if count is None else count
    made: Json = operator.api.post("devices", "bulk", body={**body, "count": asked_for})
    operator.output.record(made, COLUMNS)


def _tell(operator: Operator, would: Json) -> None:
    for it in would["left_out"]:
        some = ", ".join(map(shown, it["some"])) + (", ..." if it["count"] > len(it["some"]) else "")
        operator.output.warn(f"{plural(it['count'], 'device')} left out ({some}): {shown(it['why'])}")
