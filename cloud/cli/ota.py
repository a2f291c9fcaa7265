"""`fleetlift ota`: a firmware for one device."""

import click

from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.following import watch_options
from cloud.cli.options import timeout_option, wait_option, yes_option
from cloud.cli.render import Column, moment
from cloud.cli.watch import Watch, conclude, describe

COLUMNS = (
    Column("ota", lambda page: page["ota"]["ota_id"]),
    Column("device", lambda page: page["ota"]["device_id"]),
    Column("component", lambda page: page["ota"]["firmware"]["component"]),
    Column("version", lambda page: page["ota"]["firmware"]["version"]),
    Column("urgency", lambda page: page["ota"]["urgency"]),
    Column("forced", lambda page: page["ota"]["forced"]),
    Column("status", lambda page: page["ota"]["status"]),
    Column("device is", lambda page: describe(page["device"])),
    Column("created", lambda page: moment(page["ota"]["created_at_ms"])),
    Column("page", "link"),
)


class _Ota(Group):
    """What does not begin with one of its verbs begins with a device: `fleetlift ota DEVICE VERSION`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in where there is none."""
        if args and not self.commands.keys() & set(args) and not {"-h", "--help"} & set(args):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(
    "ota",
    cls=_Ota,
    examples=("fleetlift ota pump-17 1.4.0 --wait", "fleetlift ota show 4f9c2e1ab7d3 --watch"),
)
def ota() -> None:
    """Update one device: `fleetlift ota DEVICE VERSION` is `fleetlift ota start DEVICE VERSION`."""


@ota.command("start", examples=("fleetlift ota start pump-17 1.4.0", "fleetlift ota pump-17 1.4.0 --gradual --wait"))
@click.argument("device_id", metavar="DEVICE")
@click.argument("version")
@click.option("--component", metavar="C", help="The component (default: the context's).")
@click.option("--immediate/--gradual", default=True, help="At once (default), or at the start of its next session.")
@click.option("--force", is_flag=True, help="Go over disabled updates and holds; audited, and the application is told.")
@yes_option
@wait_option
@timeout_option
@pass_operator
def start(
    operator: Operator,
    *,
    device_id: str,
    version: str,
    component: str | None,
    immediate: bool,
    force: bool,
    yes: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Update one DEVICE to VERSION.

    A release that is made later, and reaches the device, takes it along again.
    """
    chosen = operator.component(component)
    if force:
        operator.api.get("devices", device_id)
        question = f"Force {chosen} {version} onto {device_id}, over what its application says?"
        operator.output.confirm(question, yes=yes)
    body = {
        "component": chosen,
        "version": version,
        "urgency": "immediate" if immediate else "gradual",
        "forced": force,
    }
    page = operator.api.post("devices", device_id, "ota", body=body)
    operator.output.say(f"{device_id} is to run {chosen} {version}. {page['link']}")
    if wait:
        _watch(operator, page["ota"]["ota_id"], timeout)
    else:
        operator.output.record(page, COLUMNS)


@ota.command("show", examples=("fleetlift ota show 4f9c2e1ab7d3", "fleetlift ota show 4f9c2e1ab7d3 --watch"))
@click.argument("ota_id", metavar="OTA")
@watch_options
@pass_operator
def show(operator: Operator, *, ota_id: str, watch: bool, timeout: float | None) -> None:
    """Show how one OTA stands; with --watch until its device has settled, and the exit code is how."""
    page: Json = operator.api.get("otas", ota_id)
    if watch:
        _watch(operator, ota_id, timeout)
    else:
        operator.output.record(page, COLUMNS)


@ota.command("cancel", examples=("fleetlift ota cancel 4f9c2e1ab7d3",))
@click.argument("ota_id", metavar="OTA")
@pass_operator
def cancel(operator: Operator, *, ota_id: str) -> None:
    """Stop wanting an OTA: a device that has not taken it follows its releases again."""
    page: Json = operator.api.delete("otas", ota_id)
    operator.output.say(f"OTA {ota_id} is {page['ota']['status']}.")
    operator.output.record(page, COLUMNS)


def _watch(operator: Operator, ota_id: str, timeout_s: float | None) -> None:
    def fetch(seen: int | None, wait_s: float) -> Json:
        found: Json = operator.api.get("otas", ota_id, seen=seen, wait=wait_s)
        return {**found, "devices": [found["device"]]}

    page, code = Watch(operator.output, fetch, timeout_s).run()
    conclude(operator.output, page, code, timeout_s)
    page.pop("devices")
    operator.output.record(page, COLUMNS)
    if code:
        click.get_current_context().exit(code)
