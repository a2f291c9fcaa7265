"""What a fuzz target is: one parser, the inputs that it begins from, and the errors that it may raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Shape = Literal["json", "bytes", "text", "packets"]
Parse = Callable[[bytes], object]
Make = Callable[[Path], AbstractContextManager[Parse]]

MAX_INPUT_BYTES: Final = 200_000
"""More than any message may have: a limit that is passed is part of what is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser.

    `make` sets it up in an empty directory and gives what takes an input; `expected` is what that may raise. `covers`
    names the functions behind it, as `module.name`. `shape` says which mutations go deep; `words` are bits of input
    that mean something to it. A target whose set-up costs more than a second is `heavy`: within the normal suite it
    gets fewer examples.
    """

    name: str
    make: Make
    seeds: Callable[[], Sequence[bytes]]
    shape: Shape
    expected: tuple[type[Exception], ...] = ()
    covers: tuple[str, ...] = ()
    words: tuple[bytes, ...] = ()
    heavy: bool = False

    def __str__(self) -> str:
        """Return its name."""
        return self.name
