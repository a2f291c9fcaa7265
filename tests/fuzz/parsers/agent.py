"""Targets: what a device hears from the cloud."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from device_agent.asks import MetadataFiles
from device_agent.download import Download, DownloadSettings
from device_agent.hearing import Hearing
from device_agent.journal_database import JournalError
from device_agent.reports import Reports
from device_agent.session import Session
from device_agent.told import Seen, Told
from protocol.chunks import describe, pack_chunk
from protocol.codec import encode
from protocol.down import Ack, Bundle, Desired, Metadata, Notice
from protocol.phases import Reason
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Signature, seal
from protocol.topics import Topics
from protocol.up import Entry, JournalPosition
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.wire import SIGNATURES, plain
from tests.fuzz.session import DETAIL
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import MESSAGES

TOPICS: Final = Topics()
DEVICE: Final = "pi-1"
PRODUCT: Final = "thermostat"


@dataclasses.dataclass(frozen=True)
class _Kept:
    payload: bytes


class _Memory:
    """A journal that forgets: what is accepted is kept for as long as one input lasts."""

    journal_id = "j1"
    acknowledged = 0

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def all_seen(self) -> Mapping[str, Seen]:
        return dict(self.seen)

    def keep_seen(self, channel: str, seq: int, payload: bytes) -> None:
        assert seq > 0
        if seq == 13:
            raise JournalError("the disk is full")
        self.seen[channel] = _Kept(payload)

    def unacknowledged(self, limit: int) -> tuple[Entry, ...]:
        del limit
        return ()

    def position(self) -> JournalPosition:
        return JournalPosition(journal_id=self.journal_id, next_seq=5)

    def acknowledge(self, through: int) -> None:
        assert through >= 0


class _Link:
    """A link that takes everything, and leads nowhere."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        del topic, payload, qos, retain
        return True

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        del filters
        return True

    def unsubscribe(self, filters: object) -> bool:
        del filters
        return True


class _Listener:
    def told_desired(self) -> None:
        pass

    def told_notice(self) -> None:
        pass

    def told_bundle(self, bundle: Bundle) -> None:
        assert bundle.root_version > 0


class _Hearing(Hearing):
    """Remembers why it refused."""

    why = ""

    def refused(self, kind: str, error: Exception, about: str) -> None:
        super().refused(kind, error, about)
        self.why = DETAIL.sub("_", str(error)[:120])


def _accept(_pae: bytes, _signatures: tuple[Signature, ...]) -> None:
    pass


def hear(content: bytes) -> object:
    """One message from the broker: its topic, a line's end, its payload. Every signature is good."""
    topic, _, payload = content.partition(b"\n")
    memory = _Memory()
    told = Told(DEVICE, PRODUCT, ("app",), keeper=memory)
    codes: list[str] = []
    hearing = _Hearing(
        topics=TOPICS,
        device_id=DEVICE,
        product=PRODUCT,
        told=told,
        session=Session(number=2),
        reports=Reports(memory),
        files=MetadataFiles(_Link(), TOPICS, DEVICE),
        verify=_accept,
        hears=_Listener(),
        refuse=codes.append,
        monotonic=lambda: 5.0,
    )
    hearing.message(topic.decode("utf-8", errors="replace"), payload)
    assert "internal_error" not in codes
    again = Told(DEVICE, PRODUCT, ("app",), keeper=memory)  # what is kept is understood after a restart
    assert (again.desired, again.channels) == (told.desired, told.channels)
    assert told.missing() == again.missing()
    return hearing.why


def heard() -> list[bytes]:
    """Return a message of each kind that a device hears, with its topic."""
    topics: dict[type, str] = {
        Desired: TOPICS.down(DEVICE, "desired"),
        Notice: TOPICS.notice(PRODUCT, "everyone", "app"),
        Ack: TOPICS.down(DEVICE, "ack"),
        Metadata: TOPICS.down(DEVICE, "meta"),
        Bundle: TOPICS.bundle(PRODUCT),
    }
    types: dict[type, str] = {Desired: DESIRED_TYPE, Notice: NOTICE_TYPE}
    found = []
    for message in MESSAGES:
        if (topic := topics.get(type(message))) is not None:
            said: Any = message
            if isinstance(message, Notice):
                said = dataclasses.replace(message, group="everyone")
            kind = types.get(type(message))
            payload = seal(said, kind, lambda _pae: SIGNATURES) if kind else encode(said)
            found.append(topic.encode() + b"\n" + payload)
    return found


IMAGE: Final = bytes(range(256)) * 768  # three chunks
OTHER: Final = bytes(range(255, -1, -1)) * 768
BLOB, _LISTS = describe([IMAGE])


class _Slot:
    """Where an image is written, and what was written is the image's."""

    kept = False

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert IMAGE[offset : offset + len(data)] == bytes(data)

    def read(self, offset: int, length: int) -> bytes:
        del offset
        return bytes(length)

    def sync(self) -> None:
        pass

    def chunk_list(self, blob: str) -> bytes | None:
        del blob
        return _LISTS[0]

    def save_chunk_list(self, image: str, blob: str, content: bytes) -> None:
        raise AssertionError((image, blob, content))

    def bitmap(self, image: str, blob: str) -> bytes | None:
        del image, blob
        return None

    def save_bitmap(self, image: str, blob: str, bitmap: bytes) -> None:
        del image, blob, bitmap


@contextlib.contextmanager
def downloading(_directory: Path) -> Iterator[Parse]:
    """A download whose last chunk never comes: what is written is right, and nothing makes it fail."""
    failed: list[tuple[Reason, str]] = []
    refused: list[str] = []
    begun = threading.Event()

    class Link(_Link):
        def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
            begun.set()
            return super().publish(topic, payload, qos=qos, retain=retain)

    slot = _Slot()
    download = Download(
        BLOB,
        image=BLOB.digest,
        target=slot,
        store=slot,
        link=Link(),
        topics=TOPICS,
        device_id=DEVICE,
        on_done=lambda: failed.append((Reason.DOWNLOAD_FAILED, "done")),
        on_failed=lambda reason, why: failed.append((reason, why)),
        on_progress=lambda _done, _all: None,
        on_bad_chunk=refused.append,
        settings=DownloadSettings(timeout_s=86_400.0),
        now=lambda: 0.0,
    )
    download.start()
    assert begun.wait(30)

    def parse(content: bytes) -> object:
        blob, payload = (BLOB.digest, content) if content[:1] != b"=" else (BLOB.lists[0], content[1:])
        refused.clear()
        assert download.on_chunk(blob, memoryview(payload))
        assert not failed, failed
        return refused[0][:20] if refused else None

    try:
        yield parse
    finally:
        download.close()


TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="agent.message",
        make=plain(hear),
        seeds=heard,
        shape="json",
        covers=(
            "device_agent.hearing.Hearing.message",
            "device_agent.told.Told.accept_desired",
            "device_agent.told.Told.accept_notice",
            "device_agent.asks.MetadataFiles.answer",
        ),
    ),
    Target(
        name="agent.chunk",
        make=downloading,
        seeds=lambda: [
            *(pack_chunk(index, IMAGE[index * 65536 : (index + 1) * 65536]) for index in (0, 1)),
            *(pack_chunk(index, OTHER[index * 65536 : (index + 1) * 65536]) for index in (0, 1, 2)),
            b"=" + pack_chunk(0, _LISTS[0]),
            pack_chunk(2, b"short"),
        ],
        shape="bytes",
        covers=("device_agent.download.Download.on_chunk", "device_agent.chunk_lists.ChunkLists.verify"),
        words=(b"FLC1", b"FLC1\x00\x00\x00\x02"),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
