"""What devices said that was not processed: told in the log once of each kind, and kept for whoever asks about one.

Both have bounds, because what devices say comes from outside: the devices that were refused last are kept, and so many
lines an hour are written. The counts of everything are elsewhere (`Link.refused`, `Tally`), and without devices.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from cloud.attention import REFUSED_LATELY_MS
from cloud.fleet import RefusedMessage

MAX_DEVICES: Final = 1000
MAX_LINES: Final = 1000
"""How many lines are written within WINDOW_S."""
WINDOW_S: Final = 3600.0
MAX_TEXT: Final = 300
_log = logging.getLogger(__name__)


class Refusals:
    """The last refusals of each device. `note` and `of` are called from any thread."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """Take a clock in seconds since 1970."""
        self._now = now
        self._lock = threading.Lock()
        self._devices: OrderedDict[str, dict[tuple[str, str], RefusedMessage]] = OrderedDict()
        self._told_of_all: set[tuple[str, str]] = set()
        self._window_began_s, self._lines = 0.0, 0

    def note(self, who: str, kind: str, code: str, sentence: str, *, of_all: bool = False) -> None:
        """Keep a refusal, and log it if it is the first of this device, kind and code.

        `who` is the device's id, or the topic where that names none. `of_all` is for what meets every device at once,
        or every now and then: the first of any device is logged for all of them.
        """
        sentence = _printable(sentence)[:MAX_TEXT]
        with self._lock:
            now_s = self._now()
            is_new = self._keep(who, kind, code, sentence, int(now_s * 1000))
            if of_all:
                is_new = (kind, code) not in self._told_of_all
                self._told_of_all.add((kind, code))
            lines_left = self._lines_left(now_s) if is_new else 0
        if lines_left > 0:
            whose = "any device" if of_all else "this device"
            text = "%s of %s was not processed (%s): %s; further ones of %s are only counted"
            shown = _printable(who)[:MAX_TEXT]
            _log.warning(text, kind, shown, code, sentence, whose, extra={"device_id": shown, "code": code})
        if lines_left == 1:
            _log.warning(
                "%d such lines within an hour: the next ones are only counted, by device and in all", MAX_LINES
            )

    def of(self, device_id: str) -> tuple[RefusedMessage, ...]:
        """Return what was refused of a device since the server started, by kind and code, the last one first."""
        with self._lock:
            return tuple(reversed(self._devices.get(device_id, {}).values()))

    def all(self) -> Mapping[str, tuple[RefusedMessage, ...]]:
        """Return what was refused by device (or topic, where that names none), as `of` does for one."""
        with self._lock:
            return {who: tuple(reversed(kept.values())) for who, kept in self._devices.items()}

    def lately(self, now_ms: int) -> Mapping[str, RefusedMessage]:
        """Return the last refusal of each device (or topic) that had one within REFUSED_LATELY_MS."""
        newest = {who: refused[0] for who, refused in self.all().items() if refused}
        return {who: last for who, last in newest.items() if last.last_at_ms > now_ms - REFUSED_LATELY_MS}

    def _keep(self, who: str, kind: str, code: str, sentence: str, at_ms: int) -> bool:
        kept = self._devices.setdefault(who, {})
        self._devices.move_to_end(who)
        if len(self._devices) > MAX_DEVICES:
            self._devices.popitem(last=False)
        before = kept.pop((kind, code), None)
        last = RefusedMessage(kind=kind, code=code, sentence=sentence, count=1, last_at_ms=at_ms)
        kept[kind, code] = replace(last, count=before.count + 1) if before else last
        return before is None

    def _lines_left(self, now_s: float) -> int:
        """Return how many lines may be written still, this one included."""
        if not 0 <= now_s - self._window_began_s < WINDOW_S:
            self._window_began_s, self._lines = now_s, 0
        self._lines += 1
        return MAX_LINES + 1 - self._lines


def _printable(text: str) -> str:
    """Return a text as it may stand in a log: what a device wrote is not to begin lines there."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
