"""The download over a real broker: bad networks, forged chunks, brokers that die, large images."""

import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cloud.broker import EmbeddedBroker
from device_agent.download import DownloadSettings
from device_agent.journal import Journal
from device_agent.slots.target import FileTarget
from device_agent.window import bitmap_bytes
from protocol.chunks import CHUNK_BYTES, BlobRef, chunk_count, describe, pack_chunk
from protocol.phases import Reason
from protocol.topics import Topics
from protocol.up import Want
from tests.support.chunk_server import ChunkServer, Content, blobs_of, image_of, indexes_of
from tests.support.downloading import WAIT_S, Clock, Downloader
from tests.support.processes import wait_until

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

    class Watched(FileTarget):
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
            device.download.pause()
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
