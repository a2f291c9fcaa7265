"""How a command ends: with an exit code, and with a sentence where something was wrong; never with a traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

import click

from cloud.cli.client import CONFLICT, FAILED, USAGE, AnsweredError
from cloud.cli.operating import Operator
from cloud.cli.render import shown
from cloud.images import ImageError
from cloud.roles import ConflictingRoleError
from cloud.store.errors import ConflictError, InvalidError
from protocol.errors import FleetliftError, ProtocolError, UserError

INTERRUPTED: Final = 130
TRACEBACK_VARIABLE: Final = "FLEETLIFT_TRACEBACK"


def ending(operator: Operator, run: Callable[[], object]) -> int:
    """Run a command to its end, and return its exit code."""
    code = _run(operator, run)
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, where it ends up
        if code == 0:
            _say(f"standard output cannot be written: {error.strerror or error}. What was asked for was done")
        _let_go()
        return code or FAILED
    return code


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


def _run(operator: Operator, run: Callable[[], object]) -> int:
    try:
        code = run()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("stopped; what was done before stays done")
        return INTERRUPTED
    except FleetliftError as error:
        _say(str(error))
        if isinstance(error, AnsweredError) and error.where:
            click.echo(f"See: {shown(error.where)}", err=True)
        return exit_code_of(error)
    except OSError as error:
        _say(_of_system(error))
        return FAILED
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, whatever it was
        if operator.tells_where or os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        _say(_unexpected(operator, error))
        return FAILED
    return code if isinstance(code, int) else 0


def _of_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. What had been done before that stays done"


def _unexpected(operator: Operator, error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"[:300]
    more = f"{TRACEBACK_VARIABLE}=1 shows where it was"
    if (api := operator.asked_server) is not None:
        return (
            f"{api.url} answered something that this command does not understand ({what}). Is it a Fleetlift server, "
            f"of version {version('fleetlift')} as this is? What it was asked to do may have been done; {more}"
        )
    return f"this command met what it is not prepared for ({what}). {more}"


def _say(sentence: str) -> None:
    end = "" if sentence.endswith((".", "?", "!")) else "."
    click.echo("\n".join(map(shown, f"fleetlift: {sentence}{end}".split("\n"))), file=sys.stderr)


def _let_go() -> None:
    """Have nothing more written to a standard output that takes nothing."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as this process lives
