"""Copies of directories: all that a program could miss is in them, and nothing that is half-done has the name."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from device_agent.data import trees
from device_agent.data.trees import TreeError, copy_tree, remove_tree, size_of
from device_agent.slots import durable


def test_a_copy_has_everything(tmp_path: Path) -> None:
    source = tmp_path / "data"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty").mkdir(mode=0o500)
    (source / "file").write_bytes(b"content")
    (source / "file").chmod(0o640)
    os.utime(source / "file", ns=(1_000_000_001, 2_000_000_003))
    os.link(source / "file", source / "deep" / "same")
    (source / "link").symlink_to("../elsewhere")
    os.mkfifo(source / "pipe")
    with (source / "deep" / "er" / "sparse").open("wb") as sparse:
        sparse.truncate(8 * 1024 * 1024)
        sparse.seek(5 * 1024 * 1024)
        sparse.write(b"island")
    os.utime(source, ns=(3, 4))
    copy_tree(source, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert {path.relative_to(copy) for path in copy.rglob("*")} == {
        path.relative_to(source) for path in source.rglob("*")
    }
    for path in [source, *source.rglob("*")]:
        there, here = path.lstat(), (copy / path.relative_to(source)).lstat()
        assert (there.st_mode, there.st_mtime_ns, there.st_size if stat.S_ISREG(there.st_mode) else 0) == (
            here.st_mode,
            here.st_mtime_ns,
            here.st_size if stat.S_ISREG(here.st_mode) else 0,
        ), path
    assert (copy / "file").read_bytes() == b"content"
    assert (copy / "file").samefile(copy / "deep" / "same")
    assert not (copy / "file").samefile(source / "file")
    assert (copy / "link").readlink() == Path("../elsewhere")
    sparse_copy = copy / "deep" / "er" / "sparse"
    assert sparse_copy.read_bytes() == (source / "deep" / "er" / "sparse").read_bytes()
    assert sparse_copy.stat().st_blocks * 512 < 4 * 1024 * 1024
    assert size_of(copy) < 4 * 1024 * 1024
    remove_tree(source)
    assert not source.exists()
    remove_tree(source)


def test_sockets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "data" / "socket"))
        copy_tree(tmp_path / "data", tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_fails_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"content")
    real = trees._copy_bytes

    def copied_and_written(reader: int, writer: int, size_bytes: int) -> None:
        real(reader, writer, size_bytes)
        with (tmp_path / "data" / "file").open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(trees, "_clone", lambda _reader, _writer: False)
    monkeypatch.setattr(trees, "_copy_bytes", copied_and_written)
    with pytest.raises(TreeError, match="was written while it was copied"):
        copy_tree(tmp_path / "data", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_was_cut_off_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"content")
    with monkeypatch.context() as patched:
        patched.setattr(durable, "move", lambda _source, _destination: _full())
        with pytest.raises(OSError, match="full"):
            copy_tree(tmp_path / "data", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    copy_tree(tmp_path / "data", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]


def _full() -> None:
    raise OSError(errno.ENOSPC, "full")
