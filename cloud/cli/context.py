"""What every command shares: the common options, the operator's home and context, the way to the API."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cloud.cli.client import ApiClient
from cloud.cli.passphrases import passphrases_from
from cloud.cli.render import Output, OutputFormat
from cloud.config import Home, OperatorContext, load_context
from cloud.keys.passphrases import Passphrases
from protocol.errors import UserError

SERVER_VARIABLE: Final = "FLEETLIFT_SERVER"
TOKEN_VARIABLE: Final = "FLEETLIFT_TOKEN_FILE"  # noqa: S105 - a file's name
MAX_TOKEN_BYTES: Final = 1024
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


@dataclass
class Operator:
    """One invocation: who calls which server from which home, and how the answer is to look."""

    home_option: Path | None = None
    server_option: str | None = None
    token_option: Path | None = None
    passphrase_option: Path | None = None
    no_passphrase: bool = False
    output: Output = field(default_factory=Output)

    @cached_property
    def home(self) -> Home:
        """The home of `--home`, FLEETLIFT_HOME or `./fleetlift-home`."""
        return Home.choose(self.home_option)

    @cached_property
    def context(self) -> OperatorContext:
        """The operator's own defaults."""
        return load_context(self.home.context_file)

    @cached_property
    def api(self) -> ApiClient:
        """The server's API, with the operator's token."""
        url = self.server_option or os.environ.get(SERVER_VARIABLE) or self.context.server
        client = ApiClient(url, self.read_token(), self.ca)
        click.get_current_context().find_root().call_on_close(client.close)
        return client

    @property
    def ca(self) -> Path | None:
        """What the server's certificate is checked by; None for the system's list."""
        return self.home.operator / self.context.ca if self.context.ca else None

    @cached_property
    def passphrases(self) -> Passphrases:
        """The passphrases of private keys: of `--passphrase-file`, or asked for at the terminal."""
        return passphrases_from(self.passphrase_option, self.output.warn, without=self.no_passphrase)

    def product(self, option: str | None) -> str:
        """Return the product of an option, else of the context; raises UserError."""
        if chosen := option or self.context.product:
            return chosen
        raise UserError(
            "no product was named and the context has none. Nothing was changed; add --product P, "
            f'or a line  product = "P"  to {self.home.context_file}'
        )

    def component(self, option: str | None) -> str:
        """Return the component of an option, else of the context."""
        return option or self.context.component

    def read_token(self) -> str:
        """Return the API token of `--token-file`, FLEETLIFT_TOKEN_FILE or the home; raises UserError."""
        named = self.token_option or os.environ.get(TOKEN_VARIABLE)
        path = Path(named).expanduser() if named else self.home.token_file
        try:
            with path.open(encoding="ascii") as file:
                token = file.read(MAX_TOKEN_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a token"
            raise UserError(
                f"the API token {path} cannot be read: {why}. Nothing was sent. Name the home that `fleetlift init` "
                "made with --home, or the token's file with --token-file.",
                exit_code=4,
            ) from None
        if not token or not token.isprintable() or " " in token:
            raise UserError(f"{path} holds no API token. Nothing was sent.", exit_code=4)
        return token


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
            type=click.Choice(["table", "json"]),
            expose_value=False,
            callback=_common(_set_output),
            help="How to answer; with json, standard output holds JSON alone.",
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
            help="The file with the API token (FLEETLIFT_TOKEN_FILE; default: in the home).",
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


class Command(click.Command):
    """A command that takes the common options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for parameter in self.params for name in parameter.opts}
        self.params += [option for option in common_options() if not taken.intersection(option.opts)]


class Group(click.Group):
    """A noun: its verbs take the common options, and a mistyped one is answered with the one that was meant."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()


def parse_pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Return `name=value` items as a mapping; raises UserError."""
    pairs = [item.partition("=") for item in items]
    for item, (name, separator, value) in zip(items, pairs, strict=True):
        if not (name and separator and value):
            raise UserError(f"{option} {item!r}: NAME=VALUE is expected. Nothing was changed.")
    return {name.strip(): value.strip() for name, _, value in pairs}
