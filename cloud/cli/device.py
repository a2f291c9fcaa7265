"""`fleetlift device`: who the devices are, how they stand, what they did."""

from collections.abc import Iterator
from typing import Any, Final

import click

from cloud.cli.certificates import certificates, revoke
from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.device_bulk import bulk
from cloud.cli.device_filters import filter_options, where_of
from cloud.cli.enrol import enrol
from cloud.cli.following import watch_options, watch_record, watch_rows
from cloud.cli.importing import import_
from cloud.cli.render import Column, moment, shown, size
from cloud.cli.timeline import device_timeline
from cloud.cli.why import why

NEVER_SAID: Final = "0.0.0"
"""The agent's version of a device that never said hello: every requirement is above it."""


def _runs(device: Any) -> str:
    return ", ".join(f"{item['component']} {item['version']}" for item in device["components"]) or "nothing yet"


def _availability(device: Any) -> str:
    available = device["availability"]
    if not available["enabled"]:
        until = available["disabled_until_ms"]
        return "disabled" + (f" until {moment(until)}" if until else "")
    holds = [f"held by {shown(hold['owner'])}: {shown(hold['why'])}" for hold in available["holds"]]
    return "; ".join(holds) or "enabled"


def _pending(device: Any) -> str:
    return ", ".join(f"{item['component']} {item['version']} ({item['why']})" for item in device["pending"])


def _locks(device: Any) -> str:
    return ", ".join(f"{pin['component']} {pin['version']}" for pin in device["pins"])


def _progress(device: Any) -> str:
    done = device["progress"]
    return f"{size(done['done_bytes'])} of {size(done['total_bytes'])}" if done else ""


def _refused_messages(device: Any) -> str:
    return "; ".join(
        f"{item['kind']} ({item['code']}), {item['count']} times, last {moment(item['last_at_ms'])}: "
        f"{shown(item['sentence'])}"
        for item in device["refused_messages"]
    )


COLUMNS = (
    Column("device", "device_id"),
    Column("product", "product"),
    Column("online", lambda device: "revoked" if device["revoked_at_ms"] else device["online"]),
    Column("runs", _runs),
    Column("phase", "phase"),
    Column("updates", _availability),
    Column("pending", _pending),
    Column("locked", _locks),
    Column("groups", "groups"),
    Column("last seen", lambda device: moment(device["last_seen_at_ms"])),
)
DETAILS = (
    *COLUMNS[:2],
    Column("hardware", "hardware_model"),
    *COLUMNS[2:5],
    Column("progress", _progress),
    *COLUMNS[5:],
    Column("agent", lambda row: "" if row["agent_version"] == NEVER_SAID else row["agent_version"]),
    Column("attributes", "attributes"),
    Column("digests", lambda row: {item["component"]: item["digest"] for item in row["components"]}),
    Column("failed digests", lambda row: [digest[:12] for digest in row["failed"]]),
    Column("refused", "refused"),
    Column("its messages refused", _refused_messages),
    Column("ota", lambda row: [f"{o['firmware']['version']} ({o['status']})" for o in row["otas"]]),
    Column("journal", lambda row: f"{row['journal_id'] or '-'} through {row['journal_through']}"),
    Column("registered", lambda row: moment(row["registered_at_ms"])),
    Column("revoked", lambda row: moment(row["revoked_at_ms"])),
)


UNSAID = tuple(column for column in DETAILS if column.heading in ("last seen", "journal"))
"""What changes with every word of a device."""


def _result(attempt: Any) -> str:
    if attempt["taken_back_at_ms"]:
        return "taken back: it later ran another image"
    return str(attempt["outcome"] or f"{attempt['phase']}…").replace("_", " ")


def _source(attempt: Any) -> str:
    channel = attempt["channel"]
    return f"{channel['group']} v{attempt['label']}" if channel else str(attempt["via"])


