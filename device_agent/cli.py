"""The device's command: runs the agent, and talks to the one that runs.

Exit codes: 0 done, 1 failed (no agent answers), 2 usage, 5 another agent runs; `hold` ends with its command's.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import click

from device_agent.clock import describe as describe_time
from device_agent.config import load, load_applicant, load_control_socket
from device_agent.contact import AGENT_VERSION
from device_agent.describing import described, described_decision
from device_agent.identity.access import device_clock
from device_agent.identity.enrolling import Applicant
from device_agent.identity.enrolling import enrol as enrol_device
from device_agent.identity.keys import default_keys
from device_agent.identity.store import IdentityStore
from device_agent.log_lines import LineFormatter
from device_agent.sdk import Updates, UpdatesError, UpdatesUnavailableError
from device_agent.wiring import wire
from protocol.enrolment import EnrolmentCode, read_code
from protocol.errors import EnrolmentError, FleetliftError, UserError
from protocol.identity import check_id

CONFIG_VARIABLE: Final = "FLEETLIFT_AGENT_CONFIG"
DEFAULT_CONFIG: Final = Path("/etc/fleetlift/agent.toml")
MAX_CODE_FILE: Final = 4096
SCOPES: Final = ("download", "install", "restart")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _told(command: Callable[P, T]) -> Callable[P, T]:
    """Turn a mistake, or an agent that does not answer, into a sentence and an exit code."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            click.echo(f"fleetlift-agent: {error}", err=True)
            sys.exit(error.exit_code)
        except (FleetliftError, UpdatesError) as error:
            click.echo(f"fleetlift-agent: {error}", err=True)
            sys.exit(1)

    return call


_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=CONFIG_VARIABLE,
    default=DEFAULT_CONFIG,
    show_default=True,
    help=f"The agent's settings (also the environment's {CONFIG_VARIABLE}).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(AGENT_VERSION, prog_name="fleetlift-agent")
def main() -> None:
    """Run the agent of this device, or talk to the one that runs."""


def _agent(config: Path) -> Updates:
    control_socket = load_control_socket(config)
    try:
        return Updates(control_socket, required=True)
    except UpdatesUnavailableError as error:
        raise UserError(
            f"no agent answers at {control_socket}: is `fleetlift-agent run` running, and may you talk to it? "
            "Nothing was changed",
            exit_code=1,
        ) from error


@main.command()
@_CONFIG
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="FLEETLIFT_AGENT_LOG_FORMAT",
    help="Lines for people, or a JSON object a line (FLEETLIFT_AGENT_LOG_FORMAT).",
)
@_told
def run(config: Path, verbose: bool, log_format: str) -> None:
    """Run the agent until it is told to stop (SIGTERM, SIGINT); its application stops with it."""
    settings = load(config)
    lines, handler = LineFormatter(settings.device_id, as_json=log_format == "json"), logging.StreamHandler()
    handler.setFormatter(lines)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    runner = wire(settings)
    lines.attempt = runner.attempt
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: runner.stop())
    _LOG.info("agent of %s, process %d, state in %s", settings.device_id, os.getpid(), settings.state_dir)
    runner.run()


