"""Tries that are counted by who makes them, and refused with 429 when there were too many."""

import math
import threading
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Final

from cloud.access.limits import RateLimit
from cloud.api.problems import ApiError

PASSWORD_TRIES: Final = 10
"""Of a password that is to be changed, by name; then one in half a minute."""
PASSWORDS_PER_S: Final = 1 / 30
CODE_TRIES: Final = 10
"""Of login codes that are no good, by address; then one in half a minute."""
CODES_PER_S: Final = 1 / 30
ENROLMENT_TRIES: Final = 100
"""That were refused, by address; then one a second. What is let in is not counted: factories enrol from one address."""
ENROLMENTS_PER_S: Final = 1.0


class Tries:
    """A limit for several threads, by this process's clock."""

    def __init__(self, tries: int, per_s: float, now: Callable[[], float] = monotonic) -> None:
        self._limit, self._lock, self._now = RateLimit(tries, per_s), threading.Lock(), now

    def take(self, key: str) -> None:
        """Take a try; raises ApiError when there is none."""
        with self._lock:
            wait_s = self._limit.wait_s(key, self._now())
        _refuse(wait_s)

    def check(self, key: str) -> None:
        """Raise ApiError when there is no try; takes none."""
        with self._lock:
            wait_s = self._limit.peek_s(key, self._now())
        _refuse(wait_s)

    def count(self, key: str) -> None:
        """Take a try that turned out to count."""
        with self._lock:
            self._limit.count(key, self._now())


def _refuse(wait_s: float) -> None:
    if wait_s:
        wait = math.ceil(wait_s)
        message = f"There were too many tries. Nothing was changed; try again in {wait} s."
        raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, "too_many", message, {"Retry-After": str(wait)})
