"""`fleetlift release`: labelled decisions that put firmware live on channels."""

import click

from cloud.cli.client import Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.options import PERCENTAGE, channel_options, timeout_option, wait_option, yes_option
from cloud.cli.outlook import tell_forecast
from cloud.cli.preflight import plan
from cloud.cli.push import push
from cloud.cli.release_pages import COLUMNS, ID, channel_of, channel_pages, details, find, finish, label_of
from cloud.cli.render import plural, shown
from cloud.cli.requirements import needs
from cloud.cli.rollout import COMMANDS as ROLLOUT_COMMANDS
from cloud.cli.status import status
from cloud.cli.timeline import release_timeline
from protocol.errors import UserError


@click.group(cls=Group)
def release() -> None:
    """Decisions that put firmware live for a group."""


release.add_command(push)
release.add_command(plan)
release.add_command(needs)
for command in ROLLOUT_COMMANDS:
    release.add_command(command)
release.add_command(release_timeline)
release.add_command(status)


@release.command(
    "list",
    examples=(
        "fleetlift release list --group pilots",
        "fleetlift release list -o json",
    ),
)
@channel_options
@pass_operator
def list_(operator: Operator, *, product: str | None, group: str | None, component: str | None) -> None:
    """List releases per channel, newest label first.

    DOWNLOADS and INSTALLS are those of the label itself. ACTIVE is the share of the group that took the label's image
    and runs it now; where it is released again, on the newest label.
    """
    query = {"product": product or operator.context.product, "group": group, "component": component}
    operator.output.rows(operator.api.get("releases", **query), COLUMNS, nothing="There is no release yet.", key=ID)


