"""One invocation of `fleetlift`: who calls which server from which home, by which context, and how answers look."""

import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import click

from cloud.cli.client import ANSWER_TIMEOUT_S, ApiClient
from cloud.cli.contexts import CONTEXT_VARIABLE, Contexts, Place, place_in
from cloud.cli.passphrases import passphrases_from
from cloud.cli.render import Output
from cloud.config import HOME_VARIABLE, Home, OperatorContext
from cloud.keys.passphrases import Passphrases
from protocol.errors import UserError

SERVER_VARIABLE: Final = "FLEETLIFT_SERVER"
TOKEN_VARIABLE: Final = "FLEETLIFT_TOKEN_FILE"  # noqa: S105 - a file's name
AUTHORITY_VARIABLE: Final = "FLEETLIFT_CA_FILE"
MAX_TOKEN_BYTES: Final = 1024


@dataclass
class Operator:
    """One invocation: who calls which server from which home, and how the answer is to look."""

    home_option: Path | None = None
    server_option: str | None = None
    token_option: Path | None = None
    context_option: str | None = None
    ca_option: Path | None = None
    passphrase_option: Path | None = None
    no_passphrase: bool = False
    output: Output = field(default_factory=Output)
    tells_where: bool = False
    """Whether what nobody expected is told with its traceback: a server's log is read by those who mend it."""

    @cached_property
    def home(self) -> Home:
        """The home of `--home`, FLEETLIFT_HOME or `./fleetlift-home`."""
        return Home.choose(self.home_option)

    @cached_property
    def place(self) -> Place:
        """Where the context is: of `--context`, FLEETLIFT_CONTEXT, the home where there is one, else the current one.

        Raises UserError for a context that is named and is not there.
        """
        contexts = Contexts.of_user()
        if named := self.context_option or os.environ.get(CONTEXT_VARIABLE):
            return contexts.find(named)
        if self.home_option or os.environ.get(HOME_VARIABLE) or self.home.root.exists():
            return place_in(self.home)
        current = contexts.current()
        return place_in(self.home) if current is None else contexts.place(current)

    @cached_property
    def context(self) -> OperatorContext:
        """The operator's own defaults."""
        return self.place.load()

    @property
    def server(self) -> str:
        """The server's address: of `--server`, FLEETLIFT_SERVER or the context."""
        return self.server_option or os.environ.get(SERVER_VARIABLE) or self.context.server

    @cached_property
    def api(self) -> ApiClient:
        """The server's API, with the operator's token."""
        client = self.client(ANSWER_TIMEOUT_S)
        click.get_current_context().find_root().call_on_close(client.close)
        return client

    @property
    def asked_server(self) -> ApiClient | None:
        """The server's API, if this invocation has turned to it."""
        found: ApiClient | None = self.__dict__.get("api")
        return found

    def client(self, timeout_s: float) -> ApiClient:
        """Return another client of the server's API, which gives up after a time; whoever asks for it closes it."""
        return ApiClient(self.server, self.read_token(), self.ca, timeout_s=timeout_s)

    @property
    def ca(self) -> Path | None:
        """What the server's certificate is checked by; None for the system's list."""
        if named := self.ca_option or os.environ.get(AUTHORITY_VARIABLE):
            return Path(named).expanduser()
        return self.place.settings.parent / self.context.ca if self.context.ca else None

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
            f'or a line  product = "P"  to {self.place.settings}'
        )

    def component(self, option: str | None) -> str:
        """Return the component of an option, else of the context."""
        return option or self.context.component

    def read_token(self) -> str:
        """Return the API token of `--token-file`, FLEETLIFT_TOKEN_FILE or the context; raises UserError."""
        named = self.token_option or os.environ.get(TOKEN_VARIABLE)
        path = Path(named).expanduser() if named else self.place.token
        try:
            if str(named) == "-":
                return check_token(sys.stdin.read(MAX_TOKEN_BYTES), "standard input")
            with path.open(encoding="ascii") as file:
                token = file.read(MAX_TOKEN_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a token"
            raise UserError(
                f"the API token {path} cannot be read: {why}. Nothing was sent. Log in with `fleetlift login URL`, or "
                "name the home that `fleetlift init` made with --home, or the token's file with --token-file.",
                exit_code=4,
            ) from None
        return check_token(token, str(path))


def check_token(text: str, where: str) -> str:
    """Return an API token without what is around it; raises UserError for what is none."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where} holds no API token. Nothing was sent.", exit_code=4)
    return token
