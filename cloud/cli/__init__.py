"""The `fleetlift` command: the server, and everything that an operator does with it.

An operator's commands talk to the server's API and need little; `init`, `serve` and their like need the whole server,
which takes a second to import. So those are named here and resolved when they are called (click calls it a lazy group).
"""

import pkgutil
import sys
from collections.abc import Mapping
from typing import Final

import click

from cloud.cli.api_token import api_token
from cloud.cli.audit import audit
from cloud.cli.client import CONFLICT, FAILED, USAGE
from cloud.cli.context import Group
from cloud.cli.device import device
from cloud.cli.device_sets import set_
from cloud.cli.firmware import firmware
from cloud.cli.group import group
from cloud.cli.ota import ota
from cloud.cli.person import console, person
from cloud.cli.product import product
from cloud.cli.readers import outlive_readers
from cloud.cli.release import release
from cloud.cli.webhook import webhook
from cloud.images import ImageError
from cloud.roles import ConflictingRoleError
from cloud.store.errors import ConflictError, InvalidError
from protocol.errors import FleetliftError, ProtocolError, UserError

INTERRUPTED: Final = 130
LIGHT: Final = (product, firmware, group, release, device, set_, ota, webhook, person, api_token, audit, console)
HEAVY: Final[Mapping[str, str]] = {
    "init": "cloud.cli.initialise:init",
    "serve": "cloud.cli.serve:serve",
    "key": "cloud.cli.key:key",
    "doctor": "cloud.cli.doctor:doctor",
    "demo": "cloud.demo.cli:demo",
    "token": "cloud.cli.token:token",
    "operator": "cloud.cli.operators:operator_",
    "ca": "cloud.cli.authority:ca",
    "simulate": "cloud.cli.simulate:simulate",
}
"""Commands that need the whole server: name to `module:attribute`."""


class Root(Group):
    """The outermost group, which resolves heavy commands when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*HEAVY, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name, or None."""
        if cmd_name not in HEAVY:
            return super().get_command(ctx, cmd_name)
        command: click.Command = pkgutil.resolve_name(HEAVY[cmd_name])
        return command


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fleetlift")
def fleetlift() -> None:
    """Over-the-air firmware updates for device fleets, over MQTT.

    Exit codes: 0 succeeded, 1 failed, 2 usage, 3 timed out, 4 not allowed, 5 conflict.
    """


for _command in LIGHT:
    fleetlift.add_command(_command)


def main() -> int:
    """Run the command line and return the exit code; a person's mistake is a sentence, never a traceback."""
    outlive_readers()
    try:
        code = fleetlift.main(prog_name="fleetlift", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        _say("stopped; what was done before stays done")
        return INTERRUPTED
    except FleetliftError as error:
        _say(str(error))
        return exit_code_of(error)
    return code if isinstance(code, int) else 0


def exit_code_of(error: FleetliftError) -> int:
    """Return the exit code that an error ends a command with."""
    match error:
        case UserError():
            return error.exit_code
        case ConflictError() | ConflictingRoleError():
            return CONFLICT
        case InvalidError() | ProtocolError() | ImageError():
            return USAGE
        case _:
            return FAILED


def _say(sentence: str) -> None:
    click.echo(f"fleetlift: {sentence}" + ("" if sentence.endswith((".", "?", "!")) else "."), file=sys.stderr)
