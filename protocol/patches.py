"""A metadata file told as what it has in common with the version before: a role of a thousand firmwares gains one.

A patch is trusted with nothing: what comes of it is a metadata file like any other, and verified as one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from protocol.errors import MessageError
from protocol.identity import check_digest

MAX_COPIES: Final = 64
MAX_PATCHED_BYTES: Final = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A file by a base that the device may have: a text, a copy from the base, a text, a copy, …, a text.

    `base` is the SHA-256 of the base's bytes; `copies` are [offset, length] in it; there is one text more than copies.
    """

    base: str
    texts: tuple[str, ...]
    copies: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_digest(self.base, "base")
        if len(self.copies) > MAX_COPIES or len(self.texts) != len(self.copies) + 1:
            raise MessageError(f"a patch has at most {MAX_COPIES} copies, and one text more")
        if any(len(copy) != 2 or min(copy) < 0 for copy in self.copies):
            raise MessageError("copies is a list of [offset, length] pairs")
        if sum(length for _, length in self.copies) > MAX_PATCHED_BYTES:
            raise MessageError(f"a patch copies at most {MAX_PATCHED_BYTES} bytes")

    def apply(self, base: bytes) -> bytes | None:
        """Return the file, or None if `base` is not what the patch stands on."""
        if hashlib.sha256(base).hexdigest() != self.base or any(sum(copy) > len(base) for copy in self.copies):
            return None
        parts = [self.texts[0].encode()]
        for (offset, length), text in zip(self.copies, self.texts[1:], strict=True):
            parts += [base[offset : offset + length], text.encode()]
        return b"".join(parts)
