"""`fleetlift release status`: how far a release is, once or until it is decided."""

from collections.abc import Callable

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.options import Timeout, channel_options
from cloud.cli.release_pages import ID, channel_of, find, label_of
from cloud.cli.release_watch import TROUBLES, ReleaseWatch, conclude, fetching, rollout_line, stages_line, unwell
from cloud.cli.render import Column, Row
from cloud.cli.watch import describe


def _plan(page: Row) -> str:
    line = rollout_line(page)
    return line if page["rollout"] is not None else f"none: {line or 'at once'}"


COLUMNS = (
    Column("channel", channel_of),
    Column("label", label_of),
    Column("version", lambda page: page["release"]["firmware"]["version"]),
    Column("plan", _plan),
    Column("devices", stages_line),
    Column("has come to", "verdict"),
    Column("not well", lambda page: [f"{it['device_id']}: {describe(it)}" for it in unwell(page)[:TROUBLES]]),
)


@click.command(
    "status",
    cls=Command,
    examples=(
        "fleetlift release status v7",
        "fleetlift release status v7 --watch --timeout 2h && echo good",
    ),
)
@click.argument("name", metavar="RELEASE")
@channel_options
@click.option("--watch", "-w", is_flag=True, help="Go on until it is decided; the exit code is how.")
@click.option(
    "--timeout", type=Timeout(), default="30m", show_default=True, metavar="TIME", help="With --watch: 90s, 30m, 2h."
)
@pass_operator
def status(operator: Operator, *, name: str, watch: bool, timeout: float, **channel: str | None) -> None:
    """Show how far a release is; RELEASE is a label such as v3, or an id.

    With --watch it ends with 0 when every device that was to take it runs it (and its plan, if it has one, is
    completed), with 1 when some do not, or when it was stopped, aborted or disabled, and with 3 when the time was up.
    With -o json every change is one JSON document on a line, and the last is how it ended.
    """
    page = find(operator, name, channel)
    fetch = fetching(operator, page["release"]["release_id"])
    if not watch:
        operator.output.record(fetch(None, 0), COLUMNS, key=ID)
        return
    title = f"{channel_of(page)} {label_of(page)}"
    each = _a_document_each(operator) if operator.output.for_program else None
    last, code = ReleaseWatch(operator.output, fetch, timeout, title=title, each=each).run()
    if each is None:
        conclude(operator.output, last, code, timeout)
    if code:
        click.get_current_context().exit(code)


def _a_document_each(operator: Operator) -> Callable[[Json], object]:
    def write(page: Json) -> None:
        line = {name: page[name] for name in ("revision", "verdict", "stages", "rollout")}
        line["release_id"] = page["release"]["release_id"]
        line["troubles"] = unwell(page)[:TROUBLES]
        operator.output.part(line, names=[line["release_id"]])

    return write
