"""`fleetlift status`: the fleet as a whole: how many run what, what is under way, what fails, who needs somebody."""

import time
from collections.abc import Sequence
from typing import Final

import click

from cloud.attention import AT
from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.options import Timeout
from cloud.cli.release_pages import channel_of, label_of
from cloud.cli.release_watch import rollout_line, stages_line
from cloud.cli.render import Column, moment, plural, shown
from cloud.progress import Verdict, may_go_on

NAMED: Final = 5
COUNTED: Final = 20
"""Releases that are asked how far they are."""
ROWS: Final = 30
_WORDS: Final = {
    "taken_back": "said two things",
    "refused": "messages refused",
    "certificate": "certificate ends",
    "held": "held back",
    "turn": "wait for a turn",
}
PRODUCTS: Final = (
    Column("product", "product"),
    Column("devices", "devices", justify="right"),
    Column("online", "online", justify="right"),
    Column("quiet", "quiet", justify="right"),
    Column("failed", "failed", justify="right"),
    Column("running", lambda row: [_version(it) for it in row["versions"][:NAMED]]),
)
RELEASES: Final = (
    Column("channel", channel_of),
    Column("label", label_of),
    Column("version", lambda page: page["release"]["firmware"]["version"]),
    Column("plan", lambda page: rollout_line(page) or "none: at once"),
    Column("devices", stages_line),
)


@click.command(
    "status",
    cls=Command,
    examples=(
        "fleetlift status",
        "fleetlift status -o name     # the devices that need somebody",
        "fleetlift status --over 30d  # how many ran which version, and when",
    ),
)
@click.option("--product", metavar="P", help="Of this product alone (default: of all).")
@click.option("--over", type=Timeout(), metavar="TIME", help="Show instead how it was over so long: 24h, 30d, 365d.")
@click.option("--component", metavar="C", help="With --over: by version of this component (default: all devices).")
@pass_operator
def fleet_status(operator: Operator, *, product: str | None, over: float | None, component: str | None) -> None:
    """Show the fleet: how many devices run what, what is under way, what fails, and who needs somebody.

    With -o json it is one document, and with -o name the devices that need somebody. A large fleet is not counted all
    the time: `counted_at_ms` says when it was.
    """
    if over is not None:
        _history(operator, operator.product(product), component or "", over)
        return
    fleet = operator.api.get("fleet", product=product)
    attention: Json = operator.api.get("fleet", "attention", product=product, limit=100)
    needs: list[Json] = attention["needs"]
    running = _running(operator, product)
    output = operator.output
    if output.for_program:
        names = dict.fromkeys(device["device_id"] for need in needs for device in need["devices"])
        output.document(
            fleet | {"needs": needs, "metadata": attention["metadata"], "running": running}, names=list(names)
        )
        return
    output.rows(fleet["products"], PRODUCTS, nothing="No device has joined yet; `fleetlift token create` lets one in.")
    output.say("")
    output.rows(running, RELEASES, nothing="No release is under way.")
    output.say("")
    for cause, count in _causes(fleet["products"]):
        output.say(f"{plural(count, 'device')} failed at the newest attempt: {cause}")
    for line in (*_metadata_lines(attention["metadata"]), *_lines(needs)):
        output.say(line)
    if not needs:
        output.say("No device needs anybody.")


def _version(count: Json) -> str:
    return f"{shown(count['component'])} {shown(count['version'])}: {count['devices']}"


def _running(operator: Operator, product: str | None) -> list[Json]:
    """Return how far the releases are that go on, the newest first."""
    pages: list[Json] = [
        page
        for page in operator.api.get("releases", product=product, enabled="true", metrics="false")
        if may_go_on(
            enabled=True,
            live=page["release"]["live"],
            status=page["rollout"]["status"] if page["rollout"] else None,
        )
    ]
    pages.sort(key=lambda page: -int(page["release"]["created_at_ms"]))
    found = []
    for page in pages[:COUNTED]:
        progress: Json = operator.api.get("releases", page["release"]["release_id"], "progress", limit=0)
        if page["rollout"] or progress["verdict"] == Verdict.OPEN:
            found.append(progress)
    return found


def _causes(products: Sequence[Json]) -> list[tuple[str, int]]:
    causes: dict[str, int] = {}
    for product in products:
        for reason, count in product["failures"].items():
            causes[reason] = causes.get(reason, 0) + count
    found = sorted(causes.items(), key=lambda it: (-it[1], it[0]))
    return [(shown(reason or "no reason was told").replace("_", " "), count) for reason, count in found]


def _lines(needs: Sequence[Json]) -> list[str]:
    """Return a line for each trouble, and one for each of some of its devices."""
    lines = []
    for need in needs:
        words = _WORDS.get(need["trouble"], need["trouble"].replace("_", " "))
        of = f" of {need['product']}" if need["product"] else ", none of which is known here"
        lines.append(f"{plural(need['count'], 'device')}{of}: {words}")
        for device in need["devices"][:NAMED]:
            at = f", {AT[need['trouble']]} {moment(device['at_ms'])}" if device["at_ms"] else ""
            lines.append(f"  {shown(device['device_id'])}: {shown(device['detail'])}{at}")
        if need["count"] > NAMED:
            lines.append(f"  and {need['count'] - NAMED} more")
    return lines


def _metadata_lines(metadata: Sequence[Json]) -> list[str]:
    """Return two lines for each role whose metadata is due: when it expires, and why that matters."""
    lines = []
    for it in metadata:
        how = "has expired" if it["has_expired"] else "expires"
        lines.append(
            f"signed metadata of {shown(it['role'])}, version {it['version']}, {how}: {moment(it['expires_at_ms'])}"
        )
        lines.append(f"  {shown(it['why'])} `{shown(it['command'])}`")
    return lines


def _history(operator: Operator, product: str, component: str, over_s: float) -> None:
    since_ms = max(0, int((time.time() - over_s) * 1000))
    page: Json = operator.api.get(
        "fleet", "history", product=product, component=component, since_ms=since_ms, points=500
    )
    output, series = operator.output, page["series"]
    if output.for_program:
        output.document(page, names=[it["version"] for it in series])
        return
    times = sorted({point["at_ms"] for it in series for point in it["points"]})
    step = -(-len(times) // ROWS) if times else 1
    rows = [{"at_ms": at_ms} for at_ms in times[::-1][::step][::-1]]
    columns = [Column("time", lambda row: moment(row["at_ms"]))]
    for it in series:
        by_time = {point["at_ms"]: point for point in it["points"]}
        names = [("others" if it["others"] else it["version"], "devices")]
        names = names if component else [("devices", "devices"), ("online", "online")]
        columns += [_column(name, field, by_time) for name, field in names]
    output.rows(rows, columns, nothing="No sample was taken in that time: they are while the server runs.")


def _column(name: str, field: str, by_time: dict[int, Json]) -> Column:
    return Column(name, lambda row: by_time[row["at_ms"]][field] if row["at_ms"] in by_time else 0, justify="right")
