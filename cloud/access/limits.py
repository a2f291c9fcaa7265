"""How often somebody may try something: a bucket of tries that refills, for each key. Pure, and of bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

MAX_KEYS: Final = 10_000


def network_of(address: str) -> str:
    """Return what tries from an address are counted by: of IPv6 the first 64 bits, for whoever has one has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, ipaddress.IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(found) >> 64 << 64))


class RateLimit:
    """Allows `tries` at once for each key, and `per_s` of one every second from then on.

    The keys that were used last are remembered: whoever comes with more keys than that is limited by another limit.
    Not for several threads at once.
    """

    def __init__(self, tries: int, per_s: float, max_keys: int = MAX_KEYS) -> None:
        self._tries, self._per_s, self._max_keys = tries, per_s, max_keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: str, now_s: float) -> float:
        """Take a try; return 0, or in how many seconds there is one again: then none was taken."""
        wait = self.peek_s(key, now_s)
        if not wait:
            self.count(key, now_s)
        return wait

    def allow(self, key: str, now_s: float) -> bool:
        """Take a try; return whether there was one."""
        return not self.wait_s(key, now_s)

    def peek_s(self, key: str, now_s: float) -> float:
        """Return in how many seconds there is a try, 0 for now; takes none."""
        left = self._left_of(key, now_s)
        return 0.0 if left >= 1 else (1 - left) / self._per_s

    def count(self, key: str, now_s: float) -> None:
        """Take a try, there or not: one that turned out to count."""
        self._left[key] = (max(0.0, self._left_of(key, now_s) - 1), now_s)
        self._left.move_to_end(key)
        while len(self._left) > self._max_keys:
            self._left.popitem(last=False)

    def __len__(self) -> int:
        return len(self._left)

    def _left_of(self, key: str, now_s: float) -> float:
        left, since_s = self._left.get(key, (float(self._tries), now_s))
        return min(float(self._tries), left + max(0.0, now_s - since_s) * self._per_s)
