"""`fleetlift release plan`: what a release would do, before anything moves, and a hash that a push can be held to."""

import tempfile
from pathlib import Path
from typing import Any

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.plan_options import describe, warnings
from cloud.cli.push import decision_options, prepared
from cloud.cli.render import Column, moment, plural, size

COUNTS = (
    Column("verdict", lambda row: row["verdict"].replace("_", " ")),
    Column("devices", "devices", justify="right"),
)
DEVICES = (
    Column("device", "device_id"),
    Column("verdict", lambda row: row["verdict"].replace("_", " ")),
    Column("why", "detail"),
)


@click.command(
    "plan",
    cls=Command,
    examples=(
        "fleetlift release plan build/app --version 1.4.0 --group pilots",
        "fleetlift release plan 1.4.0 --phase 5%:1h --phase 100%:1d --devices",
    ),
)
@click.argument("what", metavar="IMAGE|VERSION")
@decision_options
@click.option("--devices", is_flag=True, help="List every device with its verdict.")
@pass_operator
def plan(operator: Operator, *, what: str, devices: bool, **said: Any) -> None:
    """Show what a push with the same options would do: each device's verdict, the bytes, and when it is likely done.

    Nothing is signed, sent or moved. `fleetlift release push ... --plan HASH` releases it only if the world is still
    as it was; give times as they are (2030-01-31T02:00Z) and not from now, or each plan is another.
    """
    with tempfile.TemporaryDirectory(prefix="fleetlift-") as scratch:
        made = prepared(operator, what, Path(scratch), said)
    listed = devices or operator.output.for_program
    told: Json = operator.api.post("releases", "plan", body=made.asked | {"devices": listed})
    warned = [*told["warnings"], *warnings(made.planned, sum(told["counts"].values()))]
    for line in warned:
        operator.output.warn(line)
    if operator.output.for_program:
        operator.output.document(told | {"warnings": warned}, names=[told["plan_hash"]])
        return
    for line in (made.headline, *describe(made.planned), told["sentence"]):
        operator.output.say(line)
    counts = [{"verdict": verdict, "devices": count} for verdict, count in told["counts"].items()]
    operator.output.rows(counts, COUNTS, nothing="The group has no devices yet.")
    if devices:
        operator.output.rows(told["devices"], DEVICES, nothing="")
    for line in (*_bytes(told["bytes"]), *_finish(told["finish"]), f"plan {told['plan_hash']}"):
        operator.output.say(line)


def _bytes(told: Json) -> list[str]:
    ways = f"{told['full']} full, {told['patch']} by patch, {told['reuse']} by reuse"
    sent = f"{size(told['over_the_air_bytes'])} over the air, {size(told['from_cloud_bytes'])} from the cloud"
    return [f"bytes: {size(told['each_bytes'])} a device at most ({ways}), {sent}"]


def _finish(told: Json) -> list[str]:
    lines = [f"begins {moment(told['begins_at_ms'])}"]
    if told["covered_at_ms"] > told["begins_at_ms"]:
        lines.append(f"covers everybody from {moment(told['covered_at_ms'])}, if nothing stops it")
    there = f"{plural(told['online'], 'device')} online, {told['away']} away"
    lines.append(f"{there}; by {plural(told['past_absences'], 'past absence')}:")
    for percent, at_ms in told["at_ms"].items():
        lines.append(f"  {percent} % of them by {moment(at_ms) if at_ms else 'nobody can say'}")
    if told["unknown"]:
        lines.append(f"  {plural(told['unknown'], 'device')} away for longer than any that came back")
    return lines