@main.command()
@_CONFIG
@click.option(
    "--code-file", required=True, metavar="FILE", help="The file with the enrolment code; - is standard input."
)
@click.option("--server", metavar="URL", help="https://host:8321; by default what the settings say.")
@click.option("--device-id", metavar="ID", help="Who it is to be; by default what the settings say.")
@click.option("--hardware", metavar="MODEL", help="Its hardware model; by default what the settings say.")
@click.option("--again", is_flag=True, help="Also if the device has an identity: it is replaced.")
@_told
def enrol(
    *, config: Path, code_file: str, server: str | None, device_id: str | None, hardware: str | None, again: bool
) -> None:
    """Make this device one of the fleet, by a code from an operator; what was cut off is simply done again."""
    settings = load_applicant(config)
    store = IdentityStore(settings.identity.directory)
    known = None if again else store.load()
    if known is not None:
        ends = describe_time(known.not_after_ms / 1000)
        click.echo(
            f"{known.device_id} is enrolled already, with a certificate until {ends}; nothing was changed", err=True
        )
        return
    name, url = device_id or settings.device_id, server or settings.identity.server
    if name is None or url is None:
        raise UserError(
            f"{config} has no [device] id; give --device-id. Nothing was changed"
            if name is None
            else f"{config} has no server in [identity]; give --server. Nothing was changed"
        )
    if settings.device_id not in (None, name):
        raise UserError(
            f"{config} says that this is {settings.device_id}, not {name}; nothing was changed. Leave --device-id out, "
            "or change the `id` there"
        )
    identity = enrol_device(
        Applicant(
            device_id=check_id(name, "--device-id"),
            product=settings.product,
            hardware_model=check_id(hardware or settings.hardware_model, "--hardware"),
            root=settings.root,
        ),
        _code(code_file),
        url,
        store,
        keys=default_keys(),
        clock=device_clock(store, lambda: 0.0),
        say=lambda text: click.echo(text, err=True),
    )
    ends = describe_time(identity.not_after_ms / 1000)
    click.echo(f"{identity.device_id} of {identity.product} is enrolled; its certificate ends {ends}", err=True)
    if settings.broker_url not in (None, identity.broker_url):
        click.echo(
            f"note: the server says that the broker is {identity.broker_url}, the settings say otherwise", err=True
        )


def _code(file: str) -> EnrolmentCode:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            return read_code(opened.read(MAX_CODE_FILE))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the enrolment code cannot be read: {error}; nothing was changed") from error
    except EnrolmentError as error:
        raise UserError(f"{file}: {error}; nothing was changed") from error


@main.command()
@_CONFIG
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_told
def status(config: Path, output: str) -> None:
    """Say how the device stands."""
    with _agent(config) as agent:
        found = agent.status()
    if output == "json":
        click.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    for line in described(found):
        click.echo(line)


@main.command()
@_CONFIG
@click.option(
    "--until", metavar="WHEN", help="For so long (90s, 30m, 2h, 7d), or until a time (2026-05-01T06:00, 06:00)."
)
@click.option("--why", default="", help="What for; shown to the operator.")
@_told
def disable(config: Path, until: str | None, why: str) -> None:
    """Let no update start, until a time or until `enable`; it outlasts restarts."""
    until_s = None if until is None else seconds_until(until, datetime.now().astimezone())
    with _agent(config) as agent:
        agent.disable_updates(until_s, why=why)
    click.echo("updates are disabled" + (f" for {until_s} s" if until_s is not None else " until enabled"), err=True)


@main.command()
@_CONFIG
@_told
def enable(config: Path) -> None:
    """Let updates start again, the pending one first."""
    with _agent(config) as agent:
        agent.enable_updates()
    click.echo("updates are enabled", err=True)


@main.command()
@_CONFIG
@_told
def check(config: Path) -> None:
    """Ask the cloud now."""
    with _agent(config) as agent:
        agent.check_for_updates()
    click.echo("the agent asks the cloud", err=True)


@main.command()
@_CONFIG
@_told
def confirm(config: Path) -> None:
    """Find the version that runs good; ends a trial well if all else is well."""
    with _agent(config) as agent:
        agent.confirm()
    click.echo("the version that runs is confirmed", err=True)


@main.command()
@_CONFIG
@_told
def ready(config: Path) -> None:
    """Install what is downloaded now."""
    with _agent(config) as agent:
        agent.ready()
    click.echo("what is downloaded is installed", err=True)


@main.command("data-synced")
@_CONFIG
@click.option("--undo", is_flag=True, help="It does not rest any more: ask anew.")
@_told
def data_synced(config: Path, undo: bool) -> None:
    """Say that the data of the application is synced and rests, so that an update may change its schema."""
    with _agent(config) as agent:
        agent.data_synced(not undo)
    click.echo("the update asks anew" if undo else "the update may go on", err=True)


