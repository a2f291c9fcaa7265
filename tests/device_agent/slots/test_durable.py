"""The calls that change the disk: whole, durable when they return, and never through a link."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from device_agent.slots import durable
from tests.device_agent.slots import scenarios
from tests.device_agent.slots.disk import Disk, Model, parse
from tests.device_agent.slots.tracing import trace


def test_each_call_is_durable_when_it_returns(tmp_path: Path) -> None:
    """Even on the strictest disk, one thing only can be found after it: what it was to do."""
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = Disk(directory, Model.STRICT)
    found = []
    for call in parse(trace(scenarios.durable_calls.__name__, directory)):
        if call.name == "write" and call.arguments[1] == b"mark done":
            (tree,) = disk.crashes()
            found.append(tree)
        else:
            disk.replay(call)
    space = {"made": None, "file": b"new", "link": "new", "space": bytes(10_000)}
    assert [dict(tree) for tree in found] == [
        {"made": None},
        {"made": None, "file": b"old"},
        {"made": None, "file": b"new"},
        {"made": None, "file": b"new", "link": "old"},
        {"made": None, "file": b"new", "link": "new"},
        space,
        {**space, "made/copy": b"new"},
        {**space, "copy": b"new"},
        space,
    ]


def test_leftovers_of_an_interrupted_call_are_cleared(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("file", "link", "copy"):
        (tmp_path / f"{name}.new").symlink_to(victim)
    durable.write_file(tmp_path / "file", b"content")
    durable.write_link(tmp_path / "link", "text")
    durable.copy_file(victim, tmp_path / "copy", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "file", "link", "victim"]
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"content"
    assert (tmp_path / "copy").read_bytes() == b"precious"


@pytest.mark.parametrize("planted", ["link", "dangling", "fifo", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, planted: str) -> None:
    (tmp_path / "there").write_bytes(b"secret")
    path = tmp_path / "planted"
    if planted == "fifo":
        os.mkfifo(path)
    elif planted == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("there" if planted == "link" else "nothing"))
    with pytest.raises(OSError, match=r".+"):
        durable.open_file(path)
    with pytest.raises(OSError, match=r".+"):
        durable.digest_file(path)
    assert durable.read_file(path, 100) is None


def test_directories_are_private_and_no_links(tmp_path: Path) -> None:
    durable.make_directory(tmp_path / "made")
    durable.make_directory(tmp_path / "made")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "made")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(NotADirectoryError):
            durable.make_directory(tmp_path / name)


def test_a_file_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space"):
        durable.create_file(tmp_path / "file", 100)
    assert list(tmp_path.iterdir()) == []


def test_small_files_are_read_to_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert durable.read_file(path, 5) == b"12345"
    assert durable.read_file(path, 4) is None
    assert durable.read_file(tmp_path / "nothing", 5) is None


def test_hashing_is_flat_in_memory_and_tells_how_far_it_is(tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (durable.READ_BYTES // 16) * 3 + b"end"
    path = tmp_path / "file"
    path.write_bytes(content)
    told: list[tuple[int, int]] = []
    assert (
        durable.digest_file(path, lambda done, total: told.append((done, total))) == hashlib.sha256(content).hexdigest()
    )
    assert told == [(min(len(content), count * durable.READ_BYTES), len(content)) for count in (1, 2, 3, 4)]
