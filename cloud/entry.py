"""The `fleetlift` command's door: says which extra to install where only the agent is.

A device's installation carries this wing's files but not its libraries. This is the one module that imports inside a
function, because a missing library has to become a sentence instead of a traceback.
"""

import importlib
import sys

_OURS = frozenset({"cloud", "protocol", "device_agent"})


def main() -> None:
    """Run `cloud.cli`, or say what to install (exit code 2) when the cloud's libraries are not there."""
    try:
        cli = importlib.import_module("cloud.cli")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        print(  # noqa: T201 - no library to print with is certain to be here
            f"fleetlift: the operator's command and the server need the cloud extra ({error.name} is not installed).\n"
            "Nothing was started. Install it with:  pip install 'fleetlift[cloud]'\n"
            "On a device use:  fleetlift-agent",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(cli.main())
