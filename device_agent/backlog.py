"""How much of what the broker said may wait for the loop: the link's thread stands still until there is room again.

A broker in the wrong hands sends faster than a loop decodes. What waits would fill the device's memory; so the link
reads on only when there is room, and TCP holds back the broker. Nobody waits for ever: after a while a message is
dropped, as it may be anywhere on its way, and whoever misses it asks for it.
"""

from __future__ import annotations

import threading
from typing import Final

ROOM_BYTES: Final = 1024 * 1024
PATIENCE_S: Final = 1.0
_OVERHEAD_BYTES: Final = 512
"""What a message costs besides its bytes."""


class Backlog:
    """Bytes that wait: `enter` is for the thread that brings them, `leave` for the one that takes them."""

    def __init__(self, room_bytes: int = ROOM_BYTES, patience_s: float = PATIENCE_S) -> None:
        self._room_bytes = room_bytes
        self._patience_s = patience_s
        self._waiting_bytes = 0
        self._changed = threading.Condition()

    def enter(self, size_bytes: int) -> bool:
        """Wait until there is room, which there always is where nothing waits; False if there was none in time."""
        cost = size_bytes + _OVERHEAD_BYTES

        def has_room() -> bool:
            return not self._waiting_bytes or self._waiting_bytes + cost <= self._room_bytes

        with self._changed:
            if not self._changed.wait_for(has_room, self._patience_s):
                return False
            self._waiting_bytes += cost
            return True

    def leave(self, size_bytes: int) -> None:
        """Make room again."""
        with self._changed:
            self._waiting_bytes -= size_bytes + _OVERHEAD_BYTES
            self._changed.notify()
