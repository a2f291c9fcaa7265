"""The device's half of a download, for tests: a real link, a real file and a real journal around a `Download`.

Run as a program (`python -m tests.support.downloading`, see `arguments_of`) it is the process that a test kills.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from device_agent.download import Download, DownloadSettings, Target
from device_agent.journal import Journal
from device_agent.link import Link, LinkSettings
from device_agent.slots.target import FileTarget
from protocol.chunks import BlobRef
from protocol.phases import Reason
from protocol.topics import ChunkTopic, Topics

TOPICS = Topics()
WAIT_S = 60.0


class Clock:
    """A clock that stands still until somebody moves it: without it nothing is ever late."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def open_target(path: Path, size_bytes: int) -> FileTarget:
    kept = path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, size_bytes)
    return FileTarget(descriptor, size_bytes, kept=kept)


class Downloader:
    """A device that does nothing but to fetch one blob into `directory/image`."""

    def __init__(
        self,
        port: int,
        directory: Path,
        blob: BlobRef,
        *,
        device_id: str = "dev-1",
        target: Target | None = None,
        settings: DownloadSettings | None = None,
        on_durable: Callable[[int], None] = lambda _durable_bytes: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.blob = blob
        self.journal = Journal(directory / "journal.db", time.time)
        self.target = target or open_target(directory / "image", blob.size_bytes)
        self.finished = threading.Event()
        self.failure: tuple[Reason, str] | None = None
        self.progress: list[int] = []
        self.bad: list[str] = []
        self.up = threading.Event()
        self.taken = 0
        self._subscribed = False
        self.link = Link(
            LinkSettings(
                url=f"mqtt://127.0.0.1:{port}",
                device_id=device_id,
                backoff_min_s=0.05,
                backoff_max_s=0.2,
                version_timeout_s=0.5,
            ),
            TOPICS,
            will=lambda: b"{}",
            on_up=self._on_up,
            on_down=lambda _why: self.download.pause(),
            on_message=self._on_message,
        )
        self.link.subscribe({TOPICS.all_down(device_id): 1})
        self.download = Download(
            blob,
            image=blob.digest,
            target=self.target,
            store=self.journal.chunks,
            link=self.link,
            topics=TOPICS,
            device_id=device_id,
            on_done=self.finished.set,
            on_failed=self._on_failed,
            on_progress=lambda done, _all: self.progress.append(done),
            on_bad_chunk=self.bad.append,
            on_durable=on_durable,
            settings=settings,
            now=now,
        )

    def __enter__(self) -> Self:
        self.download.start(paused=True)
        self.link.start()
        assert self.up.wait(WAIT_S), self.link.problem
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.download.close()
        self.link.stop()
        if isinstance(self.target, FileTarget):
            self.target.close()
        self.journal.close()

    def fetch(self) -> None:
        """Wait for the end, which must be a good one."""
        assert self.finished.wait(WAIT_S), (self.download.received_bytes, self.blob.size_bytes)
        assert self.failure is None, self.failure

    def _on_up(self, _present: bool) -> None:
        self.download.resume()
        self.up.set()

    def _on_failed(self, reason: Reason, detail: str) -> None:
        self.failure = (reason, detail)
        self.finished.set()

    def _on_message(self, topic: str, payload: bytes) -> None:
        parsed = TOPICS.parse(topic)
        if isinstance(parsed, ChunkTopic):
            self.taken += self.download.on_chunk(parsed.blob, payload)


def memory_bytes(field: str) -> int:
    """This process's memory by /proc/self/status: `VmRSS` now, `VmHWM` at the highest."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main(port: str, directory: str, blob: str, sync_interval_s: str) -> None:
    """Fetch; say `done` with the memory that it took."""
    fields = json.loads(blob)
    ref = BlobRef(digest=fields["digest"], size_bytes=fields["size_bytes"], lists=tuple(fields["lists"]))
    settings = DownloadSettings(sync_interval_s=float(sync_interval_s))
    with Downloader(int(port), Path(directory), ref, settings=settings) as device:
        before = memory_bytes("VmRSS")
        device.fetch()
        sys.stdout.write(json.dumps({"done": True, "grown_bytes": memory_bytes("VmHWM") - before}) + "\n")


def arguments_of(port: int, directory: Path, blob: BlobRef, sync_interval_s: float = 0.5) -> tuple[str, ...]:
    """The command line of this program."""
    return (
        sys.executable,
        "-m",
        "tests.support.downloading",
        str(port),
        str(directory),
        json.dumps(asdict(blob)),
        str(sync_interval_s),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
