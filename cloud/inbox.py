"""What devices said and nobody has handled yet: in order per device, and never more than there is room for.

What happens at overload, in this order:

1. Of hello, state and presence only the newest of a device waits: the one before says nothing that it does not say
   again. That is so at all times, and costs nothing but the copies that nobody needs.
2. When there is no room, new reports, wants and asks are refused; devices keep them and send them again. What a device
   said first is handled first.
3. Hello, state and presence have as much room again, because a state that is lost is not sent again by itself.

Pure. A device's next message is taken when the one before is done, so that several workers never overtake one another.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

NEWEST_COUNTS: Final = frozenset({"hello", "state", "presence"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much may wait."""

    messages: int = 20_000
    size_bytes: int = 64 * 1024 * 1024
    messages_per_device: int = 64


class Waiting(NamedTuple):
    """One message that waits, as it came."""

    device_id: str
    kind: str
    topic: str
    payload: bytes


class Inbox:
    """Messages that wait. Not thread-safe."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room()
        self._lines: dict[str, deque[Waiting]] = {}  # of devices that wait for their turn, or have it
        self._turns: deque[str] = deque()  # devices that wait for their turn, the next one first
        self._messages = 0
        self._size_bytes = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return self._messages

    def put(self, message: Waiting) -> bool:
        """Let a message wait; False if there is no room, and then it is dropped."""
        line = self._lines.get(message.device_id, deque())
        replaced = self._older(line, message.kind)
        factor = 2 if message.kind in NEWEST_COUNTS else 1
        size_bytes = self._size_bytes + len(message.payload) - len(replaced.payload if replaced else b"")
        if size_bytes > factor * self._room.size_bytes or (
            replaced is None
            and (self._messages >= factor * self._room.messages or len(line) >= factor * self._room.messages_per_device)
        ):
            return False
        if message.device_id not in self._lines:
            self._lines[message.device_id] = line
            self._turns.append(message.device_id)
        if replaced is not None:
            line.remove(replaced)
            self._messages -= 1
        line.append(message)
        self._messages += 1
        self._size_bytes = size_bytes
        return True

    def take(self) -> Waiting | None:
        """Return the next message, to be `done` with before its device has a turn again; None if there is none."""
        if not self._turns:
            return None
        message = self._lines[self._turns.popleft()].popleft()
        self._messages -= 1
        self._size_bytes -= len(message.payload)
        return message

    def done(self, device_id: str) -> None:
        """Let the device have its next turn."""
        if self._lines[device_id]:
            self._turns.append(device_id)
        else:
            del self._lines[device_id]

    @staticmethod
    def _older(line: deque[Waiting], kind: str) -> Waiting | None:
        """Return what a new message of this kind takes the place of."""
        if kind not in NEWEST_COUNTS:
            return None
        return next((message for message in line if message.kind == kind), None)
