"""Targets: chunks in any order and from any thread, sizes beyond 32 bits, and disks that refuse."""

import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import SlotError
from protocol.phases import Reason
from protocol.values import FirmwareRef
from tests.device_agent.slots.firmware import CHUNK, COMPONENT, firmware, image


def sparse(size_bytes: int) -> FirmwareRef:
    """Return a firmware whose image is larger than a test wants to write."""
    return FirmwareRef(
        component=COMPONENT,
        version="1.0.0",
        build=1,
        seq=1,
        digest="0" * 64,
        size_bytes=size_bytes,
        hardware_models=("*",),
    )


@pytest.fixture
def no_fallocate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def test_chunks_are_written_in_any_order(slots: FilesSlots) -> None:
    content = image("1.0.0")
    target = slots.open_target(firmware("1.0.0"))
    for offset in reversed(range(0, len(content), CHUNK)):
        target.write(offset, memoryview(content)[offset : offset + CHUNK])
    assert target.digest() == hashlib.sha256(content).hexdigest()
    target.close()


def test_the_whole_size_is_reserved_before_the_first_byte(slots: FilesSlots, directory: Path) -> None:
    with_room = firmware("1.0.0", image("1.0.0", 1_000_000))
    slots.open_target(with_room).close()
    there = (directory / "target").stat()
    assert there.st_size == 1_000_000
    assert there.st_blocks * 512 >= 1_000_000


@pytest.mark.usefixtures("no_fallocate")
def test_a_file_system_that_cannot_reserve_is_used_all_the_same(slots: FilesSlots, directory: Path) -> None:
    target = slots.open_target(firmware("1.0.0"))
    target.write(0, image("1.0.0"))
    assert target.digest() == firmware("1.0.0").digest
    target.close()