@main.command(context_settings={"ignore_unknown_options": True})
@_CONFIG
@click.option("--component", metavar="C", help="Of which component; the only one by default.")
@click.argument("name")
@click.argument("value", type=int)
@_told
def gauge(config: Path, component: str | None, name: str, value: int) -> None:
    """Report a whole number that shows how the application does: fleetlift-agent gauge queue-depth 12."""
    with _agent(config) as agent:
        agent.report_gauge(name, value, component=component)
    click.echo(f"{name} is {value}", err=True)


@main.command()
@_CONFIG
@_told
def consent(config: Path) -> None:
    """Agree to the update that asks for attention; also undoes a decline."""
    with _agent(config) as agent:
        waits = agent.status().get("attention")
        agent.consent()
    click.echo(f"{_named(waits)} may be installed" if waits else "nothing asks for consent", err=True)


@main.command()
@_CONFIG
@click.argument("when")
@_told
def defer(config: Path, when: str) -> None:
    """Put off the update that asks for attention: for so long (30m, 2h, 1d), or until a time (06:00)."""
    seconds = seconds_until(when, datetime.now().astimezone(), what="WHEN")
    with _agent(config) as agent:
        agent.defer(seconds)
    click.echo(f"it asks again in {seconds} s", err=True)


@main.command()
@_CONFIG
@_told
def decline(config: Path) -> None:
    """Do without the update that asks for attention, if it is optional."""
    with _agent(config) as agent:
        waits = agent.status().get("attention")
        agent.decline()
    click.echo(f"{_named(waits) if waits else 'it'} is declined, until somebody consents", err=True)


@main.command()
@_CONFIG
@click.argument("component", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_told
def why(config: Path, component: str | None, output: str) -> None:
    """Say what this device is to do, by every rule in order, and why it waits now."""
    with _agent(config) as agent:
        decisions = agent.why(component)
    if output == "json":
        click.echo(json.dumps(decisions, indent=2))
        return
    if not decisions:
        click.echo("the cloud has not said yet what this device is to follow", err=True)
    for decision in decisions:
        for line in described_decision(decision):
            click.echo(line)


@main.command(context_settings={"ignore_unknown_options": True})
@_CONFIG
@click.option("--why", required=True, help="For whom or what updates wait; shown to the operator.")
@click.option("--scope", type=click.Choice(SCOPES), multiple=True, help="What waits; by default install and restart.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_told
def hold(config: Path, why: str, scope: Sequence[str], command: Sequence[str]) -> None:
    """Make updates wait while COMMAND runs: fleetlift-agent hold --why backup -- tar ..."""
    with _agent(config) as agent, agent.hold(why, scope=scope or ("install", "restart")):
        try:
            ended = subprocess.run(command, check=False)
        except OSError as error:
            raise UserError(f"{command[0]}: {error.strerror}; nothing was run", exit_code=1) from error
    sys.exit(ended.returncode if ended.returncode >= 0 else 128 - ended.returncode)


def _named(waits: Mapping[str, object]) -> str:
    return f"{waits['component']} {waits['version']}"


def seconds_until(when: str, now: datetime, what: str = "--until") -> int:
    """Return how many seconds from now a person means: a duration, a time of day or a date; raises UserError."""
    if duration := re.fullmatch(r"(\d{1,6})([smhd])", when):
        seconds = int(duration[1]) * _UNITS[duration[2]]
    else:
        seconds = round((_moment(when, now, what) - now).total_seconds())
    if seconds < 1:
        raise UserError(f"{what} {when}: that is over already; nothing was changed")
    return seconds


def _moment(when: str, now: datetime, what: str) -> datetime:
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", when):
            clock = datetime.strptime(when, "%H:%M").astimezone(now.tzinfo).time()
            today = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
            return today if today > now else today + timedelta(days=1)
        moment = datetime.fromisoformat(when)
    except ValueError:
        raise UserError(
            f"{what} {when!r:.40} is neither a duration (90s, 30m, 2h, 7d) nor a time (2026-05-01T06:00, 06:00); "
            "nothing was changed"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


if __name__ == "__main__":
    main()
