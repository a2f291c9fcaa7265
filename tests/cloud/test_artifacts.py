"""Blobs are stored whole or not at all, whatever comes, and read back chunk by chunk as signed metadata names them."""

import hashlib
import itertools
import os
import random
import resource
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.artifacts import (
    ArtifactError,
    Artifacts,
    BlobTooLargeError,
    DigestMismatchError,
    StorageError,
)
from protocol.chunks import CHUNK_BYTES, DIGESTS_PER_CHUNK, BlobRef, ChunkList, chunk_count, describe
from protocol.errors import IdentityError

LIMIT = 256 * 1024 * 1024
SIZES = [1, 31, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 1_000_003]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


def blocks(data: bytes, seed: int = 0) -> Iterator[bytes]:
    """The same bytes, cut at random places, as a network brings them."""
    chance = random.Random(seed)
    position = 0
    while position < len(data):
        step = chance.choice([1, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
        yield data[position : position + step]
        position += step


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def artifacts(directory: Path) -> Iterator[Artifacts]:
    artifacts = Artifacts(directory)
    yield artifacts
    artifacts.close()


def fetch(artifacts: Artifacts, ref: BlobRef) -> bytes:
    """The blob as a device gets it: the top list first, every chunk checked against the list that was signed."""
    sizes = [ref.size_bytes]
    for _ in ref.lists:
        sizes.append(chunk_count(sizes[-1]) * 32)
    known = artifacts.read_chunk(ref.lists[-1], 0)
    assert known is not None
    levels = list(zip((ref.digest, *ref.lists[:-1]), ref.lists, sizes[:-1], strict=True))
    for digest, list_digest, size_bytes in reversed(levels):
        chunks = ChunkList.trust(known, list_digest, size_bytes)
        got = bytearray()
        for index in range(chunk_count(size_bytes)):
            data = artifacts.read_chunk(digest, index)
            assert data is not None
            assert chunks.verify(index, data) == len(got)
            got += data
        assert artifacts.read_chunk(digest, chunk_count(size_bytes)) is None
        known = bytes(got)
    return known


@pytest.mark.parametrize("size", SIZES)
def test_what_was_received_is_what_a_device_fetches(artifacts: Artifacts, size: int) -> None:
    data = content(size)
    ref = artifacts.receive(blocks(data), digest_of(data), LIMIT)
    assert ref == describe([data])[0] == artifacts.find(digest_of(data))
    assert fetch(artifacts, ref) == data
    assert artifacts.chunk_count(ref.digest) == ref.chunk_count
    assert artifacts.size(ref.lists[0]) == 32 * ref.chunk_count


def test_a_list_that_outgrows_a_chunk_has_a_list_of_its_own(artifacts: Artifacts) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(DIGESTS_PER_CHUNK // 16):
            yield bytes(16 * CHUNK_BYTES)
        yield b"end"

    expected, lists = describe(stream())
    assert artifacts.receive(stream(), expected.digest, LIMIT) == expected
    assert [artifacts.size(digest) for digest in expected.lists] == [CHUNK_BYTES + 32, 64]
    assert artifacts.read_chunk(expected.digest, expected.chunk_count - 1) == b"end"
    parts = [artifacts.read_chunk(expected.lists[0], index) or b"" for index in range(2)]
    assert (b"".join(parts), artifacts.read_chunk(expected.lists[1], 0)) == lists


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 2 * CHUNK_BYTES + 5), min_size=1, max_size=6))
def test_how_the_bytes_are_cut_on_the_way_does_not_matter(steps: list[int]) -> None:
    data = content(sum(steps))
    expected, lists = describe([data])
    with tempfile.TemporaryDirectory() as directory:
        with Artifacts(Path(directory)).incoming(expected.digest, LIMIT) as incoming:
            for end, step in zip(itertools.accumulate(steps), steps, strict=True):
                incoming.write(memoryview(data)[end - step : end])
            assert incoming.finish() == expected
        stored = {path.name: path.read_bytes() for path in Path(directory).iterdir() if len(path.name) == 64}
    assert stored == {expected.digest: data, **dict(zip(expected.lists, lists, strict=True))}


