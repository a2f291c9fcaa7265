"""Asks the cloud for metadata files and waits for the answers: what python-tuf's blocking client needs of a link.

A file that one message cannot hold is answered by a blob, which is fetched like an image, into memory.
"""

from __future__ import annotations

import itertools
import threading
from typing import Final

from device_agent.download import Download
from device_agent.download_ports import ChunkLink, DownloadSettings
from protocol.chunks import BlobRef
from protocol.codec import encode
from protocol.down import Metadata
from protocol.errors import FleetliftError
from protocol.topics import Topics
from protocol.up import Ask, Asked

ANSWER_TIMEOUT_S: Final = 10.0
MAX_FILE_BYTES: Final = 5_000_000


class UnansweredError(FleetliftError):
    """The cloud did not answer; nothing is known of what was asked."""


class MetadataFiles:
    """Fetches metadata files: `file` blocks, in the worker's thread; `answer` and `on_chunk` are for any other."""

    def __init__(self, link: ChunkLink, topics: Topics, device_id: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._link = link
        self._topics = topics
        self._device_id = device_id
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._awaited: int | None = None
        self._answer: Metadata | None = None
        self._closed = False
        self._download: Download | None = None

    def file(self, name: str) -> bytes | None:
        """Return a metadata file, None if the cloud says that there is none; raises UnansweredError."""
        answer = self._ask(name)
        if not answer.found:
            return None
        if answer.blob is not None:
            return self._fetched(answer.blob)
        return (answer.body or "").encode()

    def ask_for(self, what: Asked, name: str = "") -> bool:
        """Ask for something that comes on a topic of its own; False if the link is down."""
        return self._send(Ask(request=next(self._numbers), what=what, name=name))

    def answer(self, metadata: Metadata) -> None:
        """Hear an answer; one that nobody waits for is dropped."""
        with self._changed:
            if metadata.request == self._awaited:
                self._answer = metadata
                self._changed.notify_all()

    def on_chunk(self, blob: str, payload: bytes | memoryview) -> None:
        """Take a chunk from the link."""
        download = self._download
        if download is not None:
            download.on_chunk(blob, payload)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _send(self, ask: Ask) -> bool:
        return self._link.publish(self._topics.up(self._device_id, "ask"), encode(ask))

    def _ask(self, name: str) -> Metadata:
        number = next(self._numbers)
        with self._changed:
            self._awaited, self._answer = number, None
        if not self._send(Ask(request=number, what=Asked.METADATA, name=name)):
            raise UnansweredError(f"{name} could not be asked for: the link to the broker is down")
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None or self._closed, self._timeout_s)
            answer, self._awaited, self._answer = self._answer, None, None
        if answer is None or answer.name != name:
            raise UnansweredError(f"the cloud did not answer for {name} within {self._timeout_s:g} s")
        return answer

    def _fetched(self, ref: BlobRef) -> bytes:
        if ref.size_bytes > MAX_FILE_BYTES:
            raise UnansweredError(f"a metadata file of {ref.size_bytes} bytes: at most {MAX_FILE_BYTES} are fetched")
        memory, ended, failures = _Memory(ref.size_bytes), threading.Event(), list[str]()

        def failed(_reason: object, why: str) -> None:
            failures.append(why)
            ended.set()

        self._download = Download(
            ref,
            image=ref.digest,
            target=memory,
            store=memory,
            link=self._link,
            topics=self._topics,
            device_id=self._device_id,
            on_done=ended.set,
            on_failed=failed,
            on_progress=lambda _done, _total: None,
            on_bad_chunk=lambda _why: None,
            settings=DownloadSettings(timeout_s=self._timeout_s),
        )
        try:
            self._download.start()
            ended.wait()
        finally:
            self._download.close()
            self._download = None
        if failures:
            raise UnansweredError(failures[0])
        return bytes(memory.content)


class _Memory:
    """Where a small blob and its chunk lists are kept while they are fetched."""

    kept = False

    def __init__(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)
        self._lists: dict[str, bytes] = {}

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.content[offset : offset + len(data)] = data

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def sync(self) -> None:
        pass

    def chunk_list(self, blob: str) -> bytes | None:
        return self._lists.get(blob)

    def save_chunk_list(self, image: str, blob: str, content: bytes) -> None:
        del image
        self._lists[blob] = content

    def bitmap(self, image: str, blob: str) -> bytes | None:
        del image, blob
        return None

    def save_bitmap(self, image: str, blob: str, bitmap: bytes) -> None:
        del image, blob, bitmap
