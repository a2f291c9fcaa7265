"""Commands that documents show: found in their blocks and lines, and held against the click trees."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from cloud.cli import fleetlift
from device_agent.cli import main as fleetlift_agent

ROOTS = {"fleetlift": fleetlift, "fleetlift-agent": fleetlift_agent}
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
NO_COMMANDS = {"fleetlift bucket 1", "fleetlift renewal 1"}
"""What hashes and signatures begin with (docs/protocol.md)."""
_INLINE = re.compile(r"(?<!`)`(fleetlift(?:-agent)? [^`\n]+)`(?!`)")


def shown_in(document: Path) -> Iterator[str]:
    """Each line of a block, and each quoted one, that is a command of ours."""
    text = document.read_text(encoding="utf-8")
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.partition("  #")[0].strip().removesuffix("&").strip()
            command = re.sub(r"^sudo (?:-u \S+ )?(?:/\S+/)?", "", command)
            if command.split(" ")[0] in ROOTS:
                yield command
    yield from (line for line in _INLINE.findall(_BLOCK.sub("", text)) if line not in NO_COMMANDS)


def problem_with(line: str) -> str | None:
    """What is wrong with a command: a word that is none, or an option that its command does not have.

    Alternatives (`pause|resume`) are looked at one by one; what stands for words in capitals or by dots is let be.
    """
    words = shlex.split(line)
    several = next((index for index, word in enumerate(words) if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word)), None)
    if several is not None:
        each = (shlex.join([*words[:several], word, *words[several + 1 :]]) for word in words[several].split("|"))
        return next(filter(None, map(problem_with, each)), None)
    command: click.Command = ROOTS[words.pop(0)]
    context = click.Context(command)
    while isinstance(command, click.Group):
        if not words:
            break
        command.parse_args(context, words)  # its own options are behind us, and what it puts in is there
        words = [*context._protected_args, *context.args]
        if not words or words[0] in ("...", "…", "COMMAND"):
            break
        try:
            _, found, words = command.resolve_command(context, words)
        except click.UsageError as error:
            return error.format_message()
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    if "--" in words:
        words = words[: words.index("--")]
    known = set(_options(command)) | set(command.get_help_option_names(context))
    odd = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"{odd[0]} is no option of {command.name}" if odd else None


def _options(command: click.Command) -> dict[str, click.Parameter]:
    return {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
