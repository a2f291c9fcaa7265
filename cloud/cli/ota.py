"""`fleetlift ota`: a firmware for one device."""

import click

from cloud.cli.context import Command, Operator, pass_operator
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


@click.command("ota", cls=Command)
@click.argument("device_id", metavar="DEVICE")
@click.argument("version")
@click.option("--component", metavar="C", help="The component (default: the context's).")
@click.option("--immediate/--gradual", default=True, help="At once (default), or at the start of its next session.")
@click.option("--force", is_flag=True, help="Go over disabled updates and holds; audited, and the application is told.")
@yes_option
@wait_option
@timeout_option
@pass_operator
def ota(
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
    code = 0
    if wait:
        ota_id = page["ota"]["ota_id"]

        def fetch(seen: int | None, wait_s: float) -> dict[str, object]:
            found = operator.api.get("otas", ota_id, seen=seen, wait=wait_s)
            return {**found, "devices": [found["device"]]}

        page, code = Watch(operator.output, fetch, timeout).run()
        conclude(operator.output, page, code, timeout)
        page.pop("devices")
    operator.output.record(page, COLUMNS)
    if code:
        click.get_current_context().exit(code)
