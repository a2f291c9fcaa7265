"""The `fleetlift` command: the server, and everything that an operator does with it."""

import sys

import click

from cloud.cli.client import CONFLICT, FAILED, USAGE
from cloud.cli.context import Group
from cloud.cli.device import device
from cloud.cli.firmware import firmware
from cloud.cli.group import group
from cloud.cli.initialise import init
from cloud.cli.ota import ota
from cloud.cli.product import product
from cloud.cli.release import release

# from cloud.cli.serve import serve
from cloud.images import ImageError
from cloud.roles import ConflictingRoleError
from cloud.store.errors import ConflictError, InvalidError
from protocol.errors import FleetliftError, ProtocolError, UserError

INTERRUPTED = 130
COMMANDS = (init, product, firmware, group, release, device, ota)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fleetlift")
def fleetlift() -> None:
    """Over-the-air firmware updates for device fleets, over MQTT.

    Exit codes: 0 succeeded, 1 failed, 2 usage, 3 timed out, 4 not allowed, 5 conflict.
    """


for _command in COMMANDS:
    fleetlift.add_command(_command)


def main() -> int:
    """Run the command line and return the exit code; a person's mistake is a sentence, never a traceback."""
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
    text = sentence[:1].upper() + sentence[1:]
    click.echo(f"fleetlift: {text}" + ("" if text.endswith((".", "?", "!")) else "."), file=sys.stderr)
