"""Which chunk to send next, and to whom: what all devices together wait for is a set, and each of it is sent once.

The rules:

1. Per blob there is one shared stream, and one of its own for each device that is detached. A stream is a set of wanted
   chunks, swept in ascending order from where it stands, and round again (a carousel): who joins late rides along.
2. A shared stream that begins after a pause first gathers, so that devices that begin together share: until nobody has
   asked for a little while, and never for long. It turns back for what lies behind it when nobody wants more of what
   lies ahead, or when that has waited long enough: so those who joined late, each at its own time, share what they
   missed.
3. A chunk that is asked for just after it was sent is not sent again to a device that was listening by then: the two
   crossed. It is, for one that joined later; and for everyone when it is asked for again after that moment, which is
   shorter than the time after which a device takes a chunk for lost.
4. Blobs take turns, chunk by chunk. Within a blob, so do the shared stream and the detached devices, who take turns
   among themselves: half of a blob's share goes to everybody, however many are detached.
5. A chunk counts against the device that asked for it first, until it is sent. There are limits on that, on the blobs
   wanted at once and on the detached streams; what is beyond a limit is refused, and nothing else suffers.

Pure: time (seconds, of a clock that never goes back) is an argument, the blobs' sizes are facts that are passed in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from protocol.up import Want

FOREVER: Final = float("inf")


class Refusal(StrEnum):
    """Why a want was not taken, or not all of it."""

    UNKNOWN_BLOB = "unknown_blob"
    BEYOND_BLOB = "beyond_blob"
    TOO_MANY_BLOBS = "too_many_blobs"
    TOO_MANY_DETACHED = "too_many_detached"
    TOO_MANY_CHUNKS = "too_many_chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What demand may cost, and how long its moments are."""

    max_blobs: int = 256
    max_detached: int = 4096
    max_chunks_per_device: int = 4096
    gather_s: float = 0.01
    """A shared stream that begins gathers no longer than this."""
    lull_s: float = 0.002
    """When nobody asked for this long nobody else is expected: most devices are alone."""
    pause_s: float = 1.0
    """A shared stream that was silent for this long gathers again before it sends."""
    settle_s: float = 0.1
    """A shared stream is at its end when it sent nothing for this long; then it turns back."""
    patience_s: float = 0.4
    """What lies behind a shared stream waits no longer; below the second after which a device asks again."""
    crossing_s: float = 0.5
    """Rule 3's moment; below the second after which a device asks again."""
    linger_s: float = 30.0
    """How long a blob that nobody wants any more is remembered."""


class Send(NamedTuple):
    """Send this chunk now: on the blob's shared topic, or on the topic of one device."""

    blob: str
    chunk: int
    device_id: str | None


@dataclass(slots=True)
class _Sweep:
    """One stream: the wanted chunks with who asked first, in two heaps, at or after the position and before it."""

    ready_at: float
    gather_until: float = 0.0
    settle_s: float = 0.0
    patience_s: float = 0.0
    position: int = 0
    wanted: dict[int, str] = field(default_factory=dict)
    ahead: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    behind_since: float = 0.0
    last_sent: float = -FOREVER
    joined: dict[str, float] = field(default_factory=dict)
    sent: dict[int, float] = field(default_factory=dict)
    """When a chunk was sent, for as long as asks may cross it; oldest first."""

    def add(self, index: int, device_id: str, now: float) -> None:
        self.wanted[index] = device_id
        if index >= self.position:
            heapq.heappush(self.ahead, index)
        else:
            self.behind_since = self.behind_since if self.behind else now
            heapq.heappush(self.behind, index)

    def next_at(self) -> float:
        """Return when there is something to send."""
        if self.ahead:
            return self.ready_at
        if self.behind:
            return max(self.ready_at, min(self.last_sent + self.settle_s, self.behind_since + self.patience_s))
        return FOREVER

    def take(self, now: float) -> tuple[int, str]:
        overdue = bool(self.behind) and now - self.behind_since >= self.patience_s
        if not self.ahead or overdue:
            self.ahead, self.behind = [*self.behind, *self.ahead], []
            heapq.heapify(self.ahead)
        index = heapq.heappop(self.ahead)
        self.position, self.last_sent = index + 1, now
        self.sent.pop(index, None)  # a later time belongs at the end
        self.sent[index] = now
        return index, self.wanted.pop(index)

    def forget_sent(self, before: float) -> None:
        while self.sent and self.sent[oldest := next(iter(self.sent))] < before:
            del self.sent[oldest]


@dataclass(slots=True)
class _Blob:
    """A blob's streams; `turns` holds the detached devices with demand, the next one first."""

    shared: _Sweep
    detached: dict[str, _Sweep] = field(default_factory=dict)
    turns: deque[str] = field(default_factory=deque)
    shared_next: bool = True

    @property
    def wanted(self) -> bool:
        return bool(self.shared.wanted or self.turns)


