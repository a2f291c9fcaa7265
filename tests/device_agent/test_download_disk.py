"""The download and its disk: killed processes, full disks, and nothing recorded before it is durable."""
# ruff: noqa: ARG002 - the stand-ins take what the ports hand them

import errno
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from cloud.broker import EmbeddedBroker
from device_agent.download import Download, DownloadSettings
from device_agent.journal import Journal
from device_agent.slots.ports import SlotError
from protocol.chunks import CHUNK_BYTES, BlobRef, chunk_count, pack_chunk
from protocol.phases import Reason
from protocol.topics import Topics
from protocol.up import Want
from tests.support.chunk_server import ChunkServer, blobs_of, image_of
from tests.support.downloading import WAIT_S, Clock, Downloader, arguments_of
from tests.support.processes import Processes, wait_until

MIB = 1024 * 1024
TOPICS = Topics()


def image_on_disk(directory: Path) -> bytes:
    return (directory / "image").read_bytes()


@pytest.mark.broker
@pytest.mark.parametrize("sync_interval_s", [0.05, 3600], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("killed_at", [40, 250])
def test_a_killed_process_goes_on_and_asks_for_nothing_that_it_has(
    mosquitto: EmbeddedBroker, tmp_path: Path, processes: Processes, killed_at: int, sync_interval_s: float
) -> None:
    image = image_of(24 * MIB)
    ref, blobs = blobs_of(image)
    served, dried_up = list[int](), threading.Event()

    def dry_up(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        if want.blob != ref.digest or len(served) < killed_at:
            served.extend([index] if want.blob == ref.digest else [])
            return (good,)
        dried_up.set()
        return ()

    with ChunkServer(mosquitto.port, blobs, mangle=dry_up):
        child = processes.start(*arguments_of(mosquitto.port, tmp_path, ref, sync_interval_s))
        assert dried_up.wait(WAIT_S)
        wait_until(lambda: good_chunks(tmp_path, ref, blobs) >= set(served), what="the last chunk on the disk")
        child.kill()
    recorded = recorded_chunks(tmp_path, ref)
    there = good_chunks(tmp_path, ref, blobs)
    assert recorded <= there == set(served)
    with ChunkServer(mosquitto.port, blobs) as server:
        again = processes.start(*arguments_of(mosquitto.port, tmp_path, ref))
        said = json.loads(again.wait_for_line("done", WAIT_S))
        assert again.wait() == 0
        assert set(server.asked(ref.digest)) == set(range(chunk_count(len(image)))) - there
        assert server.asked(ref.lists[0]) == []
    assert image_on_disk(tmp_path) == image
    assert said["grown_bytes"] < 8 * MIB


@pytest.mark.broker
def test_a_finished_download_asks_for_nothing_at_all(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    ref, blobs = blobs_of(image_of(MIB))
    asked, fetched = list[int](), list[int]()
    for _ in range(2):
        with ChunkServer(mosquitto.port, blobs) as server, Downloader(mosquitto.port, tmp_path, ref) as device:
            device.fetch()
            asked.append(len(server.wants))
            fetched.append(device.download.fetched_bytes)
    assert asked[0] > 0
    assert fetched[0] > MIB
    assert (asked[1], fetched[1]) == (0, 0)


@pytest.mark.broker
def test_a_target_that_was_not_kept_voids_what_was_recorded(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(MIB)
    ref, blobs = blobs_of(image)
    asked = list[list[int]]()
    for _ in range(2):
        (tmp_path / "image").unlink(missing_ok=True)
        with (
            ChunkServer(mosquitto.port, blobs) as server,
            Downloader(mosquitto.port, tmp_path, ref, now=Clock()) as device,
        ):
            device.fetch()
            asked.append(server.asked(ref.digest))
    assert asked == [list(range(16))] * 2
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_a_damaged_chunk_list_is_fetched_anew(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(MIB)
    ref, blobs = blobs_of(image)
    journal = Journal(tmp_path / "journal.db", lambda: 0.0)
    journal.chunks.save_chunk_list(ref.digest, ref.lists[0], bytes(512))
    journal.close()
    with ChunkServer(mosquitto.port, blobs) as server, Downloader(mosquitto.port, tmp_path, ref, now=Clock()) as device:
        device.fetch()
        assert server.asked(ref.lists[0]) == [0]
    assert image_on_disk(tmp_path) == image


class Broken:
    """A target whose disk fails at one step."""

    kept = False

    def __init__(self, step: str, error: Exception) -> None:
        self._step, self._error = step, error

    def write(self, offset: int, data: object) -> None:
        self._maybe("write")

    def read(self, offset: int, length: int) -> bytes:
        return b""

    def sync(self) -> None:
        self._maybe("sync")

    def _maybe(self, step: str) -> None:
        if step == self._step:
            raise self._error


@pytest.mark.broker
@pytest.mark.parametrize(
    ("step", "error", "reason"),
    [
        ("write", OSError(errno.ENOSPC, "no space"), Reason.TOO_LARGE),
        ("write", OSError(errno.EIO, "bad sector"), Reason.STORAGE_FAILED),
        ("sync", OSError(errno.ENOSPC, "no space"), Reason.TOO_LARGE),
        ("sync", OSError(errno.EIO, "bad sector"), Reason.STORAGE_FAILED),
        ("write", SlotError(Reason.TOO_LARGE, "larger than its slot"), Reason.TOO_LARGE),
        ("write", ValueError("a mistake"), Reason.STORAGE_FAILED),
    ],
)
def test_a_disk_that_fails_ends_the_download_with_its_reason(
    mosquitto: EmbeddedBroker, tmp_path: Path, step: str, error: Exception, reason: Reason
) -> None:
    ref, blobs = blobs_of(image_of(MIB))
    with (
        ChunkServer(mosquitto.port, blobs),
        Downloader(mosquitto.port, tmp_path, ref, target=Broken(step, error)) as device,
    ):
        assert device.finished.wait(WAIT_S)
        assert device.failure is not None
        assert device.failure[0] is reason
        assert device.link.is_up
        assert device.journal.chunks.bitmap(ref.digest, ref.digest) is None


@pytest.mark.broker
def test_a_full_disk(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    ref, blobs = blobs_of(image_of(MIB))

    class Full(Broken):
        def write(self, offset: int, data: object) -> None:
            descriptor = os.open("/dev/full", os.O_RDWR)
            try:
                os.pwrite(descriptor, data, offset)  # type: ignore[arg-type]
            finally:
                os.close(descriptor)

    target = Full("", OSError())
    with ChunkServer(mosquitto.port, blobs), Downloader(mosquitto.port, tmp_path, ref, target=target) as device:
        assert device.finished.wait(WAIT_S)
        assert device.failure is not None
        assert device.failure[0] is Reason.TOO_LARGE


class HeldBack:
    """A target from which a power cut takes all that was not synced; the store checks what it is told against it."""

    kept = False

    def __init__(self, ref: BlobRef) -> None:
        self._ref = ref
        self.durable: dict[int, bytes] = {}
        self.lists: dict[str, bytes] = {}
        self.bitmaps: list[bytes] = []
        self._written: dict[int, bytes] = {}

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert offset not in {**self.durable, **self._written}, "written twice"
        self._written[offset] = bytes(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.durable.get(offset, b"")

    def sync(self) -> None:
        while self._written:
            offset = next(iter(self._written))
            self.durable[offset] = self._written.pop(offset)

    def chunk_list(self, blob: str) -> bytes | None:
        return self.lists.get(blob)

    def save_chunk_list(self, image: str, blob: str, content: bytes) -> None:
        self.lists[blob] = content

    def bitmap(self, image: str, blob: str) -> bytes | None:
        return None

    def save_bitmap(self, image: str, blob: str, bitmap: bytes) -> None:
        count = chunk_count(self._ref.size_bytes)
        told = {index for index in range(count) if bitmap[index >> 3] >> (index & 7) & 1}
        assert told <= {offset // CHUNK_BYTES for offset in self.durable}
        self.bitmaps.append(bitmap)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        return True

    def subscribe(self, filters: object) -> bool:
        return True

    unsubscribe = subscribe


def test_nothing_is_recorded_before_it_is_durable() -> None:
    image = image_of(12 * MIB)
    ref, blobs = blobs_of(image)
    there, done = HeldBack(ref), threading.Event()
    failures, bad = list[tuple[Reason, str]](), list[str]()

    def failed(reason: Reason, detail: str) -> None:
        failures.append((reason, detail))
        done.set()

    download = Download(
        ref,
        image=ref.digest,
        target=there,
        store=there,
        link=there,
        topics=TOPICS,
        device_id="dev-1",
        on_done=done.set,
        on_failed=failed,
        on_progress=lambda _done, _all: None,
        on_bad_chunk=bad.append,
        settings=DownloadSettings(sync_bytes=MIB, sync_interval_s=0.01),
    )
    download.start()
    wait_until(lambda: download._stage is not None, what="the first stage")
    assert download.on_chunk(ref.lists[0], pack_chunk(0, blobs[ref.lists[0]])) is True
    wait_until(lambda: download._stage is not None and download._stage.level == 0, what="the image's stage")
    assert download.on_chunk("9" * 64, b"") is False
    for index in range(chunk_count(len(image))):
        chunk = pack_chunk(index, image[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        assert download.on_chunk(ref.digest, chunk) is True
        assert download.on_chunk(ref.digest, chunk) is True
        if index == chunk_count(len(image)) // 2:
            wait_until(lambda: there.bitmaps, what="the first record")
    assert done.wait(WAIT_S)
    assert failures == []
    assert bad == []
    assert len(there.bitmaps) > 1
    assert b"".join(there.durable[offset] for offset in sorted(there.durable)) == image
    download.close()


@pytest.mark.broker
def test_what_is_told_to_be_durable_is_so_and_has_no_gap(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(24 * MIB)
    ref, blobs = blobs_of(image)
    told = list[int]()

    def durable(durable_bytes: int) -> None:
        assert image_on_disk(tmp_path)[:durable_bytes] == image[:durable_bytes]
        told.append(durable_bytes)

    def late(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        return () if want.blob == ref.digest and index == 100 and not late_again.is_set() else (good,)

    late_again = threading.Event()
    with (
        ChunkServer(mosquitto.port, blobs, mangle=late),
        Downloader(
            mosquitto.port, tmp_path, ref, settings=DownloadSettings(sync_bytes=MIB), on_durable=durable
        ) as device,
    ):
        wait_until(lambda: device.download.received_bytes > 20 * MIB, what="most of what lies behind the gap")
        assert max(told) <= 100 * CHUNK_BYTES
        late_again.set()
        device.fetch()
    assert told == sorted(told)
    assert told[-1] == len(image)
    told.clear()
    with Downloader(mosquitto.port, tmp_path, ref, on_durable=durable) as device:
        device.fetch()
    assert told[0] == len(image), "what is there at the beginning is told, too"


@pytest.mark.broker
def test_closing_records_what_came_and_calls_nobody(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(8 * MIB)
    ref, blobs = blobs_of(image)
    stuck = threading.Event()

    def dry_up(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        if want.blob == ref.digest and index >= 30:
            stuck.set()
            return ()
        return (good,)

    settings = DownloadSettings(sync_interval_s=3600, sync_bytes=2**40)
    with (
        ChunkServer(mosquitto.port, blobs, mangle=dry_up),
        Downloader(mosquitto.port, tmp_path, ref, settings=settings) as device,
    ):
        assert stuck.wait(WAIT_S)
        wait_until(lambda: device.download.fetched_bytes > 29 * CHUNK_BYTES, what="thirty chunks")
        device.download.close()
        device.download.close()
        assert not device.finished.is_set()
    assert len(recorded_chunks(tmp_path, ref)) >= 29


def recorded_chunks(directory: Path, ref: BlobRef) -> set[int]:
    """What a device that was killed remembers."""
    journal = Journal(directory / "journal.db", lambda: 0.0)
    bitmap = journal.chunks.bitmap(ref.digest, ref.digest) or b""
    journal.close()
    return {index for index in range(8 * len(bitmap)) if bitmap[index >> 3] >> (index & 7) & 1}


def good_chunks(directory: Path, ref: BlobRef, blobs: dict[str, bytes]) -> set[int]:
    """The chunks on the disk that are what they should be."""
    written = image_on_disk(directory)
    spans = {index: slice(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES) for index in range(ref.chunk_count)}
    return {index for index, span in spans.items() if written[span] == blobs[ref.digest][span]}
