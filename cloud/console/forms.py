"""What a form brought: texts by name, read without surprises, and the token that proves that it is one of ours."""

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import FormData

from protocol.errors import FleetliftError

MAX_FIELDS: Final = 2000
CSRF_FIELD: Final = "csrf"
TOKEN_BYTES: Final = 32


class RefusedError(FleetliftError):
    """What was asked was not done: the sentence says what happened, what was not changed, and what to do.

    `code` is that of the API's answer, if it was the API that refused it.
    """

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, each with the texts that came for it."""

    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, data: FormData) -> "Form":
        """Return what was typed; files are left out, for no page asks for any."""
        found: dict[str, tuple[str, ...]] = {}
        for name, value in data.multi_items():
            if isinstance(value, str):
                found[name] = (*found.get(name, ()), value)
        return cls(found)

    def text(self, name: str, default: str = "") -> str:
        """Return the last text of a field, without space around it."""
        return self.fields.get(name, (default,))[-1].strip()

    def secret(self, name: str) -> str:
        """Return a field as it was typed, with space around it."""
        return self.fields.get(name, ("",))[-1]

    def many(self, name: str) -> tuple[str, ...]:
        """Return all texts of a field."""
        return self.fields.get(name, ())

    def words(self, name: str) -> tuple[str, ...]:
        """Return what stands in a field, divided at commas and white space."""
        return tuple(dict.fromkeys(self.text(name).replace(",", " ").split()))

    def ticked(self, name: str) -> bool:
        """Tell whether a box was ticked."""
        return bool(self.text(name))

    def number(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number, or the default for an empty field; RefusedError for anything else."""
        text = self.text(name)
        if not text:
            return default
        if len(text) > 18 or not text.removeprefix("-").isdecimal() or not text.isascii():
            raise RefusedError(f"{name.replace('_', ' ')}: {text[:40]!r} is not a whole number. Nothing was changed.")
        return int(text)


def mask(secret: str) -> str:
    """Return a session's secret as a page carries it: other bytes each time, so that compressed pages tell nothing."""
    plain = secret.encode()
    pad = secrets.token_bytes(len(plain))
    return base64.urlsafe_b64encode(pad + bytes(a ^ b for a, b in zip(plain, pad, strict=True))).decode()


def is_mask_of(shown: str, secret: str) -> bool:
    """Whether a page of this session carried it."""
    try:
        both = base64.urlsafe_b64decode(shown.encode("ascii"))
    except ValueError:
        return False
    half = len(both) // 2
    plain = bytes(a ^ b for a, b in zip(both[:half], both[half:], strict=False))
    return hmac.compare_digest(plain, secret.encode())