def test_receiving_again_reads_nothing_and_answers_the_same(artifacts: Artifacts) -> None:
    data = content(200_000)
    first = artifacts.receive(blocks(data), digest_of(data), LIMIT)

    def must_not_be_read() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    assert artifacts.receive(must_not_be_read(), digest_of(data), LIMIT) == first


@pytest.mark.parametrize(
    ("sent", "limit", "error"),
    [
        (content(100_000)[:-1], LIMIT, DigestMismatchError),
        (content(100_000) + b"x", LIMIT, DigestMismatchError),
        (b"", LIMIT, DigestMismatchError),
        (content(100_000), 99_999, BlobTooLargeError),
    ],
)
def test_what_is_not_the_announced_blob_leaves_nothing(
    artifacts: Artifacts, directory: Path, sent: bytes, limit: int, error: type[ArtifactError]
) -> None:
    digest = digest_of(sent if not sent else content(100_000))
    with pytest.raises(error, match="nothing was stored"):
        artifacts.receive(blocks(sent), digest, limit)
    assert list(directory.iterdir()) == []
    assert not artifacts.has(digest)
    good = content(100_000)
    assert artifacts.receive(blocks(good), digest_of(good), 100_000).digest == digest_of(good)


def test_an_upload_that_breaks_off_leaves_nothing(artifacts: Artifacts, directory: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield content(100_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        artifacts.receive(broken(), "ab" * 32, LIMIT)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("allowed", [50_000, 0])
def test_a_full_disk_leaves_nothing_and_says_so(artifacts: Artifacts, directory: Path, allowed: int) -> None:
    """The kernel refuses to let files grow (RLIMIT_FSIZE), which is the nearest to a full disk without mounting one."""
    data = content(100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, hard))
    try:
        with pytest.raises(StorageError, match=r"File too large.*free some space, then send it again"):
            artifacts.receive(blocks(data), digest_of(data), LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(directory.iterdir()) == []
    assert artifacts.receive(blocks(data), digest_of(data), LIMIT).size_bytes == 100_000


def test_a_disk_that_fails_at_the_very_end_stores_no_blob(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls = content(100_000), 0

    def fails_later(_descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_later)
        with pytest.raises(StorageError, match="No space left"):
            artifacts.receive(blocks(data), digest_of(data), LIMIT)
    assert not artifacts.has(digest_of(data))
    assert artifacts.find(digest_of(data)) is None
    ref = artifacts.receive(blocks(data), digest_of(data), LIMIT)
    assert fetch(artifacts, ref) == data


def test_many_uploads_of_one_blob_at_once_all_succeed(artifacts: Artifacts, directory: Path) -> None:
    data = content(3_000_000)
    together = threading.Barrier(8)
    refs: list[BlobRef] = []

    def upload(seed: int) -> None:
        with artifacts.incoming(digest_of(data), LIMIT) as incoming:
            together.wait(10)
            for block in blocks(data, seed):
                incoming.write(block)
            refs.append(incoming.finish())

    threads = [threading.Thread(target=upload, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refs == [describe([data])[0]] * 8
    assert len(list(directory.iterdir())) == 3
    assert fetch(artifacts, refs[0]) == data


def test_what_is_not_here_is_none_and_what_is_no_digest_is_refused(artifacts: Artifacts, directory: Path) -> None:
    (directory.parent / "secret").write_bytes(b"secret")
    digest = "ab" * 32
    assert artifacts.read_chunk(digest, 0) is None
    assert artifacts.size(digest) is artifacts.chunk_count(digest) is None
    assert artifacts.find(digest) is None
    assert not artifacts.has(digest)
    for name in ("../secret", "", ".", "AB" * 32, "ab" * 31, f"{digest}.lists", "/etc/passwd"):
        for ask in (artifacts.has, artifacts.find, artifacts.size, artifacts.chunk_count, artifacts.discard):
            with pytest.raises(IdentityError):
                ask(name)
        with pytest.raises(IdentityError):
            artifacts.read_chunk(name, 0)
        with pytest.raises(IdentityError):
            artifacts.receive(iter([b"x"]), name, LIMIT)


@pytest.mark.parametrize("index", [-1, 2, 2**40])
def test_an_index_beyond_the_blob_is_none(artifacts: Artifacts, index: int) -> None:
    data = content(CHUNK_BYTES + 1)
    artifacts.receive(iter([data]), digest_of(data), LIMIT)
    assert artifacts.read_chunk(digest_of(data), 1) == data[-1:]
    assert artifacts.read_chunk(digest_of(data), index) is None


def test_few_files_are_open_however_many_are_read(directory: Path) -> None:
    artifacts = Artifacts(directory, max_open_files=3)
    datas = [content(1000, seed) for seed in range(10)]
    for data in datas:
        artifacts.receive(iter([data]), digest_of(data), LIMIT)
    before = open_files()
    for _ in range(2):
        assert [artifacts.read_chunk(digest_of(data), 0) for data in datas] == datas
    assert open_files() == before + 3
    artifacts.close()
    assert open_files() == before
    assert artifacts.read_chunk(digest_of(datas[0]), 0) == datas[0]
    artifacts.close()


def test_damage_is_found_and_a_discarded_blob_can_come_again(artifacts: Artifacts, directory: Path) -> None:
    good, bad = content(100_000, 1), content(100_000, 2)
    for data in (good, bad):
        artifacts.receive(iter([data]), digest_of(data), LIMIT)
    assert artifacts.damaged() == ()
    path = directory / digest_of(bad)
    path.write_bytes(bad[:-1] + b"!")
    assert artifacts.damaged() == (digest_of(bad),)
    artifacts.discard(digest_of(bad))
    artifacts.discard(digest_of(bad))
    assert artifacts.read_chunk(digest_of(bad), 0) is None
    assert fetch(artifacts, artifacts.receive(iter([bad]), digest_of(bad), LIMIT)) == bad


def test_a_file_that_was_cut_short_is_an_error_and_not_a_short_chunk(artifacts: Artifacts, directory: Path) -> None:
    data = content(100_000)
    artifacts.receive(iter([data]), digest_of(data), LIMIT)
    assert artifacts.read_chunk(digest_of(data), 1) == data[CHUNK_BYTES:]
    os.truncate(directory / digest_of(data), 99_999)
    with pytest.raises(StorageError, match="shorter"):
        artifacts.read_chunk(digest_of(data), 1)


def test_what_a_crash_left_is_removed_at_the_next_start_and_files_are_private(directory: Path) -> None:
    artifacts = Artifacts(directory)
    data = content(100_000)
    crashed = artifacts.incoming("ab" * 32, LIMIT)  # neither finished nor left: the process dies here
    crashed.write(data)
    artifacts.receive(iter([data]), digest_of(data), LIMIT)
    assert len(list(directory.iterdir())) == 4
    again = Artifacts(directory)
    assert sorted(again.digests()) == sorted([digest_of(data), *describe([data])[0].lists])
    assert len(list(directory.iterdir())) == 3
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert (modes, stat.S_IMODE(directory.stat().st_mode)) == ({0o600}, 0o700)
    crashed._file.close()


def test_everything_is_on_the_disk_before_the_name_is_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the blob appears under its name, its bytes and all beside it have been synced (`kill -9` tests no fsync)."""
    synced: list[int] = []
    seen: list[bool] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def rename(self: Path, target: Path) -> Path:
        seen.append(self.stat().st_ino in synced)
        if target.name == digest:
            others = [path for path in directory.iterdir() if not path.name.startswith(".")]
            assert len(others) == 2
            assert {path.stat().st_ino for path in others} <= set(synced)
            synced.clear()
        return replace(self, target)

    data = content(100_000)
    digest = digest_of(data)
    artifacts = Artifacts(directory)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    synced.clear()
    artifacts.receive(iter([data]), digest, LIMIT)
    assert seen == [True] * 3
    assert synced == [directory.stat().st_ino], "the name itself is not on the disk"
