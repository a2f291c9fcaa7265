"""Counts of what the loops did and refused, and one line in the log for the first of each kind."""

import logging
from collections import Counter
from collections.abc import Mapping

_log = logging.getLogger("cloud.service")


class Tally:
    """Counters of one service; each is only ever raised, from one event loop."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {"received": Counter(), "refused": Counter(), "published": Counter()}

    def receive(self, kind: str) -> None:
        """Note a message that was well-formed."""
        self._counts["received"][kind] += 1

    def publish(self, kind: str) -> None:
        """Note a message that the broker has taken."""
        self._counts["published"][kind] += 1

    def refuse(self, kind: str, code: str, who: str, error: BaseException | None = None) -> None:
        """Note a message that was dropped, or failed; the log tells the first of each kind and code."""
        name = f"{kind}_{code}"
        self._counts["refused"][name] += 1
        if self._counts["refused"][name] == 1:
            _log.warning("%s of %s was not processed: %s (further ones are only counted)", kind, who, error or code)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Return all counters by kind."""
        return {name: dict(counter) for name, counter in self._counts.items()}
