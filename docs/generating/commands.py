"""The reference of a command line, from its click tree."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Final

import click

from docs.generating.markdown import code, heading, page, plain, table

EVERYWHERE: Final = 0.9
"""An option that so large a share of the commands has is told once, at the top."""


def commands(root: click.Group, name: str) -> str:
    """Return what every command of a tree does and takes; a heading each, named like the command."""
    found = list(walk(root, name, None))
    leaves = [command for _, command in found if not isinstance(command, click.Group)]
    shared = _shared(leaves)
    own = [option for option in root.params if isinstance(option, click.Option)]
    shared_names = {option.opts[0] for option in shared.values()}
    parts = [_text(root.help or ""), _options([option for option in own if option.opts[0] not in shared_names])]
    if shared:
        parts += ["Every command takes these, too:", _options(list(shared.values()))]
    return page([*parts, *(_command(path, command, set(shared)) for path, command in found[1:])])


def walk(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[click.Context, click.Command]]:
    """Yield a command and all below it that are shown, each with the context that has its path."""
    context = click.Context(command, info_name=name, parent=parent)
    yield context, command
    if isinstance(command, click.Group):
        for child in sorted(command.list_commands(context)):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from walk(found, child, context)


def _shared(leaves: list[click.Command]) -> dict[tuple[str, ...], click.Option]:
    """Return the options that (nearly) all commands have, by their names."""
    count: dict[tuple[str, ...], int] = {}
    last: dict[tuple[str, ...], click.Option] = {}
    for leaf in leaves:
        for parameter in leaf.params:
            if isinstance(parameter, click.Option):
                key = (*parameter.opts, parameter.help or "")
                count[key] = count.get(key, 0) + 1
                last[key] = parameter
    return {key: last[key] for key, found in count.items() if len(leaves) > 1 and found >= EVERYWHERE * len(leaves)}


def _command(context: click.Context, command: click.Command, shared: set[tuple[str, ...]]) -> str:
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and not parameter.hidden
        and (*parameter.opts, parameter.help or "") not in shared
    ]
    depth = context.command_path.count(" ")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return page(
        [
            heading(min(depth + 1, 4), context.command_path),
            f"```text\n{usage}\n```",
            _text(command.help or command.short_help or ""),
            _options(options),
            _text(command.epilog or ""),
            _examples(getattr(command, "examples", ())),
        ]
    )


def _examples(examples: Sequence[str]) -> str:
    lines = "\n".join(examples)
    return f"```text\n{lines}\n```" if lines else ""


def _options(options: list[click.Option]) -> str:
    return table(("option", "what it does"), (_option(option) for option in options))


def _option(option: click.Option) -> tuple[str, str]:
    context = click.Context(click.Command("any"))
    names, said = option.get_help_record(context) or (", ".join(option.opts), option.help or "")
    return code(names), plain(said)


def _text(text: str) -> str:
    r"""Return a help text as Markdown: paragraphs as they are; what stands after a click mark (\b) keeps its lines."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).split("\f")[0])
    return page(_paragraph(paragraph) for paragraph in paragraphs)


def _paragraph(paragraph: str) -> str:
    if paragraph.lstrip().startswith("\b"):
        lines = paragraph.lstrip().removeprefix("\b").strip("\n")
        return f"```text\n{inspect.cleandoc(lines)}\n```"
    return plain(paragraph)