@pytest.mark.usefixtures("no_fallocate")
def test_a_file_system_that_cannot_reserve_is_asked_what_is_free(slots: FilesSlots, directory: Path) -> None:
    with pytest.raises(SlotError) as refused:
        slots.open_target(sparse(2**60 // 2**10))
    assert refused.value.reason is Reason.TOO_LARGE
    assert not (directory / "target").exists()


@pytest.mark.usefixtures("no_fallocate")
@pytest.mark.parametrize("edge", [2**31, 2**32])
def test_offsets_beyond_32_bits_lead_to_their_place(slots: FilesSlots, directory: Path, edge: int) -> None:
    size_bytes = edge + 1
    target = slots.open_target(sparse(size_bytes))
    written = {edge - CHUNK: b"a" * (CHUNK - 1), edge - 1: b"b", edge: b"c"}
    for offset, data in written.items():
        target.write(offset, data)
    target.sync()
    with pytest.raises(SlotError):
        target.write(edge, b"cd")
    target.close()
    with (directory / "target").open("rb") as file:
        for offset, data in written.items():
            file.seek(offset)
            assert file.read(len(data)) == data
        file.seek(0)
        assert file.read(CHUNK) == bytes(CHUNK), "written at the offset modulo 2**32"
    assert (directory / "target").stat().st_size == size_bytes
    assert slots.open_target(sparse(size_bytes)).kept


@pytest.mark.usefixtures("no_fallocate")
def test_the_digest_covers_every_byte_beyond_2_gib(slots: FilesSlots) -> None:
    size_bytes = 2**31 + 1
    target = slots.open_target(sparse(size_bytes))
    target.write(2**31, b"!")
    reported: list[tuple[int, int]] = []
    digest = target.digest(lambda done, total: reported.append((done, total)))
    target.close()
    # (head -c 2147483648 /dev/zero; printf '!') | sha256sum
    assert digest == "3a232742ca11975e18b9bd4a9022d98c599284b07efcc3dab9cb8733453b2b6f"
    assert reported[-1] == (size_bytes, size_bytes)
    assert [done for done, _total in reported] == sorted(done for done, _total in reported)


@pytest.mark.parametrize("offset", [-1, len(image("1.0.0")), len(image("1.0.0")) - 1])
def test_nothing_is_written_outside_the_image(slots: FilesSlots, directory: Path, offset: int) -> None:
    target = slots.open_target(firmware("1.0.0"))
    with pytest.raises(SlotError) as refused:
        target.write(offset, b"ab")
    assert refused.value.reason is Reason.STORAGE_FAILED
    target.close()
    assert (directory / "target").read_bytes() == bytes(len(image("1.0.0")))


def test_closing_waits_for_writers_and_then_refuses_them(slots: FilesSlots, directory: Path) -> None:
    size_bytes = 64 * CHUNK
    target = slots.open_target(firmware("1.0.0", image("1.0.0", size_bytes)))
    begun, refused = threading.Barrier(5), []

    def write() -> None:
        begun.wait()
        try:
            while True:
                for offset in range(0, size_bytes, CHUNK):
                    target.write(offset, b"x" * CHUNK)
        except SlotError as error:
            refused.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    begun.wait()
    target.close()
    # The number of the descriptor is free now; whoever takes it must not get the chunks.
    other = directory / "other"
    descriptors = [os.open(other, os.O_RDWR | os.O_CREAT) for _ in range(8)]
    for writer in writers:
        writer.join()
    assert len(refused) == 4
    assert other.stat().st_size == 0
    for descriptor in descriptors:
        os.close(descriptor)
    target.close()


def test_closing_waits_for_a_write_that_has_begun(slots: FilesSlots, monkeypatch: pytest.MonkeyPatch) -> None:
    target = slots.open_target(firmware("1.0.0"))
    writing, closed = threading.Event(), threading.Event()
    real_pwrite, real_close, descriptor = os.pwrite, os.close, target._descriptor
    closed_meanwhile: list[bool] = []

    def slow_pwrite(written: int, data: memoryview, offset: int) -> int:
        writing.set()
        closed_meanwhile.append(closed.wait(0.3))
        return real_pwrite(written, data, offset)

    def close(released: int) -> None:
        if released == descriptor:
            closed.set()
        real_close(released)

    monkeypatch.setattr(os, "pwrite", slow_pwrite)
    monkeypatch.setattr(os, "close", close)
    writer = threading.Thread(target=target.write, args=(0, b"abc"))
    writer.start()
    assert writing.wait(10.0)
    target.close()
    writer.join()
    assert closed_meanwhile == [False]
    assert closed.is_set()


def test_a_failed_sync_is_never_believed_again(slots: FilesSlots, monkeypatch: pytest.MonkeyPatch) -> None:
    target = slots.open_target(firmware("1.0.0"))
    target.write(0, image("1.0.0"))

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(SlotError) as first:
            target.sync()
    with pytest.raises(SlotError) as second:
        target.sync()
    with pytest.raises(SlotError):
        target.digest()
    assert first.value.reason is second.value.reason is Reason.STORAGE_FAILED
    target.close()


def test_a_progress_callback_may_stop_the_hashing(slots: FilesSlots) -> None:
    target = slots.open_target(firmware("1.0.0"))

    def stop(_done: int, _total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        target.digest(stop)
    target.close()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory on a disk, where those of tests may be in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="fleetlift-test-") as name:
        yield Path(name) / "components" / COMPONENT


def test_hashing_reads_the_disk_and_not_the_page_cache(on_disk: Path) -> None:
    """The kernel counts what a process has read from the block device (`read_bytes` of /proc/self/io)."""
    slots, directory, content = FilesSlots(on_disk, COMPONENT), on_disk, image("1.0.0", 8 * 2**20)
    target = slots.open_target(firmware("1.0.0", content))
    target.write(0, content)
    target.sync()

    def read_bytes() -> int:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(": ") for line in lines)["read_bytes"])

    before = read_bytes()
    (directory / "target").read_bytes()
    if os.major(directory.stat().st_dev) == 0 or read_bytes() != before:
        pytest.skip("/var/tmp lies on no block device, or is not cached: there is nothing to tell apart")
    target.digest()
    assert read_bytes() - before >= len(content)
    target.close()
