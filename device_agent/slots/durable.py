"""The only place from which the slots change the disk: each call is whole and durable when it returns.

1. A file's bytes are made durable before a name leads to them; then the directory that holds the name is.
2. A file that has a name is never rewritten: a new one is renamed over it, so a reader finds the old or the new.
3. A call that was cut off is simply made again: it clears its own leftovers, and makes durable what it finds done.
4. No symbolic link is followed at the end of a path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
READ_BYTES: Final = 1024 * 1024
READ_BACK_BYTES: Final = 256 * 1024
READ_AHEAD_BYTES: Final = 2 * 1024 * 1024
"""What the disk is asked for at a time, while what came before is looked at."""
_NEW: Final = ".new"
_NO_FALLOCATE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a private directory if there is none; raises NotADirectoryError for anything else of that name."""
    try:
        path.mkdir(DIRECTORY_MODE)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory, and links are not followed", str(path)) from None
    sync_directory(path.parent)


def create_file(path: Path, size_bytes: int) -> int:
    """Return a descriptor of a new file of `size_bytes` zeros, its space reserved; replaces what has the name.

    Raises OSError (ENOSPC, EDQUOT, EFBIG) before anything is written if there is not that much space.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        _reserve(descriptor, size_bytes)
        os.fsync(descriptor)
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _reserve(descriptor: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        # This file system cannot reserve. What it says is free may be gone later: then a write fails, and nothing else.
        if size_bytes > free_bytes(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        os.ftruncate(descriptor, size_bytes)


def free_bytes(where: Path | int) -> int:
    """Return the space that is free for us on the file system of a path or descriptor."""
    there = os.statvfs(where)
    return there.f_bavail * there.f_frsize


def open_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file; raises OSError for anything else of that name, links too."""
    # O_NONBLOCK: a fifo planted under the name must not keep us waiting for its writer.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_file(path: Path, max_bytes: int) -> bytes | None:
    """Return a small regular file's bytes, or None if there is none that can be read, or it is larger."""
    try:
        descriptor = open_file(path)
    except OSError:
        return None
    try:
        content = os.pread(descriptor, max_bytes + 1, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content if len(content) <= max_bytes else None


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_file(path: Path, content: bytes) -> None:
    """Make `content` the file's, old or new and nothing between."""
    replacement = path.with_name(path.name + _NEW)
    replacement.unlink(missing_ok=True)
    descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    move(replacement, path)


def write_link(path: Path, text: str) -> None:
    """Make `path` a symbolic link to `text`, old or new and nothing between."""
    replacement = path.with_name(path.name + _NEW)
    replacement.unlink(missing_ok=True)
    replacement.symlink_to(text)
    move(replacement, path)


def copy_file(source: Path, destination: Path, mode: int) -> None:
    """Make `destination` a copy of a regular file, old or new and nothing between."""
    replacement = destination.with_name(destination.name + _NEW)
    reader = open_file(source)
    try:
        writer = create_file(replacement, os.fstat(reader).st_size)
        try:
            done = 0
            while block := os.pread(reader, READ_BYTES, done):
                write_all(writer, block, done)
                done += len(block)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    seal_file(replacement, mode)
    move(replacement, destination)


def seal_file(path: Path, mode: int) -> None:
    """Give a regular file its last mode, and make it durable with its bytes."""
    descriptor = open_file(path)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, destination: Path) -> None:
    """Rename, over what has the name; both directories are durable, the new name first."""
    source.rename(destination)
    sync_directory(destination.parent)
    if source.parent != destination.parent:
        sync_directory(source.parent)


def remove(path: Path) -> None:
    """Remove a name, also if it is gone already."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def read_back(descriptor: int, begin: int, end: int) -> Iterator[memoryview]:
    """Yield a durable part of a file as the disk has it, in blocks of READ_BACK_BYTES; each is good until the next.

    It leaves the page cache before it is read, so that the disk is read and not what was meant for it; and after it,
    for whoever starts it reads the disk again. The disk is always one READ_AHEAD_BYTES ahead.
    """
    view = memoryview(bytearray(READ_BACK_BYTES))
    _read_ahead(descriptor, begin, end)
    while begin < end:
        after = min(begin + READ_AHEAD_BYTES, end)
        _read_ahead(descriptor, after, end)
        first = begin
        while begin < after and (count := os.preadv(descriptor, [view[: after - begin]], begin)):
            yield view[:count]
            begin += count
        if begin < after:
            return  # the file ends here
        os.posix_fadvise(descriptor, first, after - first, os.POSIX_FADV_DONTNEED)


def _read_ahead(descriptor: int, begin: int, end: int) -> None:
    length = min(READ_AHEAD_BYTES, end - begin)
    if length > 0:
        os.posix_fadvise(descriptor, begin, length, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, begin, length, os.POSIX_FADV_WILLNEED)


def digest_of(descriptor: int, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 (hexadecimal) of a whole file as the disk has it, in flat memory.

    What is durable leaves the page cache first, so that the disk is read and not what was meant for it.
    """
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    total, done, whole = os.fstat(descriptor).st_size, 0, hashlib.sha256()
    view = memoryview(bytearray(READ_BYTES))
    while count := os.preadv(descriptor, [view], done):
        whole.update(view[:count])
        done += count
        if progress is not None:
            progress(done, total)
    return whole.hexdigest()


def digest_file(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 (hexadecimal) of a regular file as the disk has it; raises OSError."""
    descriptor = open_file(path)
    try:
        return digest_of(descriptor, progress)
    finally:
        os.close(descriptor)
