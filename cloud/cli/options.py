"""Options that several commands share."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])
DEFAULT_WAIT: Final = "10m"
MAX_TIMEOUT_S: Final = 366 * 86_400
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Percentage(click.ParamType[int]):
    """A whole number from 1 to 100."""

    name = "1-100"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with a sentence."""
        text = str(value).removesuffix("%").strip()
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 100 and len(text) <= 3):
            self.fail(f"a percentage is a whole number from 1 to 100, not {value!r}. Nothing was changed.", param, ctx)
        return int(text)


class Timeout(click.ParamType[float]):
    """A time: a number of seconds, or with a unit as in `90s`, `30m`, `2h`, `1d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail with a sentence."""
        match = _TIME.fullmatch(str(value).strip())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < seconds < MAX_TIMEOUT_S:
            self.fail(f"a time is as 90s, 30m or 2h, and not 0; not {value!r:.50}. Nothing was changed.", param, ctx)
        return seconds


PERCENTAGE: Final = Percentage()


def channel_options(function: F) -> F:
    """Add the options that say which channel is meant."""
    options = [
        click.option("--product", metavar="P", help="The product (default: the context's)."),
        click.option("--group", metavar="G", help="The group (default: everyone)."),
        click.option("--component", metavar="C", help="The component (default: the context's)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
wait_option = click.option("--wait/--no-wait", default=False, help="Wait until every device has settled.")
timeout_option = click.option(
    "--timeout",
    type=Timeout(),
    default=DEFAULT_WAIT,
    show_default=True,
    metavar="TIME",
    help="How long --wait waits, as 90s or 2h; then the exit code is 3.",
)
