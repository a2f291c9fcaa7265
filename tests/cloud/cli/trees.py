"""The tree of commands, for tests that walk all of it."""

import shlex
from collections.abc import Iterator

import click

from cloud.cli import fleetlift
from cloud.cli.context import Command


def leaves(command: click.Command = fleetlift, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Yield every command that does something, with the words that lead to it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, (*path, name))
    else:
        assert isinstance(command, Command), f"{' '.join(path)} takes no common options"
        yield path, command


LEAVES = dict(leaves())
PATHS = sorted(LEAVES)


def parse(line: str) -> click.Context:
    """Parse a command line to its leaf, running nothing; raises click.UsageError for what is not known."""
    words = split(line)
    assert words[0] == "fleetlift", line
    context, rest = click.Context(fleetlift, info_name="fleetlift"), words[1:]
    command: click.Command = fleetlift
    while isinstance(command, click.Group):
        made = command.make_context(context.info_name, rest, parent=context.parent, resilient_parsing=False)
        name, found, rest = command.resolve_command(made, [*made._protected_args, *made.args])
        assert found is not None, line
        context = click.Context(found, info_name=name, parent=made)
        command = found
    return command.make_context(context.info_name, rest, parent=context.parent)


def split(line: str) -> list[str]:
    """Return the words of the line's first command, without what follows a #, a pipe or &&."""
    words = shlex.split(line, comments=True)
    ends = [words.index(word) for word in ("|", "&&", "<", ">") if word in words]
    return words[: min(ends, default=len(words))]
