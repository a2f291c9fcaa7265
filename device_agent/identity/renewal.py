"""When a device tries to renew its certificate, or to hear of new authorities: pure, with time and chance as data.

1. A certificate is due at two thirds of its life, and a little later for each device, so that a fleet that was made in
   one hour does not come back in one second.
   A clock that is far ahead finds every certificate due: so after a success it rests, for a day or a third of the life.
2. After a try that failed it is tried again, each time later than the time before, between limits.
3. The clock may be wrong. No pause is longer than the longest one, whatever was written down before: a time of the last
   try that is still to come is not believed.
4. The authorities are asked for once a day: so a new one is everywhere long before the old one goes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from device_agent.identity.store import Tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """How long is waited, in seconds: after the first failure, at most, and between two successes."""

    first_s: float = 60.0
    longest_s: float = 6 * 3600.0
    every_s: float = 86_400.0


PAUSES: Final = Pauses()
_DUE: Final = 2 / 3
_SPREAD: Final = 1 / 90


def lot(text: str) -> float:
    """Return a number from 0 to below 1 that stays the same for the same text: a device's place among the others."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def certificate_due_s(not_before_s: float, not_after_s: float, place: float) -> float:
    """Return when a certificate is to be renewed; `place` is 0 to 1."""
    return not_before_s + (_DUE + _SPREAD * place) * (not_after_s - not_before_s)


def again_s(tries: Tries, now_s: float, chance: float, pauses: Pauses = PAUSES) -> float:
    """Return from when on the next try may be made, at most `longest_s` from now; `chance` is 0 to 1."""
    if tries.failures == 0:
        return now_s
    longest = min(pauses.longest_s, pauses.first_s * 2.0 ** min(tries.failures - 1, 32))
    pause = max(pauses.first_s, longest * (0.5 + 0.5 * chance))
    return min(tries.tried_at_s, now_s) + pause


def next_certificate_s(
    not_before_s: float,
    not_after_s: float,
    tries: Tries,
    now_s: float,
    *,
    place: float,
    chance: float,
    pauses: Pauses = PAUSES,
) -> float:
    """Return when to ask for the next certificate: now or before, if at once."""
    due = certificate_due_s(not_before_s, not_after_s, place)
    rest = min(pauses.every_s, (not_after_s - not_before_s) / 3)
    rested = min(tries.done_at_s, now_s) + rest if tries.done_at_s else now_s
    return max(due, rested, again_s(tries, now_s, chance, pauses))


def next_authorities_s(tries: Tries, now_s: float, *, place: float, chance: float, pauses: Pauses = PAUSES) -> float:
    """Return when to ask for the authorities: now or before, if at once."""
    due = min(tries.done_at_s, now_s) + pauses.every_s * (0.9 + 0.2 * place) if tries.done_at_s else now_s
    return max(due, again_s(tries, now_s, chance, pauses))
