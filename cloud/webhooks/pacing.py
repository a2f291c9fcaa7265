"""When a delivery that was not taken is tried again: a pure function of how often it was, with chance passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Waits that grow by `factor` from `first_s` to `longest_s`, each shortened by chance by up to a half.

    A delivery is given up `give_up_s` after its event; a webhook that took nothing for that long is disabled.
    """

    first_s: float = 5.0
    factor: float = 4.0
    longest_s: float = 6 * 3600.0
    give_up_s: float = 3 * 86_400.0

    def wait_s(self, tries: int, chance: float) -> float:
        """Return how long to wait after the `tries`th try (1, 2, ...) has failed; `chance` is from 0 up to 1."""
        grown = self.first_s
        for _ in range(tries - 1):
            grown = min(grown * self.factor, self.longest_s)
        return min(grown, self.longest_s) * (1 - chance / 2)

    def next_ms(self, event_at_ms: int, tries: int, now_ms: int, chance: float, at_least_s: float = 0) -> int | None:
        """Return when a delivery is tried next, or None if it is to be given up."""
        due_ms = now_ms + int(max(self.wait_s(tries, chance), at_least_s) * 1000)
        last_ms = event_at_ms + int(self.give_up_s * 1000)
        if now_ms >= last_ms:
            return None
        return min(due_ms, last_ms)
