"""`fleetlift release pause, resume, retry`, and of those that go by a plan `rollout, abort, approve, advance`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from cloud.cli.client import FAILED, Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.following import watch_options, watch_record
from cloud.cli.options import channel_options, yes_option
from cloud.cli.release_pages import ID, channel_of, details, find, label_of
from cloud.cli.render import Column, moment, plural, shown, table_of

BAR_CELLS: Final = 30
_WHY = click.option("--why", default="", metavar="TEXT", help="For those who ask later.")

STRATA: Final = (
    Column("hardware", lambda row: row["hardware_model"]),
    Column("from", lambda row: row["from_version"] or "nothing"),
    Column("began", "started", justify="right"),
    Column("under way", "under_way", justify="right"),
    Column("soaking", "proven", justify="right"),
    Column("succeeded", "succeeded", justify="right"),
    Column("failed", "failed", justify="right"),
    Column("quiet", "quiet", justify="right"),
    Column("", lambda row: "STOPPED" if row["stopped"] else ""),
    Column("failures", lambda row: [f"{it['count']} {it['reason']} in {it['phase']}" for it in row["failures"]]),
)


_CODES: Final = {"completed": 0, "aborted": FAILED, "overtaken": FAILED, "stopped_by_gate": FAILED}


@click.command(
    "rollout", cls=Command, examples=("fleetlift release rollout v7", "fleetlift release rollout v7 --watch")
)
@click.argument("name", metavar="RELEASE")
@channel_options
@watch_options
@pass_operator
def rollout(operator: Operator, *, name: str, watch: bool, timeout: float | None, **channel: str | None) -> None:
    """Show where a release stands with its plan, by kind of device, and why.

    With --watch it ends with 0 when the plan is completed, with 1 when it is aborted, overtaken or stopped by a gate,
    and with 3 when the time was up.
    """
    release_id = find(operator, name, channel)["release"]["release_id"]
    if not watch:
        _show(operator, operator.api.get("releases", release_id, "rollout"))
        return
    code = watch_record(
        operator.output,
        lambda: dict(operator.api.get("releases", release_id, "rollout")),
        _details,
        key=ID,
        timeout_s=timeout,
        below=lambda page: table_of(page["strata"], STRATA) if page["strata"] else None,
        verdict=lambda page: _CODES.get(page["status"]),
    )
    click.get_current_context().exit(code)


@click.command("pause", cls=Command, examples=("fleetlift release pause v7 --why 'two devices in Berlin are hot'",))
@click.argument("name", metavar="RELEASE")
@channel_options
@_WHY
@pass_operator
def pause(operator: Operator, *, name: str, why: str, **channel: str | None) -> None:
    """Have nobody further take a release; who has it keeps it."""
    _steer(operator, name, channel, "pause", "is paused: nobody further takes it", body={"why": why})


@click.command("resume", cls=Command, examples=("fleetlift release resume v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def resume(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Go on with a release that was paused or stopped; what stopped it does not count again."""
    _steer(operator, name, channel, "resume", "goes on")


@click.command("abort", cls=Command, examples=("fleetlift release abort v7 --why 'fails on pi3'",))
@click.argument("name", metavar="RELEASE")
@channel_options
@_WHY
@yes_option
@pass_operator
def abort(operator: Operator, *, name: str, why: str, yes: bool, **channel: str | None) -> None:
    """End a release and its plan for good: its devices return to the one before. Without a plan, disable it."""
    page = find(operator, name, channel)
    took = page["metrics"]["active"]
    question = (
        f"Abort {channel_of(page)} {label_of(page)}? {plural(took, 'device')} that run it return to the one before."
    )
    operator.output.confirm(question, yes=yes)
    _steer(operator, name, channel, "abort", "is aborted: its devices return to the release before", body={"why": why})


