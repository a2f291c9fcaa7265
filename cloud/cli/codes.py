"""Enrolment codes, put together here: the server neither chooses what is in one, nor sees it before a device does."""

import hashlib
import re
import secrets
import ssl
from typing import Any, Final

import click

from cloud.cli.context import Operator
from cloud.keyring import Keyring
from protocol.enrolment import TOKEN_BYTES, EnrolmentCode, make_token
from protocol.errors import UserError

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
DEFAULT_LIFETIME: Final = "24h"


class Duration(click.ParamType[int]):
    """A number of seconds, minutes, hours or days: `90s`, `30m`, `24h`, `7d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds, or fail with a sentence."""
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(
                f"a time is a number and s, m, h or d, as in 24h, not {value!r}. Nothing was changed.", param, ctx
            )
        return int(match[1]) * _SECONDS[match[2]]


lifetime_option = click.option(
    "--expires",
    "lifetime_s",
    type=Duration(),
    default=DEFAULT_LIFETIME,
    show_default=True,
    metavar="TIME",
    help="How long a code is good: 30m, 24h, 7d; a year at most.",
)


def new_code(operator: Operator) -> EnrolmentCode:
    """Return a code with a new token, for the server and the root that this home vouches for; raises UserError."""
    token = make_token(secrets.token_bytes(TOKEN_BYTES))
    root = Keyring(operator.home.keys).roots()[0]
    return EnrolmentCode(token, authority_sha256(operator), hashlib.sha256(root).hexdigest())


def authority_sha256(operator: Operator) -> str:
    """Return the SHA-256 of the authority that the servers have their certificates from, as this home knows it.

    It is the oldest that is trusted: servers change over when that is retired. Raises UserError.
    """
    path = operator.ca or operator.home.operator_ca
    try:
        found = _CERTIFICATE.findall(path.read_text(encoding="ascii"))
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[-1])).hexdigest()
    except (OSError, ValueError, IndexError):
        raise UserError(
            f"{path} holds no certificate authority, and a code has to name one. Nothing was changed; "
            "copy services-ca.crt of the server's tls directory there."
        ) from None


def token_sha256(code: EnrolmentCode) -> str:
    """Return what the server is told of a code's token."""
    return hashlib.sha256(code.token.encode()).hexdigest()
