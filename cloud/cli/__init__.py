"""The `fleetlift` command: the server, and everything that an operator does with it.

An operator's commands talk to the server's API and need little; `init`, `serve` and their like need the whole server,
which takes a second to import. So those are named here and resolved when they are called (click calls it a lazy group).
"""

import pkgutil
import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from cloud.cli.api_token import api_token
from cloud.cli.audit import audit
from cloud.cli.client import USAGE
from cloud.cli.completion import completion
from cloud.cli.context import Group
from cloud.cli.device import device
from cloud.cli.device_sets import set_
from cloud.cli.endings import ending
from cloud.cli.firmware import firmware
from cloud.cli.fleet_status import fleet_status
from cloud.cli.group import group
from cloud.cli.login import context, login, logout
from cloud.cli.operating import Operator
from cloud.cli.ota import ota
from cloud.cli.person import console, person
from cloud.cli.product import product
from cloud.cli.readers import outlive_readers
from cloud.cli.release import release
from cloud.cli.terminal import PLAIN_HELP_WIDTH, is_terminal
from cloud.cli.webhook import webhook


class Heavy(NamedTuple):
    """A command that needs the whole server: where it is, and what the list of commands says of it."""

    target: str
    help: str


LIGHT: Final = (
    *(fleet_status, release, firmware, ota, device, group, set_, product, webhook, person, api_token, audit, console),
    *(login, logout, context, completion),
)
HEAVY: Final[Mapping[str, Heavy]] = {
    "simulate": Heavy("cloud.cli.simulate:simulate", "Rehearse a plan on a made-up fleet; nothing is changed."),
    "token": Heavy("cloud.cli.token:token", "Enrolment codes: what a device becomes one of the fleet with."),
    "key": Heavy("cloud.cli.key:key", "Who may sign what: keys, thresholds, expiries."),
    "operator": Heavy("cloud.cli.operators:operator_", "The first people of a server, on its own machine."),
    "ca": Heavy("cloud.cli.authority:ca", "The authorities that certificates come from."),
    "init": Heavy("cloud.cli.initialise:init", "Make a home: keys, metadata, certificates, token, settings."),
    "serve": Heavy("cloud.cli.serve:serve", "Run the server until it is told to end."),
    "doctor": Heavy("cloud.cli.doctor:doctor", "Examine a running broker from outside."),
    "demo": Heavy("cloud.demo.cli:demo", "Show the whole path, end to end, in a minute."),
}
SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Updates": ("release", "firmware", "ota", "simulate"),
    "Devices": ("status", "device", "group", "set", "product", "token"),
    "People and trust": ("person", "api-token", "audit", "key", "ca", "operator"),
    "The server": ("init", "serve", "console", "webhook", "doctor", "demo"),
    "This command": ("login", "logout", "context", "completion"),
}
"""All commands, as the help lists them."""


class Root(Group):
    """The outermost group, which resolves heavy commands when they are called, and not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*HEAVY, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name, or None."""
        if cmd_name not in HEAVY:
            return super().get_command(ctx, cmd_name)
        if cmd_name == "serve":
            ctx.ensure_object(Operator).tells_where = True
        command: click.Command = pkgutil.resolve_name(HEAVY[cmd_name].target)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command is for, by section."""
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(list(self._told(ctx, names, formatter.width)))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so."""
        names = tuple(name for names in SECTIONS.values() for name in names if name.startswith(incomplete))
        told = [CompletionItem(name, help=words) for name, words in self._told(ctx, names, PLAIN_HELP_WIDTH)]
        return told + (click.Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else [])

    def _told(self, ctx: click.Context, names: tuple[str, ...], width: int) -> Iterator[tuple[str, str]]:
        for name in names:
            if name in HEAVY:
                yield name, HEAVY[name].help
            elif (command := self.get_command(ctx, name)) is not None:
                yield name, command.get_short_help_str(width)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    examples=(
        "fleetlift login https://ota.example:8321",
        "fleetlift release push build/app --version 1.4.0",
        "fleetlift device list --watch",
        'eval "$(fleetlift completion bash)"',
    ),
)
@click.version_option(package_name="fleetlift")
def fleetlift() -> None:
    """Over-the-air firmware updates for device fleets, over MQTT.

    Exit codes: 0 succeeded, 1 failed, 2 usage, 3 timed out, 4 not allowed, 5 conflict, 130 interrupted.
    """


for _command in LIGHT:
    fleetlift.add_command(_command)


def main() -> int:
    """Run the command line and return the exit code; a person's mistake is a sentence, never a traceback."""
    outlive_readers()
    if (wrong := next((word for word in sys.argv if not _is_text(word)), None)) is not None:
        click.echo(f"fleetlift: {wrong!a} is not text (UTF-8 is expected). Nothing was done.", err=True)
        return USAGE
    operator = Operator()
    width = None if is_terminal(sys.stdout) else PLAIN_HELP_WIDTH
    return ending(
        operator,
        lambda: fleetlift.main(prog_name="fleetlift", standalone_mode=False, obj=operator, terminal_width=width),
    )


def _is_text(word: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in word)