@release.command(
    "show",
    examples=(
        "fleetlift release show v7",
        "fleetlift release show v7 --group pilots -o yaml",
    ),
)
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def show(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Show one release and what became of it; RELEASE is a label such as v3, or an id."""
    page = find(operator, name, channel)
    operator.output.record(page, details(page))


@release.command(
    "patch",
    examples=(
        "fleetlift release patch v7 --percentage 50",
        "fleetlift release patch v7 --mandatory --description 'urgent'",
    ),
)
@click.argument("name", metavar="RELEASE")
@channel_options
@click.option("--percentage", type=PERCENTAGE, metavar="1-100", help="The share of devices; it can only rise.")
@click.option("--mandatory/--optional", default=None, help="Installed at start-up, before the application runs.")
@click.option("--force/--no-force", "forced", default=None, help="Goes over disabled updates and holds.")
@click.option("--description", metavar="TEXT")
@click.option("--immediate/--gradual", default=None, help="Taken at once, or at the start of the next session.")
@pass_operator
def patch(
    operator: Operator,
    *,
    name: str,
    percentage: int | None,
    mandatory: bool | None,
    forced: bool | None,
    description: str | None,
    immediate: bool | None,
    **channel: str | None,
) -> None:
    """Change a release for the devices that it has not reached."""
    said = {
        "percentage": percentage,
        "mandatory": mandatory,
        "forced": forced,
        "description": description,
        "urgency": _urgency(immediate),
    }
    changes = {key: value for key, value in said.items() if value is not None}
    if not changes:
        raise UserError("nothing to change was said, and nothing was changed; see `fleetlift release patch --help`")
    before = find(operator, name, channel)
    page = operator.api.patch("releases", before["release"]["release_id"], body=changes)
    operator.output.say(f"{channel_of(page)} {label_of(page)} {_changed(before, page, changes)}. {page['link']}")
    operator.output.record(page, details(page))


@release.command("enable", examples=("fleetlift release enable v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def enable(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Enable a release that was disabled."""
    page = _patch(operator, name, channel, {"enabled": True})
    operator.output.say(f"{channel_of(page)} {label_of(page)} is enabled{_live_note(page)}. {page['link']}")
    operator.output.record(page, details(page))


@release.command("disable", examples=("fleetlift release disable v7   # the brake: it asks nothing",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def disable(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Disable a release: the enabled one before it is Live again. Asks nothing: it is the brake."""
    page = _patch(operator, name, channel, {"enabled": False})
    others = channel_pages(operator, page["release"]["channel"])
    live = next((other for other in others if other["release"]["live"]), None)
    after = f"{label_of(live)} ({live['release']['firmware']['version']}) is Live" if live else "nothing is Live now"
    operator.output.say(f"{channel_of(page)} {label_of(page)} is disabled; {after}. {page['link']}")
    operator.output.record(page, details(page))


@release.command("now", examples=("fleetlift release now v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@yes_option
@pass_operator
def now(operator: Operator, *, name: str, yes: bool, **channel: str | None) -> None:
    """Make a gradual release immediate: online devices take it in real time."""
    page = find(operator, name, channel)
    shown_to = operator.api.get("releases", page["release"]["release_id"], "waiting", limit=0)
    waiting = shown_to["count"]
    operator.output.confirm(
        f"{channel_of(page)} {label_of(page)} ({page['release']['firmware']['version']}) at once, for the "
        f"{plural(waiting, 'device')} that {'waits' if waiting == 1 else 'wait'} for it?",
        yes=yes,
    )
    held = {} if yes else {"if_waiting": shown_to["digest"]}  # to what somebody looked at, if somebody did
    page = operator.api.patch("releases", page["release"]["release_id"], body={"urgency": "immediate"} | held)
    operator.output.say(f"{channel_of(page)} {label_of(page)} is immediate. {page['link']}")
    operator.output.record(page, details(page))


@release.command("rollback", examples=("fleetlift release rollback v6 --immediate --wait",))
@click.argument("name", metavar="RELEASE")
@channel_options
@click.option("--immediate/--gradual", default=False, help="At once, or at the start of the next session (default).")
@click.option("--description", metavar="TEXT", default="")
@yes_option
@wait_option
@timeout_option
@pass_operator
def rollback(
    operator: Operator,
    *,
    name: str,
    immediate: bool,
    description: str,
    yes: bool,
    wait: bool,
    timeout: float,
    **channel: str | None,
) -> None:
    """Make an earlier, successful RELEASE Live again, as a new label that references it."""
    target = find(operator, name, channel)
    tell_forecast(operator, _again(target, target["release"]["channel"]["group"], percentage=100))
    operator.output.confirm(f"Roll {channel_of(target)} back to {label_of(target)}?", yes=yes)
    body = {"description": description, "urgency": _urgency(immediate)}
    page = operator.api.post("releases", target["release"]["release_id"], "rollback", body=body)
    _made(operator, page, wait=wait, timeout=timeout)


@release.command("promote", examples=("fleetlift release promote v7 --group pilots --to everyone --percentage 10",))
@click.argument("name", metavar="RELEASE")
@channel_options
@click.option("--to", "to", metavar="GROUP", help="The group to release it to (default: a new label where it is).")
@click.option("--percentage", type=PERCENTAGE, default=100, show_default=True, metavar="1-100")
@click.option("--mandatory/--optional", default=None)
@click.option("--immediate/--gradual", default=None, help="At once, or at the start of the next session.")
@click.option("--description", metavar="TEXT")
@yes_option
@wait_option
@timeout_option
@pass_operator
def promote(
    operator: Operator,
    *,
    name: str,
    to: str | None,
    percentage: int,
    mandatory: bool | None,
    immediate: bool | None,
    description: str | None,
    yes: bool,
    wait: bool,
    timeout: float,
    **channel: str | None,
) -> None:
    """Release what succeeded in one group to another."""
    source = find(operator, name, channel)
    group = to or source["release"]["channel"]["group"]
    tell_forecast(operator, _again(source, group, percentage=percentage))
    operator.output.confirm(f"Promote {channel_of(source)} {label_of(source)} to group {group}?", yes=yes)
    body = {
        "group": group,
        "percentage": percentage,
        "mandatory": mandatory,
        "urgency": _urgency(immediate),
        "description": description,
    }
    page = operator.api.post("releases", source["release"]["release_id"], "promote", body=body)
    _made(operator, page, wait=wait, timeout=timeout)


def _changed(before: Json, after: Json, changes: Json) -> str:
    """Return what a patch changed, all of it; it may have found everything as it was to be."""
    is_now = after["release"]
    words = {
        "percentage": f"{is_now['percentage']} % of the devices",
        "mandatory": "mandatory" if is_now["mandatory"] else "optional",
        "forced": "forced" if is_now["forced"] else "not forced",
        "urgency": shown(is_now["urgency"]),
        "description": f"the description {shown(is_now['description'])!r}"
        if is_now["description"]
        else "no description",
    }
    changed = [words[name] for name in changes if before["release"][name] != is_now[name]]
    said = [words[name] for name in changes]
    return f"is changed: {', '.join(changed)}" if changed else f"was so already and is not changed: {', '.join(said)}"


def _urgency(immediate: bool | None) -> str | None:
    return None if immediate is None else "immediate" if immediate else "gradual"


def _patch(operator: Operator, name: str, channel: dict[str, str | None], changes: Json) -> Json:
    page = find(operator, name, channel)
    changed: Json = operator.api.patch("releases", page["release"]["release_id"], body=changes)
    return changed


def _live_note(page: Json) -> str:
    return " and Live" if page["release"]["live"] else ""


def _again(page: Json, group: str, *, percentage: int) -> Json:
    """Return the request for a forecast of the same firmware for a group."""
    found = page["release"]
    return {
        "product": found["channel"]["product"],
        "group": group,
        "component": found["channel"]["component"],
        "version": found["firmware"]["version"],
        "percentage": percentage,
        "urgency": found["urgency"],
        "target_range": found["target_range"],
    }


def _made(operator: Operator, page: Json, *, wait: bool, timeout: float) -> None:
    operator.output.say(f"{channel_of(page)} {label_of(page)} is Live. {page['link']}")
    finish(operator, page, wait=wait, timeout=timeout)
