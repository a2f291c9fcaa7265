"""Counts of what the loops did and refused, and what failed of the cloud's own, told once of each kind."""

import logging
from collections import Counter
from collections.abc import Mapping

from cloud.refusals import Refusals

_log = logging.getLogger("cloud.service")


class Tally:
    """Counters of one service; each is only ever raised, from one event loop."""

    def __init__(self, refusals: Refusals | None = None) -> None:
        self.refusals = refusals or Refusals()
        self._counts: dict[str, Counter[str]] = {"received": Counter(), "refused": Counter(), "published": Counter()}

    def receive(self, kind: str) -> None:
        """Note a message that was well-formed."""
        self._counts["received"][kind] += 1

    def publish(self, kind: str) -> None:
        """Note a message that the broker has taken."""
        self._counts["published"][kind] += 1

    def refuse(self, kind: str, code: str, device_id: str, why: str, *, of_all: bool = False) -> None:
        """Note a device's message that was not processed; `Refusals.note` says what is logged."""
        self._counts["refused"][f"{kind}_{code}"] += 1
        self.refusals.note(device_id, kind, code, why, of_all=of_all)

    def fail(self, kind: str, code: str, subject: str, error: BaseException) -> None:
        """Note something of the cloud's own that failed; the log tells the first of each kind and code."""
        name = f"{kind}_{code}"
        self._counts["refused"][name] += 1
        if self._counts["refused"][name] == 1:
            _log.warning("%s of %s failed: %s; further ones are only counted", kind, subject, error)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Return all counters by kind."""
        return {name: dict(counter) for name, counter in self._counts.items()}
