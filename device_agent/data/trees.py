"""Copies and removes directories durably: a copy that has its name is whole, and has every byte on the disk.

1. Bytes are durable before the name of the directory that holds them is; nothing is read through a symbolic link.
2. Owners, modes, times, extended attributes, links (hard ones too) and holes are copied; sockets and devices are not:
   they are nothing without the process, or the device, that made them.
3. Where the file system shares blocks between files (FICLONE: btrfs, XFS), no byte is copied.
4. A file that changes while it is copied fails the copy: somebody writes who should not.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from device_agent.slots import durable
from protocol.errors import FleetliftError

FICLONE: Final = 0x40049409
"""ioctl_ficlone(2)."""
_BLOCK_BYTES: Final = 1024 * 1024
_HOLE: Final = bytes(_BLOCK_BYTES)
_LOG = logging.getLogger(__name__)


class TreeError(FleetliftError):
    """A directory that cannot be copied as it is; nothing was changed."""


def copy_tree(source: Path, destination: Path) -> None:
    """Make `destination` a durable copy of a directory, old or new and nothing between; it must not be there.

    What an earlier call left half-done beside it is removed. Raises OSError, TreeError.
    """
    making = destination.with_name(destination.name + ".new")
    remove_tree(making)
    _copy_directory(source, making, {}, source.lstat().st_dev)
    durable.move(making, destination)


def remove_tree(path: Path) -> None:
    """Remove a directory, and whatever else has the name; also if it is gone already."""
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(path.lstat().st_mode):
        path.chmod(durable.DIRECTORY_MODE)
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                Path(entry.path).unlink()
        path.rmdir()
    else:
        path.unlink()


def size_of(path: Path) -> int:
    """Return the bytes that a directory takes on the disk."""
    return sum(there.st_blocks * 512 for there in _stats(path))


def _stats(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            yield from _stats(Path(entry.path))
        else:
            yield entry.stat(follow_symlinks=False)


def _copy_directory(source: Path, destination: Path, copied: dict[tuple[int, int], Path], device: int) -> None:
    """Copy one directory; `copied` are the files with several names so far, `device` the file system of all of it."""
    destination.mkdir(durable.DIRECTORY_MODE)
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        path, there = Path(entry.path), entry.stat(follow_symlinks=False)
        beside, kind = destination / entry.name, stat.S_IFMT(there.st_mode)
        if there.st_dev != device:
            raise TreeError(f"{path} is another file system: data is kept on one")
        first = copied.get((there.st_dev, there.st_ino))
        if kind == stat.S_IFDIR:
            _copy_directory(path, beside, copied, device)
        elif first is not None:
            os.link(first, beside, follow_symlinks=False)
        elif kind in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
            _copy_entry(path, beside, kind)
            if there.st_nlink > 1:
                copied[there.st_dev, there.st_ino] = beside
        else:
            _LOG.info("%s is no file of its own, and is left out", path)
    _copy_status(source, destination)
    durable.sync_directory(destination)


def _copy_entry(source: Path, destination: Path, kind: int) -> None:
    if kind == stat.S_IFLNK:
        destination.symlink_to(source.readlink())
        _copy_status(source, destination)
    elif kind == stat.S_IFIFO:
        os.mkfifo(destination)
        _copy_status(source, destination)
    else:
        _copy_file(source, destination)


def _copy_file(source: Path, destination: Path) -> None:
    reader = durable.open_file(source)
    try:
        before = os.fstat(reader)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(destination, flags, durable.FILE_MODE)
        try:
            if not _clone(reader, writer):
                _copy_bytes(reader, writer, before.st_size)
            after = os.fstat(reader)
            if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
                raise TreeError(f"{source} was written while it was copied: something still works on the data")
            _copy_status(source, destination)
            os.fsync(writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_bytes(reader: int, writer: int, size_bytes: int) -> None:
    os.ftruncate(writer, size_bytes)
    done = 0
    while block := os.pread(reader, _BLOCK_BYTES, done):
        if block != _HOLE[: len(block)]:
            durable.write_all(writer, block, done)
        done += len(block)


def _clone(reader: int, writer: int) -> bool:
    """Have the copy share the blocks of the file, if the file system can; tell whether it does."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(writer, FICLONE, reader)
        return True
    return False


def _copy_status(source: Path, destination: Path) -> None:
    """Copy owner, mode, times and extended attributes, as far as this user may."""
    there, own = source.lstat(), destination.lstat()
    if (there.st_uid, there.st_gid) != (own.st_uid, own.st_gid):
        os.chown(destination, there.st_uid, there.st_gid, follow_symlinks=False)
    shutil.copystat(source, destination, follow_symlinks=False)
