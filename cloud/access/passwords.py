"""Passwords: kept as Argon2id hashes (RFC 9106), compared so that time tells nothing of who has one."""

from __future__ import annotations

import threading
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloud.store.errors import InvalidError

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 1000
AT_ONCE: Final = 2
"""How many are worked out at once: each takes 64 MiB."""
_hasher: Final = PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes
_turns: Final = threading.BoundedSemaphore(AT_ONCE)


def hash_password(text: str) -> str:
    """Return what is kept of a password; InvalidError for one that is too short, or longer than anybody types."""
    if len(text) < MIN_PASSWORD:
        raise InvalidError(f"a password has at least {MIN_PASSWORD} characters, not {len(text)}; nothing was changed")
    if len(text) > MAX_PASSWORD:
        raise InvalidError(f"a password has at most {MAX_PASSWORD} characters; nothing was changed")
    with _turns:
        return _hasher.hash(_bytes(text))


def verify(kept: str | None, text: str) -> bool:
    """Tell whether a password is the one that was kept; it takes as long for nobody's, which is never right."""
    with _turns:
        nobodys = _nobodys()
        try:
            _hasher.verify(nobodys if kept is None else kept, _bytes(text[: MAX_PASSWORD + 1]))
        except (VerificationError, InvalidHashError):
            return False
    return kept is not None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@cache
def _nobodys() -> str:
    return _hasher.hash("nobody has this password")
