"""`fleetlift completion`: what a shell needs to complete commands, options, and the names that the server knows."""

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from cloud.cli.context import Command, Operator, pass_operator

PROGRAM: Final = "fleetlift"
VARIABLE: Final = "_FLEETLIFT_COMPLETE"
SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    "completion",
    cls=Command,
    examples=(
        'eval "$(fleetlift completion bash)"   # in ~/.bashrc; needs bash 4.4',
        'eval "$(fleetlift completion zsh)"    # in ~/.zshrc, after compinit',
        "fleetlift completion fish > ~/.config/fish/completions/fleetlift.fish",
    ),
)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@pass_operator
def completion(operator: Operator, *, shell: str) -> None:
    """Print a script that completes commands, options, and names (products, groups, devices, releases, people).

    Names are asked of the server of the context, for a second and a half at most, and kept nowhere.
    """
    root = click.get_current_context().find_root().command
    kind = SHELLS[shell]
    script = ShellComplete.source(kind(root, {}, PROGRAM, VARIABLE))  # bash is asked for its version where it runs
    if operator.output.for_program:
        operator.output.document({"shell": shell, "script": script}, names=[shell])
    else:
        click.echo(script)