@click.command("retry", cls=Command, examples=("fleetlift release retry v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def retry(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Have the devices that failed at a release so far try once more."""
    _steer(operator, name, channel, "retry", "is tried again by the devices that failed")


@click.command("approve", cls=Command, examples=("fleetlift release approve v7 --group pilots",))
@click.argument("name", metavar="RELEASE")
@channel_options
@pass_operator
def approve(operator: Operator, *, name: str, **channel: str | None) -> None:
    """Agree to a release that somebody else made and that waits for it."""
    _steer(operator, name, channel, "approve", "is approved by you")


@click.command("advance", cls=Command, examples=("fleetlift release advance v7",))
@click.argument("name", metavar="RELEASE")
@channel_options
@yes_option
@pass_operator
def advance(operator: Operator, *, name: str, yes: bool, **channel: str | None) -> None:
    """Open the next phase of a release now, whatever the open one waits for."""
    page = find(operator, name, channel)
    operator.output.confirm(f"Open the next phase of {channel_of(page)} {label_of(page)} now?", yes=yes)
    _steer(operator, name, channel, "advance", "is in its next phase")


COMMANDS: Final = (rollout, pause, resume, abort, retry, approve, advance)


def _steer(
    operator: Operator, name: str, channel: dict[str, str | None], word: str, said: str, *, body: Json | None = None
) -> None:
    release_id = find(operator, name, channel)["release"]["release_id"]
    page = operator.api.post("releases", release_id, word, body=body or {})
    operator.output.say(f"{channel_of(page)} {label_of(page)} {said}. {page['link']}")
    if "phases" in page:
        _show(operator, page)
    else:  # it has no plan
        operator.output.record(page, details(page))


def _show(operator: Operator, page: Json) -> None:
    output = operator.output
    if output.for_program:
        output.document(page, names=[ID.of(page)])
        return
    output.record(page, _details(page), key=ID)
    if page["strata"]:
        output.say("")
        output.rows(page["strata"], STRATA, nothing="")


def _details(page: Json) -> tuple[Column, ...]:
    started = _sum(page, "started")
    return (
        Column("release", lambda row: f"{channel_of(row)} {label_of(row)} ({row['release']['firmware']['version']})"),
        Column("status", lambda row: row["status"].replace("_", " ")),
        Column("waits for", "waits_for"),
        Column("why", "why"),
        *(Column(f"phase {number}", _phase(number, phase)) for number, phase in enumerate(page["phases"], start=1)),
        *((Column("held back", lambda row: f"{row['hold_back']} %"),) if page["hold_back"] else ()),
        *((Column("approved by", _approvals),) if page["approvals"] else ()),
        Column("covered", lambda row: f"{bar(row['covered_percent'] / 100)} {row['covered_percent']:g} %"),
        Column("took it", lambda row: _share(_sum(row, "succeeded") + _sum(row, "proven"), row["devices"])),
        Column("began", lambda row: f"{started} of {row['devices']} devices; {row['already']} run it"),
        *((Column("stopped for", "stopped"),) if page["stopped"] else ()),
        Column("silence", _silence),
    )


def _phase(number: int, phase: Json) -> Callable[[Any], str]:
    covers = f"{phase['percentage']} %" if phase["percentage"] is not None else f"group {shown(phase['group'])}"
    words = (
        f"{covers}{', grows for ' + _time(phase['ramp_s']) if phase['ramp_s'] else ''}, soaks {_time(phase['soak_s'])}"
    )

    def cell(page: Any) -> str:
        if page["completed"] or number < page["phase"]:
            return f"✓ {words}"
        if number > page["phase"]:
            return f"  {words}"
        return f"▶ {words}; opened {moment(page['phase_began_at_ms'])}, {_left(page)}"

    return cell


def _left(page: Any) -> str:
    left_s = page["soaked_at_ms"] / 1000 - time.time()
    if page["status"] != "running":
        return str(page["status"]).replace("_", " ")
    return f"soaks for {_time(round(left_s))} more" if left_s > 0 else "its soak is over"


def _silence(page: Any) -> str:
    silence = page["silence"]
    if silence is None:
        return "not watched"
    return (
        f"{silence['took_quiet']} that took it went quiet, {silence['others_quiet']} others; evidence "
        f"{silence['evidence']:.1f}, stops at {silence['bound']:.1f}"
    )


def _approvals(page: Any) -> str:
    return f"{shown(page['approved_by'])} ({len(page['approved_by'])} of {page['approvals']})"


def bar(share: float) -> str:
    """Return a share of 1 as a bar."""
    full = round(BAR_CELLS * min(max(share, 0.0), 1.0))
    return "█" * full + "░" * (BAR_CELLS - full)


def _share(count: int, devices: int) -> str:
    return f"{bar(count / devices if devices else 0.0)} {count} of {devices}"


def _sum(page: Any, name: str) -> int:
    return int(sum(row[name] for row in page["strata"]))


def _time(seconds: int) -> str:
    days, rest = divmod(max(0, seconds), 86_400)
    clock = datetime.fromtimestamp(rest, UTC)
    parts = ((days, "d"), (clock.hour, "h"), (clock.minute, "min"), (clock.second, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
