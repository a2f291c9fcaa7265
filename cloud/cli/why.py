"""`fleetlift device why`: every rule for one device in order, and why it does not move now."""

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.render import shown


@click.command(
    "why",
    cls=Command,
    examples=(
        "fleetlift device why pump-17",
        "fleetlift device why pump-17 --component os",
    ),
)
@click.argument("device_id", metavar="DEVICE")
@click.option("--component", metavar="C", help="Only this component.")
@pass_operator
def why(operator: Operator, *, device_id: str, component: str | None) -> None:
    """Show what one device should run and why: every rule in order, what it saw, what it said.

    The device decides by the same rules: `fleetlift-agent why` says the same there.
    """
    told: Json = operator.api.get("devices", device_id, "why")
    if component is not None:
        told["components"] = [it for it in told["components"] if it["decision"]["component"] == component]
    if operator.output.for_program:
        operator.output.document(told, names=[device_id])
        return
    if not told["components"]:
        what = f" of {component}" if component else ""
        operator.output.say(f"Nothing{what} is decided for {device_id}, and it has told of nothing that it runs.")
    for item in told["components"]:
        for line in item["lines"]:
            operator.output.say(shown(line))
        operator.output.say(f"  {_now(item['held'])}")


def _now(held: Json | None) -> str:
    if held is None:
        return "now: takes it, as far as the cloud knows"
    return f"now: {held['reason'].replace('_', ' ')}: {shown(held['detail'])}"
