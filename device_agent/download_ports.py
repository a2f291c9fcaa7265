"""What a download needs of others, and how it is to behave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class ListStore(Protocol):
    """Keeps pieces of chunk lists by their SHA-256, durably, for as long as `image` is being fetched."""

    def chunk_list(self, blob: str) -> bytes | None:
        """Return a stored piece."""

    def save_chunk_list(self, image: str, blob: str, content: bytes) -> None:
        """Store a verified piece."""


class Target(Protocol):
    """Where the blob is written (`slots.ports.Target` is one)."""

    @property
    def kept(self) -> bool:
        """Whether what was written before is still there; if not, what was recorded is void."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset` (bytes)."""

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there; fewer bytes, or none, beyond the end."""

    def sync(self) -> None:
        """Make durable all that was written before the call."""


class ChunkStore(ListStore, Protocol):
    """Remembers what was received (`journal_chunks.ChunkStore` is one); durable on return, usable from any thread."""

    def bitmap(self, image: str, blob: str) -> bytes | None:
        """Return which chunks of a blob are durable."""

    def save_bitmap(self, image: str, blob: str, bitmap: bytes) -> None:
        """Record which chunks of a blob are durable."""


class ChunkLink(Protocol):
    """What is needed of the link (`link.Link` is one)."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over, or return False."""

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        """Want these topics."""

    def unsubscribe(self, filters: Iterable[str]) -> bool:
        """Want them no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSettings:
    """How to fetch. `timeout_s` without a new chunk, while not paused, fails the download."""

    window_bytes: int = 4 * 1024 * 1024
    timeout_s: float = 600.0
    detached: bool = False
    """Ask for chunks on the device's own topic from the start: for a link that is paid by the byte."""
    sync_bytes: int = 4 * 1024 * 1024
    sync_interval_s: float = 0.5
    progress_interval_s: float = 1.0
