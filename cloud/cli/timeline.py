"""What happened to one release or one device, one line each, newest last; with --follow, as it happens."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.following import follow as going_on
from cloud.cli.options import channel_options
from cloud.cli.release_pages import channel_of, find, label_of
from cloud.cli.render import moment, shown

F = TypeVar("F", bound=Callable[..., object])


def _timeline_options(function: F) -> F:
    limit = click.option(
        "--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="How many lines, the newest."
    )
    follow = click.option("--follow", "-f", is_flag=True, help="Go on with what happens next, until stopped.")
    return limit(follow(function))


@click.command(
    "timeline",
    cls=Command,
    examples=(
        "fleetlift release timeline v7",
        "fleetlift release timeline v7 --follow -o json",
    ),
)
@click.argument("name", metavar="RELEASE")
@channel_options
@_timeline_options
@pass_operator
def release_timeline(operator: Operator, *, name: str, limit: int, follow: bool, **channel: str | None) -> None:
    """Show what happened to a release, newest last, and what went wrong on its devices.

    With -o json it is a list; with --follow one JSON document a line.
    """
    page = find(operator, name, channel)
    nothing = f"Nothing is known to have happened to {channel_of(page)} {label_of(page)}."
    _show(operator, ("releases", page["release"]["release_id"]), limit, nothing, follow=follow)


@click.command("timeline", cls=Command, examples=("fleetlift device timeline pump-17 --follow",))
@click.argument("device_id", metavar="DEVICE")
@_timeline_options
@pass_operator
def device_timeline(operator: Operator, *, device_id: str, limit: int, follow: bool) -> None:
    """Show what happened to a device and what was decided about it, newest last.

    With -o json it is a list; with --follow one JSON document a line.
    """
    nothing = f"Nothing is known to have happened to {device_id}."
    _show(operator, ("devices", device_id), limit, nothing, follow=follow)


def _show(operator: Operator, path: tuple[str, str], limit: int, nothing: str, *, follow: bool) -> None:
    page: Json = operator.api.get(*path, "timeline", limit=limit)
    if operator.output.for_program and not follow:
        operator.output.document(page["moments"], names=[moment(it["at_ms"]) for it in page["moments"]])
        return
    if not page["moments"] and not follow:
        operator.output.say(nothing)
    _tell(operator, page["moments"])
    if not follow:
        return

    def fetch(before: Json | None, wait_s: float) -> Json:
        seen = before or page
        more: Json = operator.api.get(*path, "timeline", after=seen["next"], seen=seen["revision"], wait=wait_s)
        return more

    going_on(operator.output, fetch, lambda more: _tell(operator, more["moments"]), lambda _more: None, None)


def _tell(operator: Operator, moments: list[Json]) -> None:
    for item in moments:
        if operator.output.for_program:
            operator.output.part(item, names=[moment(item["at_ms"])])
        else:
            operator.output.say(line_of(item))


def line_of(item: Any) -> str:
    """Return a moment as a line: when, what, and who decided it."""
    actor = f", by {shown(item['actor'])}" if item["actor"] else ""
    return f"{moment(item['at_ms'])}  {shown(item['words'])}{actor}"
