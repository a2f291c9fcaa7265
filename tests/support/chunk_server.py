"""The cloud's half of a download, for tests: answers Wants with chunks, and can be a bad network or a bad server."""

import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Protocol, Self

from protocol.chunks import CHUNK_BYTES, BlobRef, chunk_span, describe, pack_chunk
from protocol.codec import decode
from protocol.topics import Topics
from protocol.up import Want
from tests.support.mqtt import Peer

TOPICS = Topics()
Mangle = Callable[[Want, int, bytes], Iterable[bytes]]
"""(the Want, a chunk's index, its good message) to the messages that are published instead."""


class Content(Protocol):
    """Bytes, or something that makes them up when they are looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


def image_of(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes of which no two chunks are alike, the same ones each time."""
    words = (b"%d/%d/" % (seed, chunk) * (CHUNK_BYTES // 4) for chunk in range(-(-size_bytes // CHUNK_BYTES)))
    return b"".join(word[:CHUNK_BYTES] for word in words)[:size_bytes]


def blobs_of(image: bytes) -> tuple[BlobRef, dict[str, bytes]]:
    """An image's reference, and everything that a cloud serves for it: itself and its chunk lists, by digest."""
    ref, lists = describe([image])
    return ref, {ref.digest: image, **dict(zip(ref.lists, lists, strict=True))}


def indexes_of(want: Want) -> list[int]:
    return [index for first, count in want.ranges for index in range(first, first + count)]


class ChunkServer:
    """Publishes what devices want, each chunk once per Want, ascending; `wants` is all that was asked, in order.

    `mangle` may drop, double or forge each message; `arrange` may reorder the chunks of a Want.
    """

    def __init__(
        self,
        port: int,
        blobs: Mapping[str, Content],
        *,
        mangle: Mangle | None = None,
        arrange: Callable[[list[int]], Iterable[int]] = sorted,
        client_id: str = "cloud",
    ) -> None:
        self._blobs = blobs
        self._mangle = mangle
        self._arrange = arrange
        self._peer = Peer(port, client_id)
        self._peer._client.on_message = self._on_want
        self.wants: list[tuple[str, Want]] = []
        self.changed = threading.Condition()

    def __enter__(self) -> Self:
        self._peer.connect()
        self._peer.subscribe(TOPICS.root + "/d/+/up/want")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peer.close()

    def asked(self, blob: str) -> list[int]:
        """Every chunk of a blob that was asked for, as often as it was."""
        return [index for _, want in self.wants if want.blob == blob for index in indexes_of(want)]

    def _on_want(self, _client: object, _user: object, message: object) -> None:
        topic, payload = message.topic, message.payload  # type: ignore[attr-defined]
        device = topic.split("/")[-3]
        want = decode(payload, Want)
        with self.changed:
            self.wants.append((device, want))
            self.changed.notify_all()
        for index in self._arrange(indexes_of(want)):
            for data in self._messages(want, index):
                self._peer._client.publish(TOPICS.chunks(want.blob, device if want.detached else None), data, 0)

    def _messages(self, want: Want, index: int) -> Iterable[bytes]:
        blob = self._blobs[want.blob]
        offset, length = chunk_span(index, len(blob))
        good = pack_chunk(index, blob[offset : offset + length])
        return (good,) if self._mangle is None else self._mangle(want, index, good)
