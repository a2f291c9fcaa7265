"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])
DEFAULT_WAIT_S: Final = 600.0


class Percentage(click.ParamType[int]):
    """A whole number from 1 to 100."""

    name = "1-100"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with a sentence."""
        text = str(value).removesuffix("%").strip()
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 100 and len(text) <= 3):
            self.fail(f"a percentage is a whole number from 1 to 100, not {value!r}. Nothing was changed.", param, ctx)
        return int(text)


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
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits; then the exit code is 3.",
)