HISTORY = (
    Column("started", lambda attempt: moment(attempt["started_at_ms"])),
    Column("component", "component"),
    Column("from", "from_version"),
    Column("to", "version"),
    Column("by", _source),
    Column("result", _result),
    Column("reason", "reason"),
    Column("detail", "detail"),
    Column("fetched", lambda attempt: size(attempt["fetched_bytes"]), justify="right"),
    Column("forced", "forced"),
)
ATTEMPT = Column("attempt", "attempt_id")
STEPS = (
    Column("device", "device_id"),
    Column("steps", lambda row: " > ".join(str(step["outcome"] or step["phase"]) for step in row["steps"])),
)


@click.group(cls=Group)
def device() -> None:
    """Devices: enrol, look, lock, shut out."""


for _command in (bulk, enrol, import_, revoke, certificates, why, device_timeline):
    device.add_command(_command)


@device.command(
    "list",
    examples=(
        "fleetlift device list --group pilots --online",
        "fleetlift device list --failed health_failed --attribute site=berlin",
        "fleetlift device list --version 1.3.0 -o name | xargs -n1 fleetlift device why",
    ),
)
@filter_options
@watch_options
@pass_operator
def list_(operator: Operator, *, watch: bool, timeout: float | None, **query: Any) -> None:
    """List devices by id; with --watch, as they change."""
    query = where_of(query)
    nothing = "No device matches." if query else "There is no device yet."
    query.setdefault("product", operator.context.product)
    if not watch:
        operator.output.rows(list(_pages(operator, query)), COLUMNS, nothing=nothing)
        return
    watch_rows(
        operator.output,
        lambda: list(_pages(operator, query)),
        COLUMNS,
        key=COLUMNS[0],
        nothing=nothing,
        timeout_s=timeout,
        unsaid=UNSAID,
    )


@device.command(
    "show",
    examples=(
        "fleetlift device show pump-17",
        "fleetlift device show pump-17 --watch",
    ),
)
@click.argument("device_id", metavar="DEVICE")
@watch_options
@pass_operator
def show(operator: Operator, *, device_id: str, watch: bool, timeout: float | None) -> None:
    """Show how one device stands; with --watch, as that changes."""
    if not watch:
        operator.output.record(operator.api.get("devices", device_id), DETAILS)
        return
    watch_record(
        operator.output,
        lambda: dict(operator.api.get("devices", device_id)),
        lambda _device: DETAILS,
        key=DETAILS[0],
        timeout_s=timeout,
        unsaid=UNSAID,
    )


@device.command("history", examples=("fleetlift device history pump-17 --limit 10",))
@click.argument("device_id", metavar="DEVICE")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@pass_operator
def history(operator: Operator, *, device_id: str, limit: int) -> None:
    """Show what one device did, newest first."""
    found = operator.api.get("devices", device_id, "history", limit=limit)
    operator.output.rows(found, HISTORY, nothing=f"{device_id} has taken nothing yet.", key=ATTEMPT)


@device.command("lock", examples=("fleetlift device lock pump-17 1.3.0",))
@click.argument("device_id", metavar="DEVICE")
@click.argument("version")
@click.option("--component", metavar="C")
@pass_operator
def lock(operator: Operator, *, device_id: str, version: str, component: str | None) -> None:
    """Lock a device to a version: releases pass it by."""
    chosen = operator.component(component)
    operator.api.put("devices", device_id, "lock", chosen, body={"version": version})
    operator.output.say(f"{device_id} is locked to {chosen} {version}.")
    operator.output.record(operator.api.get("devices", device_id), DETAILS)


@device.command("unlock", examples=("fleetlift device unlock pump-17",))
@click.argument("device_id", metavar="DEVICE")
@click.option("--component", metavar="C")
@pass_operator
def unlock(operator: Operator, *, device_id: str, component: str | None) -> None:
    """Let a device follow its releases again."""
    chosen = operator.component(component)
    operator.api.delete("devices", device_id, "lock", chosen)
    operator.output.say(f"{device_id} follows the releases of {chosen} again.")
    operator.output.record(operator.api.get("devices", device_id), DETAILS)


def _pages(operator: Operator, query: Json) -> Iterator[Json]:
    after: str | None = None
    while True:
        page = operator.api.get("devices", **query, after=after, limit=1000)
        yield from page["devices"]
        after = page["next"]
        if after is None:
            return
