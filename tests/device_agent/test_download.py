"""The download over a real broker: bad networks, forged chunks, killed processes, full disks, large images."""
# ruff: noqa: ARG002 - the stand-ins take what the ports hand them

import errno
import hashlib
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cloud.broker import EmbeddedBroker
from device_agent.download import Download, DownloadSettings
from device_agent.journal import Journal
from device_agent.slots.ports import SlotError
from device_agent.window import bitmap_bytes
from protocol.chunks import CHUNK_BYTES, BlobRef, chunk_count, describe, pack_chunk
from protocol.phases import Reason
from protocol.topics import Topics
from protocol.up import Want
from tests.support.chunk_server import ChunkServer, Content, blobs_of, image_of, indexes_of
from tests.support.downloading import WAIT_S, Clock, Downloader, ReadableTarget, arguments_of
from tests.support.processes import Processes, wait_until

MIB = 1024 * 1024
TOPICS = Topics()


def once(what: Callable[[int], Iterable[bytes] | None]) -> Callable[[Want, int, bytes], Iterable[bytes]]:
    """Mangle each chunk the first time that it is asked for; `what` sees a running number."""
    seen: set[tuple[str, int]] = set()

    def mangle(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        if (want.blob, index) in seen:
            return (good,)
        seen.add((want.blob, index))
        instead = what(len(seen))
        return (good,) if instead is None else instead

    return mangle


def image_on_disk(directory: Path) -> bytes:
    return (directory / "image").read_bytes()


@pytest.mark.parametrize("size_bytes", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MIB + 17], ids=str)
def test_an_image_arrives(broker: EmbeddedBroker, tmp_path: Path, size_bytes: int) -> None:
    image = image_of(size_bytes)
    ref, blobs = blobs_of(image)
    with ChunkServer(broker.port, blobs) as server, Downloader(broker.port, tmp_path, ref) as device:
        device.fetch()
        assert set(server.asked(ref.digest)) == set(range(chunk_count(size_bytes)))
        assert device.download.received_bytes == device.progress[-1] == size_bytes
        assert device.download.fetched_bytes == size_bytes + chunk_count(size_bytes) * 32
        assert device.bad == []
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_lists_of_lists(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(129 * MIB)
    ref, blobs = blobs_of(image)
    assert len(ref.lists) == 2
    with ChunkServer(mosquitto.port, blobs) as server, Downloader(mosquitto.port, tmp_path, ref, now=Clock()) as device:
        device.fetch()
        assert [server.asked(name) for name in ref.lists] == [[0, 1], [0]]
        assert device.target.digest() == ref.digest  # type: ignore[attr-defined]


@pytest.mark.broker
def test_a_bad_network_costs_time_only(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(16 * MIB)
    ref, blobs = blobs_of(image)
    dice, held = random.Random(1), list[bytes]()

    def mangle(_want: Want, index: int, good: bytes) -> Iterable[bytes]:
        kind = dice.random()
        if kind < 0.15:
            return ()
        if kind < 0.25:
            return (good, good)
        if kind < 0.35:
            held.append(good)  # comes much later
            return ()
        return (good, held.pop(0)) if held and kind < 0.45 else (good,)

    def shuffled(indexes: list[int]) -> list[int]:
        dice.shuffle(indexes)
        return indexes

    with (
        ChunkServer(mosquitto.port, blobs, mangle=mangle, arrange=shuffled),
        Downloader(mosquitto.port, tmp_path, ref) as device,
    ):
        device.fetch()
        assert device.bad == []
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_lost_chunks_are_asked_again_while_others_come(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(32 * MIB)
    ref, blobs = blobs_of(image)
    mangle = once(lambda number: () if number % 10 == 0 and number < 400 else None)
    with (
        ChunkServer(mosquitto.port, blobs, mangle=mangle) as server,
        Downloader(mosquitto.port, tmp_path, ref) as device,
    ):
        device.fetch()
        turns: dict[int, list[int]] = {}
        for turn, (_, want) in enumerate(server.wants):
            for index in indexes_of(want) if want.blob == ref.digest else ():
                turns.setdefault(index, []).append(turn)
        again = [asked for asked in turns.values() if len(asked) > 1]
        assert len(again) == 39
        assert all(len(asked) == 2 and asked[1] - asked[0] <= 8 for asked in again)  # two windows later at the most
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_forged_chunks_are_counted_and_never_written(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(4 * MIB)
    ref, blobs = blobs_of(image)
    sent = Counter[int]()

    def forged(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        messages = [
            good[:12] + bytes(len(good) - 12),
            pack_chunk(2**32 - 1, good[12:]),
            good[:-1],
            good + bytes(CHUNK_BYTES),
            good[:12],
            b"",
            b"XXXX" + good[4:],
        ]
        if want.blob == ref.digest and index + 1 < ref.chunk_count:
            messages.append(pack_chunk(index + 1, good[12:]))
        sent.update(range(len(messages)))
        return (*messages, good)

    writes = list[tuple[int, bytes]]()

    class Watched(ReadableTarget):
        def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            writes.append((offset, bytes(data)))
            super().write(offset, data)

    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    target = Watched(descriptor, ref.size_bytes, kept=False)
    with (
        ChunkServer(mosquitto.port, blobs, mangle=forged),
        Downloader(mosquitto.port, tmp_path, ref, target=target, now=Clock()) as device,
    ):
        device.fetch()
        assert len(device.bad) == sum(sent.values())
    assert sorted(writes) == [(at, image[at : at + CHUNK_BYTES]) for at in range(0, len(image), CHUNK_BYTES)]
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_a_device_that_loses_much_leaves_the_shared_stream(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(48 * MIB)
    ref, blobs = blobs_of(image)
    dice = random.Random(3)

    def mangle(want: Want, _index: int, good: bytes) -> Iterable[bytes]:
        return (good,) if want.detached or dice.random() < 0.5 else ()

    with (
        ChunkServer(mosquitto.port, blobs, mangle=mangle) as server,
        Downloader(mosquitto.port, tmp_path, ref) as device,
    ):
        device.fetch()
        assert device.download.is_detached
        asked = [want.detached for _, want in server.wants]
        assert asked == sorted(asked)
        assert any(asked)
        assert not all(asked)
        assert not device.link._wanted.keys() & {TOPICS.chunks(name) for name in (ref.digest, *ref.lists)}


@pytest.mark.broker
def test_a_metered_device_never_joins_the_shared_stream(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(MIB)
    ref, blobs = blobs_of(image)
    settings = DownloadSettings(detached=True)
    with (
        ChunkServer(mosquitto.port, blobs) as server,
        Downloader(mosquitto.port, tmp_path, ref, settings=settings) as device,
    ):
        device.fetch()
        assert all(want.detached for _, want in server.wants)
    assert image_on_disk(tmp_path) == image


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


@pytest.mark.broker
def test_a_broker_that_dies_in_the_middle_is_waited_for(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = image_of(16 * MIB)
    ref, blobs = blobs_of(image)
    half = threading.Event()

    def dry_up(want: Want, index: int, good: bytes) -> Iterable[bytes]:
        if want.blob == ref.digest and index >= 128:
            half.set()
            return ()
        return (good,)

    clock = Clock()
    with (
        ChunkServer(mosquitto.port, blobs, mangle=dry_up),
        Downloader(mosquitto.port, tmp_path, ref, now=clock) as device,
    ):
        assert half.wait(WAIT_S)
        wait_until(lambda: device.download.fetched_bytes >= 128 * CHUNK_BYTES, what="half of it")
        mosquitto.kill()
        wait_until(lambda: device.link.problem, what="the loss")
        clock.now_s += 100_000
        assert not device.finished.wait(1.5)  # longer than the download's thread sleeps
        mosquitto.start()
        wait_until(lambda: device.link.is_up, what="the link")
        with ChunkServer(mosquitto.port, blobs, client_id="cloud-2") as server:
            device.download.resume()  # what was asked before the second server listened is lost
            device.fetch()
            assert set(server.asked(ref.digest)) == set(range(128, 256))
    assert image_on_disk(tmp_path) == image


@pytest.mark.broker
def test_without_an_answer_it_fails_but_not_while_it_is_paused(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    ref, _ = blobs_of(image_of(MIB))
    clock = Clock()
    with Downloader(mosquitto.port, tmp_path, ref, settings=DownloadSettings(timeout_s=600), now=clock) as device:
        device.download.pause()
        clock.now_s += 100_000
        assert not device.finished.wait(1.5)  # longer than the download's thread sleeps
        device.download.resume()
        clock.now_s += 599
        assert not device.finished.wait(1.5)
        clock.now_s += 1
        assert device.finished.wait(WAIT_S)
        assert device.failure == (Reason.DOWNLOAD_FAILED, f"no chunk of {ref.lists[0]} came for 600 s")


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


class Sparse:
    """A 5 GiB image of zeros, but for the chunks at the places where offsets outgrow 31 and 32 bits."""

    marks = (2**31 // CHUNK_BYTES - 1, 2**31 // CHUNK_BYTES, 2**32 // CHUNK_BYTES - 1, 2**32 // CHUNK_BYTES, 81919)

    def __len__(self) -> int:
        return 5 * 1024 * MIB

    def __getitem__(self, part: slice) -> bytes:
        index = part.start // CHUNK_BYTES
        return (b"%d" % index).ljust(CHUNK_BYTES, b"!") if index in self.marks else bytes(CHUNK_BYTES)


@pytest.mark.broker
def test_an_image_beyond_4_gib(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    image = Sparse()
    count = chunk_count(len(image))
    zeros = hashlib.sha256(bytes(CHUNK_BYTES)).digest()
    digests = bytearray(zeros * count)
    for index in image.marks:
        digests[index * 32 : index * 32 + 32] = hashlib.sha256(image[index * CHUNK_BYTES :]).digest()
    list_ref, (list_of_list,) = describe([bytes(digests)])
    ref = BlobRef(digest="5" * 64, size_bytes=len(image), lists=(list_ref.digest, *list_ref.lists))
    bitmap = bytearray(b"\xff" * bitmap_bytes(len(image)))
    for index in image.marks:
        bitmap[index >> 3] &= ~(1 << (index & 7))
    journal = Journal(tmp_path / "journal.db", lambda: 0.0)
    journal.chunks.save_bitmap(ref.digest, ref.digest, bytes(bitmap))
    journal.close()
    (tmp_path / "image").touch()
    blobs: dict[str, Content] = {ref.digest: image, ref.lists[0]: bytes(digests), ref.lists[1]: list_of_list}
    with ChunkServer(mosquitto.port, blobs) as server, Downloader(mosquitto.port, tmp_path, ref, now=Clock()) as device:
        device.fetch()
        assert server.asked(ref.digest) == list(image.marks)
    with (tmp_path / "image").open("rb") as written:
        for index in image.marks:
            written.seek(index * CHUNK_BYTES)
            assert written.read(CHUNK_BYTES) == image[index * CHUNK_BYTES :]


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
    assert done.wait(WAIT_S)
    assert failures == []
    assert bad == []
    assert len(there.bitmaps) > 1
    assert b"".join(there.durable[offset] for offset in sorted(there.durable)) == image
    download.close()


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
