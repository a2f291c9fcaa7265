"""The command lines that do what a page does."""

import shlex

from cloud.values import ChannelKey, ReleaseView

PROGRAM = "fleetlift"


def line(*words: object) -> str:
    """Return a command as a shell takes it."""
    return shlex.join([PROGRAM, *map(str, words)])


def where(channel: ChannelKey) -> tuple[str, ...]:
    """Return the options that name a channel."""
    return ("--product", channel.product, "--group", channel.group, "--component", channel.component)


def release_line(release: ReleaseView, command: str, *more: object) -> str:
    """Return what does something with a release."""
    return line("release", command, f"v{release.label}", *where(release.channel), *more)
