"""What takes long to work out, kept for all who ask: worked out once for them, and not all the time.

A value is kept while it is young for what it took, so that no more than a share of the time is spent on it however many
look. Whoever must have it waits for it (`get`, `first`); a page shows the last one, and hears of the next (`glance`).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from cloud.store.errors import NotFoundError

MANY: Final = 2000
"""Devices from which on what was worked out is kept."""
SHARE: Final = 0.05
"""Of the time."""
CALM_S: Final = 2.0
"""The youngest that a glance has a value worked out anew."""
MAX_KEPT: Final = 256
ONE_AT_A_TIME: Final = threading.Semaphore(1)
"""What is worked out beside those who ask."""
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    values: tuple[T, ...] = ()
    """The last one, or none yet."""
    made_at_s: float = 0.0
    took_s: float = 0.0
    is_busy: bool = False


class Sparing(Generic[T]):
    """Values by key, each worked out once for all who ask at a time."""

    def __init__(
        self,
        make: Callable[[str], T],
        *,
        is_dear: Callable[[T], bool] = lambda _: True,
        told: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        max_kept: int = MAX_KEPT,
    ) -> None:
        """Take what makes a value, which are kept, and what is called when one was made for those who glanced."""
        self._max_kept = max_kept
        self._make, self._is_dear, self._told, self._clock = make, is_dear, told, clock
        self._kept: dict[str, _Kept[T]] = {}
        self._lock = threading.Lock()

    def now(self, key: str) -> T:
        """Work a value out at once, and keep nothing."""
        return self._make(key)

    def get(self, key: str, *, share: float = SHARE) -> tuple[T, bool]:
        """Return a value and whether it is of now: it is waited for if it is older than `share` of the time allows."""
        kept = self._of(key)
        with kept.lock:
            if kept.values and self._is_dear(kept.values[0]) and self._age_s(kept) < kept.took_s / share:
                return kept.values[0], False
            return self._make_anew(key, kept), True

    def first(self, key: str) -> T:
        """Return what `glance` does; the first value is waited for."""
        self.glance(key)
        kept = self._of(key)
        if kept.values:
            return kept.values[0]
        with kept.lock:
            return kept.values[0] if kept.values else self._make_anew(key, kept)

    def glance(self, key: str) -> T | None:
        """Return the last value, or None before the first: if it is old, a thread works it out, and tells."""
        kept = self._of(key)
        with self._lock:
            values = kept.values
            is_old = not values or self._age_s(kept) > max(CALM_S, kept.took_s / SHARE)
            if is_old and not kept.is_busy:
                kept.is_busy = True
                threading.Thread(target=self._work, args=(key, kept, values), name="counting", daemon=True).start()
        return values[0] if values else None

    def _of(self, key: str) -> _Kept[T]:
        with self._lock:
            kept = self._kept.pop(key, None) or _Kept()
            self._kept[key] = kept  # the newest last
            while len(self._kept) > self._max_kept:
                del self._kept[next(iter(self._kept))]
            return kept

    def _age_s(self, kept: _Kept[T]) -> float:
        return self._clock() - kept.made_at_s

    def _make_anew(self, key: str, kept: _Kept[T]) -> T:
        """Work a value out and keep it; its lock is held."""
        began_s = self._clock()
        value = self._make(key)
        ended_s = self._clock()
        kept.made_at_s, kept.took_s = ended_s, ended_s - began_s
        kept.values = (value,)  # last: who glances takes no value for older than it is
        return value

    def _work(self, key: str, kept: _Kept[T], seen: tuple[T, ...]) -> None:
        with ONE_AT_A_TIME:  # whoever comes next finds this one over, told or logged
            try:
                with kept.lock:
                    if kept.values is seen:  # nobody who waited for it was faster
                        self._make_anew(key, kept)
            except NotFoundError:  # it was deleted meanwhile
                return
            except Exception:  # noqa: BLE001 - whoever asks next has it tried again
                _log.warning("%s could not be counted", key, exc_info=True)
                return
            finally:
                with self._lock:
                    kept.is_busy = False
        self._told()
