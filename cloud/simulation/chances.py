"""Draws from distributions that the standard library has for single numbers only."""

from __future__ import annotations

import math
from random import Random
from typing import Final

FEW: Final = 50
"""Up to so many expected hits are drawn exactly; beyond, a normal distribution is as good."""


def binomial(trials: int, share: float, chance: Random) -> int:
    """Return how many of many trials hit, each with the same chance: exact where hits are rare."""
    if trials <= 0 or share <= 0:
        return 0
    if share >= 1:
        return trials
    if share > 0.5:
        return trials - binomial(trials, 1 - share, chance)
    if trials * share > FEW:
        spread = math.sqrt(trials * share * (1 - share))
        return min(trials, max(0, round(chance.gauss(trials * share, spread))))
    # The misses before each hit are geometric: the work is in the hits alone.
    hits, position, scale = 0, 0, math.log1p(-share)
    while True:
        position += int(math.log(1.0 - chance.random()) / scale) + 1
        if position > trials:
            return hits
        hits += 1