class Demand:
    """What all devices wait for. Not thread-safe."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._blobs: dict[str, _Blob] = {}
        self._turns: deque[str] = deque()  # the blobs with demand, the next one first
        self._owed: dict[str, int] = {}  # chunks that a device asked for first and that are not sent
        self._detached = 0

    def __len__(self) -> int:
        """How many chunks wait to be sent."""
        return sum(self._owed.values())

    def want(self, device_id: str, want: Want, chunk_count: int, now: float) -> Refusal | None:
        """Add what a device wants of a blob of `chunk_count` chunks; say why if not all of it was taken."""
        if any(first + count > chunk_count for first, count in want.ranges):
            return Refusal.BEYOND_BLOB
        blob = self._blob(want.blob, now)
        if blob is None:
            return Refusal.TOO_MANY_BLOBS
        sweep = self._detached_sweep(blob, device_id, now) if want.detached else blob.shared
        if sweep is None:
            return Refusal.TOO_MANY_DETACHED
        if want.detached:
            blob.shared.joined.pop(device_id, None)  # it no longer listens there
        elif not sweep.wanted and now - sweep.last_sent > self._limits.pause_s:
            sweep.gather_until = now + self._limits.gather_s
            sweep.ready_at = now + self._limits.lull_s
        elif now < sweep.ready_at:
            sweep.ready_at = min(now + self._limits.lull_s, sweep.gather_until)
        sweep.forget_sent(now - self._limits.crossing_s)
        blob_was_wanted, sweep_was_wanted = blob.wanted, bool(sweep.wanted)
        refusal = self._add(sweep, device_id, want.ranges, now)
        if want.detached and sweep.wanted and not sweep_was_wanted:
            blob.turns.append(device_id)
        if blob.wanted and not blob_was_wanted:
            self._turns.append(want.blob)
        return refusal

    def take(self, now: float) -> Send | None:
        """Return the next chunk to send, which then is no longer wanted; None if there is none yet."""
        for _ in range(len(self._turns)):
            name = self._turns.popleft()
            send = self._take_of(name, self._blobs[name], now)
            if self._blobs[name].wanted:
                self._turns.append(name)
            if send is not None:
                return send
        return None

    def wait_s(self, now: float) -> float | None:
        """Return how long `take` will have nothing: 0 if it has, None if nobody wants anything."""
        blobs = (self._blobs[name] for name in self._turns)
        waits = [0.0 if blob.turns else max(0.0, blob.shared.next_at() - now) for blob in blobs]
        return min(waits, default=None)

    def drop(self, name: str) -> None:
        """Forget all demand for a blob, which can no longer be read."""
        blob = self._blobs.pop(name, None)
        if blob is None:
            return
        self._detached -= len(blob.detached)
        for sweep in (blob.shared, *blob.detached.values()):
            for owner in sweep.wanted.values():
                self._pay(owner)
        if name in self._turns:
            self._turns.remove(name)

    def _take_of(self, name: str, blob: _Blob, now: float) -> Send | None:
        if blob.shared.next_at() <= now and (blob.shared_next or not blob.turns):
            device_id, sweep = None, blob.shared
        elif blob.turns:
            device_id = blob.turns.popleft()
            sweep = blob.detached[device_id]
        else:
            return None
        index, owner = sweep.take(now)
        if device_id is not None and sweep.wanted:
            blob.turns.append(device_id)
        blob.shared_next = device_id is not None
        self._pay(owner)
        return Send(name, index, device_id)

    def _add(self, sweep: _Sweep, device_id: str, ranges: Sequence[Sequence[int]], now: float) -> Refusal | None:
        joined = sweep.joined.setdefault(device_id, now)
        room = self._limits.max_chunks_per_device - self._owed.get(device_id, 0)
        before = len(sweep.wanted)
        refusal = None
        for index in (index for first, count in ranges for index in range(first, first + count)):
            if index in sweep.wanted or sweep.sent.get(index, -FOREVER) > joined:
                continue
            if len(sweep.wanted) - before == room:
                refusal = Refusal.TOO_MANY_CHUNKS
                break
            sweep.add(index, device_id, now)
        added = len(sweep.wanted) - before
        if added:
            self._owed[device_id] = self._owed.get(device_id, 0) + added
        return refusal

    def _blob(self, name: str, now: float) -> _Blob | None:
        blob = self._blobs.get(name)
        if blob is None:
            self._forget_idle(now - self._limits.linger_s)
            if len(self._blobs) >= self._limits.max_blobs:
                self._forget_idle(FOREVER)
            if len(self._blobs) >= self._limits.max_blobs:
                return None
            blob = self._blobs[name] = _Blob(
                _Sweep(now, settle_s=self._limits.settle_s, patience_s=self._limits.patience_s)
            )
        return blob

    def _detached_sweep(self, blob: _Blob, device_id: str, now: float) -> _Sweep | None:
        sweep = blob.detached.get(device_id)
        if sweep is None:
            if self._detached >= self._limits.max_detached:
                self._forget_idle(now - self._limits.linger_s)
            if self._detached >= self._limits.max_detached:
                return None
            sweep = blob.detached[device_id] = _Sweep(now)
            self._detached += 1
        return sweep

    def _forget_idle(self, since: float) -> None:
        """Make room: forget detached devices that want nothing now, and blobs that nobody has wanted `since`."""
        for name, blob in tuple(self._blobs.items()):
            for device_id, sweep in tuple(blob.detached.items()):
                if not sweep.wanted:
                    del blob.detached[device_id]
                    self._detached -= 1
            if not blob.wanted and max(blob.shared.last_sent, blob.shared.ready_at) <= since:
                del self._blobs[name]

    def _pay(self, device_id: str) -> None:
        self._owed[device_id] -= 1
        if not self._owed[device_id]:
            del self._owed[device_id]
