"""A log that somebody else's messages cannot fill: the first of a kind is told, and then how many more there were."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PAUSE_S: Final = 60.0
"""How far apart two lines of one kind are, at least."""
MAX_KINDS: Final = 64
"""Kinds that are told apart; all others are one more."""
_REST: Final = "the rest"


@dataclass(slots=True)
class _Kind:
    told_at_s: float
    untold: int = 0


class LogLimit:
    """Writes to a log, each kind of line at most once in PAUSE_S; for any thread.

    What comes of the network belongs into the values, not into the kind, and is to be cut by the text (`%.200r`).
    """

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def tell(self, level: int, kind: str, text: str, *values: object) -> None:
        """Log this, or count it for the next line of its kind."""
        self._tell(level, kind, text, values, None)

    def tell_failure(self, error: BaseException, text: str, *values: object) -> None:
        """Log that something failed, or count it: its kind is what failed where. The first is told with its trace."""
        where = traceback.extract_tb(error.__traceback__)[-1:]
        kind = type(error).__name__
        self._tell(logging.ERROR, f"{kind} {where}", f"{text}: %s", (*values, kind), error)

    def _tell(self, level: int, kind: str, text: str, values: tuple[object, ...], error: BaseException | None) -> None:
        with self._lock:
            now = self._monotonic()
            if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
                kind = _REST
            known = self._kinds.get(kind)
            if known is not None and now - known.told_at_s < PAUSE_S:
                known.untold += 1
                return
            self._kinds[kind] = _Kind(now)
        if known is None or not known.untold:
            self._log.log(level, text, *values, exc_info=None if known else error)
        else:
            self._log.log(level, f"{text} (%d more of the kind since the last that was told)", *values, known.untold)
