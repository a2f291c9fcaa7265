"""What every command shares: the common options, help with examples, completion of names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cloud.cli.client import AnsweredError
from cloud.cli.completing import CONTEXT, complete_by_metavar, suggested
from cloud.cli.operating import Operator
from cloud.cli.render import FORMATS, OutputFormat
from protocol.errors import UserError

__all__ = ["Command", "Group", "Operator", "common_options", "parse_pairs", "pass_operator"]

COMMON: Final = "Options of every command"
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def pass_operator(function: Callable[..., T]) -> Callable[..., T]:
    """Give the command its invocation as the first argument."""
    return click.make_pass_decorator(Operator, ensure=True)(function)


def _set_output(operator: Operator, value: OutputFormat) -> None:
    operator.output.format = value


def _set_home(operator: Operator, value: Path) -> None:
    operator.home_option = value


def _set_server(operator: Operator, value: str) -> None:
    operator.server_option = value


def _set_token(operator: Operator, value: Path) -> None:
    operator.token_option = value


def _set_context(operator: Operator, value: str) -> None:
    operator.context_option = value


def _set_ca(operator: Operator, value: Path) -> None:
    operator.ca_option = value


def _set_passphrase(operator: Operator, value: Path) -> None:
    operator.passphrase_option = value


def _set_no_passphrase(operator: Operator, value: bool) -> None:
    operator.no_passphrase = value


def _common(setter: Callable[[Operator, Any], None]) -> Callable[[click.Context, click.Parameter, Any], None]:
    def take(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setter(ctx.ensure_object(Operator), value)

    return take


def common_options() -> list[click.Parameter]:
    """Return the options that every command takes, before or after its name."""
    path = click.Path(path_type=Path)
    return [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(FORMATS),
            expose_value=False,
            callback=_common(_set_output),
            help="How to answer: json and yaml stand alone on standard output; name is one name or id a line.",
        ),
        click.Option(
            ["--home"],
            type=path,
            expose_value=False,
            callback=_common(_set_home),
            help="The directory that `fleetlift init` made (FLEETLIFT_HOME; default ./fleetlift-home).",
        ),
        click.Option(
            ["--server"],
            metavar="URL",
            expose_value=False,
            callback=_common(_set_server),
            help="The server's address (FLEETLIFT_SERVER; default: the context's).",
        ),
        click.Option(
            ["--token-file"],
            type=path,
            expose_value=False,
            callback=_common(_set_token),
            help="The file with the API token (FLEETLIFT_TOKEN_FILE; default: the context's).",
        ),
        click.Option(
            ["--ca-file"],
            type=path,
            expose_value=False,
            callback=_common(_set_ca),
            help="What the server's certificate is checked by, PEM (FLEETLIFT_CA_FILE; default: the context's).",
        ),
        click.Option(
            ["--context"],
            metavar=CONTEXT,
            expose_value=False,
            callback=_common(_set_context),
            help="A server that you have logged in to (FLEETLIFT_CONTEXT; see `fleetlift context list`).",
        ),
    ]


def passphrase_option(function: F) -> F:
    """Add the option for commands that use private keys."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_common(_set_passphrase),
        help="A file whose first line is the keys' passphrase (FLEETLIFT_PASSPHRASE_FILE; default: you are asked).",
    )(function)


def no_passphrase_option(function: F) -> F:
    """Add the option for commands that make private keys."""
    return click.option(
        "--no-passphrase",
        is_flag=True,
        expose_value=False,
        callback=_common(_set_no_passphrase),
        help="Make keys without a passphrase: whoever gets their files can sign.",
    )(function)


class _Helped(click.Command):
    """Help in three parts: the command's own options, those that every command takes, and examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        """Whole command lines; what follows a # says what for."""
        taken = {name for parameter in self.params for name in parameter.opts}
        self.shared = [option for option in common_options() if not taken.intersection(option.opts)]
        self.params += self.shared
        complete_by_metavar(self.params)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, the shared ones apart."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                (shared if parameter in self.shared else own).append(record)
        for heading, records in (("Options", own), (COMMON, shared)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, as they are."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Command(_Helped):
    """A command that takes the common options too; `examples=` are shown with its help."""

    def invoke(self, ctx: click.Context) -> Any:
        """Do what the command does; a name that the server does not know is answered with the one that was meant."""
        try:
            return super().invoke(ctx)
        except AnsweredError as error:
            raise suggested(ctx, self.params, error) from None


class Group(_Helped, click.Group):
    """A noun: its verbs take the common options, and a mistyped one is answered with the one that was meant."""

    command_class = Command
    group_class = type

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def parse_pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Return `name=value` items as a mapping; raises UserError."""
    pairs = [item.partition("=") for item in items]
    for item, (name, separator, value) in zip(items, pairs, strict=True):
        if not (name and separator and value):
            raise UserError(f"{option} {item!r}: NAME=VALUE is expected. Nothing was changed.")
    return {name.strip(): value.strip() for name, _, value in pairs}
