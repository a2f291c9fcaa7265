"""Standard output and error that somebody may stop reading, as `| head` does: what was agreed to is done all the same.

Python raises BrokenPipeError then, in the middle of whatever was about to be said. Here the rest of what is said goes
nowhere, and the command ends as it would have ended.
"""

import io
import os
import sys
from typing import Any, TextIO


class _Unread(io.FileIO):
    """A file descriptor whose reader may go away."""

    def write(self, data: Any, /) -> int:
        """Write, or let it be when nobody reads any more."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let this process go on when nobody reads its standard output or error any more; once, at its start.

    One that was closed from the beginning (`>&-`) is like one that nobody reads.
    """
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _outliving(sys.stdout)
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _outliving(sys.stderr)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as this process lives


def _outliving(stream: io.TextIOWrapper) -> TextIO:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
