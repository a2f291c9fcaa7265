"""Where colours go, and how wide lines are: a terminal's own, and the same for every file, pipe and log.

NO_COLOR (https://no-color.org) goes before CLICOLOR_FORCE, and that before CLICOLOR (https://bixense.com/clicolors).
"""

import os
from typing import Final, TextIO

from rich.console import Console

PLAIN_WIDTH: Final = 4000
"""Lists are never cut: a terminal that is too narrow wraps their lines, and a file takes them as they are."""
PLAIN_HELP_WIDTH: Final = 100
"""How wide help is where it is not read on a terminal, whatever COLUMNS says."""


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at a stream; False for one that is closed."""
    try:
        return stream.isatty()
    except (ValueError, OSError):
        return False


def coloured(stream: TextIO) -> bool:
    """Whether colours are wanted on a stream."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return is_terminal(stream) and os.environ.get("CLICOLOR", "1") != "0" and os.environ.get("TERM") != "dumb"


def console_on(stream: TextIO, *, wide: bool = False) -> Console:
    """Return a console on a stream; with `wide`, or where nobody looks, lines are as long as what is in them."""
    colours = coloured(stream)
    terminal = is_terminal(stream)
    return Console(
        file=stream,
        width=PLAIN_WIDTH if wide or not terminal else None,
        force_terminal=terminal or colours,
        color_system=("auto" if terminal else "standard") if colours else None,
        no_color=not colours,
        highlight=False,
        emoji=False,
        markup=False,
    )
