"""Reading back while the rest still comes: each byte once, from the disk, and never what is not durable."""

import errno
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_agent.slots import durable
from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import SlotError
from device_agent.slots.target import FileTarget
from protocol.phases import Reason
from tests.device_agent.slots.firmware import firmware, image
from tests.support.processes import wait_until

MIB = 2**20
CONTENT = image("1.0.0", 6 * MIB + 5)
HALF = 3 * MIB
WANTED = firmware("1.0.0", CONTENT)


class Reads:
    """What is read of the disk by `preadv`; it may be made to fail, or to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spans: list[tuple[int, int]] = []
        self.failing = False
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.let_go.set()
        self._real = os.preadv
        monkeypatch.setattr(os, "preadv", self._preadv)

    def _preadv(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.begun.set()
        assert self.let_go.wait(10.0)
        if self.failing:
            raise OSError(errno.EIO, "input/output error")
        count = self._real(descriptor, buffers, offset)
        self.spans.append((offset, count))
        return count


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def half_there(slots: FilesSlots) -> FileTarget:
    target = slots.open_target(WANTED)
    target.write(0, CONTENT[:HALF])
    target.sync()
    return target


def wait_for_half(target: FileTarget) -> None:
    wait_until(lambda: target._reading._hashed_bytes == HALF, what="the first half read back")


def test_what_is_durable_is_read_back_while_the_rest_comes_and_not_again(slots: FilesSlots, reads: Reads) -> None:
    target = half_there(slots)
    target.read_back(HALF)
    target.read_back(HALF - 1)
    wait_for_half(target)
    assert sum(count for _, count in reads.spans) == HALF
    target.write(HALF, CONTENT[HALF:])
    told: list[tuple[int, int]] = []
    assert target.digest(lambda done, total: told.append((done, total))) == WANTED.digest
    assert sum(count for _, count in reads.spans) == len(CONTENT)
    assert [offset for offset, _ in reads.spans] == sorted(offset for offset, _ in reads.spans)
    assert (told[0][0] > HALF, told[-1]) == (True, (len(CONTENT), len(CONTENT)))
    target.close()
    slots.stage(WANTED)
    assert sum(count for _, count in reads.spans) == len(CONTENT), "it is known as it was hashed"


def test_a_digest_that_was_told_is_not_remembered(slots: FilesSlots, directory: Path) -> None:
    target = half_there(slots)
    target.write(HALF, CONTENT[HALF:])
    target.sync()
    target.read_back(len(CONTENT))
    assert target.digest() == WANTED.digest
    with (directory / "target").open("r+b") as behind_its_back:
        behind_its_back.write(b"?")
    assert target.digest() == hashlib.sha256(b"?" + CONTENT[1:]).hexdigest()
    target.close()


def test_what_is_written_again_counts_as_it_is_then(slots: FilesSlots) -> None:
    target = half_there(slots)
    target.read_back(HALF)
    wait_for_half(target)
    target.write(5, b"again")
    target.read_back(len(CONTENT))  # said too late: nothing is read ahead of it any more
    target.write(HALF, CONTENT[HALF:])
    assert target.digest() == hashlib.sha256(CONTENT[:5] + b"again" + CONTENT[10:]).hexdigest()
    target.close()


def test_a_disk_that_fails_in_the_background_is_heard_in_the_end(slots: FilesSlots, reads: Reads) -> None:
    target = half_there(slots)
    reads.failing = True
    target.read_back(HALF)
    assert reads.begun.wait(10.0)
    target.write(HALF, CONTENT[HALF:])
    with pytest.raises(SlotError) as failed:
        target.digest()
    assert failed.value.reason is Reason.STORAGE_FAILED
    reads.failing = False
    assert target.digest() == WANTED.digest
    target.close()


def test_a_disk_that_failed_once_in_the_background_is_read_from_the_beginning(slots: FilesSlots, reads: Reads) -> None:
    target = half_there(slots)
    target.read_back(MIB)
    wait_until(lambda: target._reading._hashed_bytes == MIB, what="the first mebibyte read back")
    reads.failing = True
    target.read_back(HALF)
    thread = target._reading._thread
    assert thread is not None
    thread.join(10.0)
    reads.failing = False
    target.write(HALF, CONTENT[HALF:])
    assert target.digest() == WANTED.digest
    target.close()


def test_closing_waits_for_what_is_being_read_and_leaves_nobody_behind(slots: FilesSlots, reads: Reads) -> None:
    target = half_there(slots)
    descriptor = target._descriptor
    reads.let_go.clear()
    target.read_back(HALF)
    assert reads.begun.wait(10.0)
    closing = threading.Thread(target=target.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive(), "the descriptor's number would be another file's"
    reads.let_go.set()
    closing.join(10.0)
    assert "readback" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    target.read_back(len(CONTENT))
    assert "readback" not in {thread.name for thread in threading.enumerate()}


def test_a_part_is_read_from_the_disk_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(2 * durable.READ_AHEAD_BYTES + 12_345)
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    for begin, end in (
        (0, len(content)),
        (65536, 65536 + 5),
        (7, 7),
        (durable.READ_AHEAD_BYTES - 1, len(content) + 99),
    ):
        blocks = [bytes(block) for block in durable.read_back(descriptor, begin, end)]
        assert b"".join(blocks) == content[begin:end]
        assert all(len(block) <= durable.READ_BACK_BYTES for block in blocks)
    os.close(descriptor)
