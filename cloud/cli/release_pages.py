"""Releases as the command line shows them: tables, looking one up by its label, waiting for its devices."""

import re
from typing import Any

import click

from cloud.cli.client import FAILED, Json
from cloud.cli.context import Operator
from cloud.cli.release_watch import ReleaseWatch, conclude, fetching
from cloud.cli.render import Column, moment
from protocol.errors import UserError

_LABEL = re.compile(r"v?([1-9]\d{0,9})")


def _of(name: str) -> Any:
    return lambda page: page["release"][name]


def _count(name: str) -> Any:
    return lambda page: sum(page["metrics"][name].values())


def _state(page: Any) -> str:
    release = page["release"]
    if not release["enabled"]:
        return "disabled"
    return ("live" if release["live"] else "enabled") + (", paused" if release["terms"]["paused"] else "")


def label_of(page: Any) -> str:
    """Return `v4`, or `v4 (references v2)`."""
    release = page["release"]
    references = release["references_label"]
    return f"v{release['label']}" + (f" (references v{references})" if references else "")


def channel_of(page: Any) -> str:
    """Return `product/group/component`."""
    channel = page["release"]["channel"]
    return f"{channel['product']}/{channel['group']}/{channel['component']}"


COLUMNS = (
    Column("channel", channel_of),
    Column("label", label_of),
    Column("version", lambda page: page["release"]["firmware"]["version"]),
    Column("state", _state),
    Column("rollout", lambda page: f"{page['release']['percentage']} %", justify="right"),
    Column("urgency", _of("urgency")),
    Column("downloads", lambda page: page["metrics"]["downloads"], justify="right"),
    Column("installs", lambda page: page["metrics"]["installs"], justify="right"),
    Column("rollbacks", _count("rollbacks"), justify="right"),
    Column("failed", _count("failures"), justify="right"),
    Column("active", lambda page: f"{page['metrics']['active_percent']:.0f} %", justify="right"),
)
ID = Column("deployment id", _of("release_id"))
"""What a script calls a release by: labels are a channel's own."""
_BEFORE = (
    ID,
    *COLUMNS,
    Column("target range", _of("target_range")),
    Column("mandatory", _of("mandatory")),
    Column("forced", _of("forced")),
    Column("description", _of("description")),
    Column("created", lambda page: f"{moment(page['release']['created_at_ms'])} by {page['release']['created_by']}"),
)
_AFTER = (
    Column("under way", lambda page: page["metrics"]["under_way"]),
    Column("rollback reasons", lambda page: page["metrics"]["rollbacks"]),
    Column("failure reasons", lambda page: page["metrics"]["failures"]),
    Column("taken back", lambda page: page["metrics"]["taken_back"]),
    Column("devices in group", lambda page: page["metrics"]["group_devices"]),
    Column("page", "link"),
)


def details(page: Any) -> tuple[Column, ...]:
    """Return what is shown of one release."""
    heading = "live for" if page["release"]["live"] else "was live for"
    return (*_BEFORE, Column(heading, lambda row: f"{row['release']['duration_s']} s"), *_AFTER)


def find(operator: Operator, name: str, channel: dict[str, str | None]) -> Json:
    """Return the release of a label in the channel that the options say, or of an id; raises UserError."""
    label = _LABEL.fullmatch(name)
    if label is None:
        page: Json = operator.api.get("releases", name)
        return page
    key = {
        "product": operator.product(channel["product"]),
        "group": channel["group"] or "everyone",
        "component": operator.component(channel["component"]),
    }
    pages = channel_pages(operator, key)
    for page in pages:
        if page["release"]["label"] == int(label[1]):
            return page
    where = f"{key['product']}/{key['group']}/{key['component']}"
    known = f"v1 to v{pages[0]['release']['label']}" if pages else "no release at all"
    raise UserError(
        f"there is no v{label[1]} in {where}, which has {known}. Nothing was changed; "
        "--group and --component choose another channel.",
        exit_code=FAILED,
    )


def channel_pages(operator: Operator, channel: dict[str, str]) -> list[Json]:
    """Return a channel's releases, newest first."""
    found: list[Json] = operator.api.get("releases", **channel)
    return found


def finish(operator: Operator, page: Json, *, wait: bool, timeout: float) -> None:
    """Answer with the page of a release; with `wait`, when its devices have settled, and with their exit code."""
    code = 0
    if wait:
        release_id = page["release"]["release_id"]
        title = f"{channel_of(page)} {label_of(page)}"
        progress, code = ReleaseWatch(operator.output, fetching(operator, release_id), timeout, title=title).run()
        conclude(operator.output, progress, code, timeout)
        page = page | {"release": progress["release"], "metrics": progress["metrics"], "devices": progress["devices"]}
    operator.output.record(page, details(page))
    if code:
        click.get_current_context().exit(code)
