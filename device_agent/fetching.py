"""Fetches one firmware at a time: what the signed metadata says of it, then its chunks, then what the disk says.

1. The signed manifest decides. Whatever made the device want the firmware must say exactly the same of it (a version's
   digest, size, hardware, requirements), or it is not trusted.
2. Floor, hardware and requirements are checked again here, against what was signed.
3. What was received of an image is forgotten before its data is discarded or moved away, never after.
4. Without a link nothing fails: it waits. Without an answer of the cloud it asks again, for ASK_FOR_S. What is not
   trusted is looked up again after the bundle was asked for, for a notice may be faster than its metadata.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from device_agent.components import reason_of
from device_agent.download import Download
from device_agent.download_ports import ChunkLink, ChunkStore, DownloadSettings
from device_agent.driver import Answer
from device_agent.events import Attempt, Downloaded, Event, Failed, Verified
from device_agent.journal_database import JournalError
from device_agent.loop import Loop, Worker
from device_agent.slots.ports import Slots, Target
from device_agent.trust import Distrust, SignedFirmware, TrustError
from device_agent.vetting import vetted
from device_agent.window import received_bytes
from protocol.chunks import BlobRef
from protocol.errors import FleetliftError
from protocol.facts import DeviceFacts
from protocol.manifest import target_path
from protocol.phases import Reason
from protocol.topics import Topics
from protocol.values import FirmwareRef

ASK_AGAIN_S: Final = 10.0
ASK_FOR_S: Final = 600.0
DOUBT_AGAIN_S: Final = 3.0
MAX_DOUBTS: Final = 2
_LOG = logging.getLogger(__name__)


class Trust(Protocol):
    """Looks signed metadata up; blocking."""

    def refresh(self) -> None:
        """Have the newest metadata; raises TrustError."""

    def signed_firmware(self, path: str) -> SignedFirmware:
        """Return what is signed of a target path; raises TrustError."""

    def floors(self) -> Mapping[str, int]:
        """Return the lowest `seq` of each component that may be installed."""


class ImageStore(ChunkStore, Protocol):
    """The chunk store, and how it forgets."""

    def forget(self, image: str) -> None:
        """Forget what was received of an image."""

    def forget_others(self, image: str) -> None:
        """Forget what was received of every other image."""


class Floors(Protocol):
    """Keeps the highest floors, durably."""

    def floors(self) -> Mapping[str, int]:
        """Return them."""

    def raise_floors(self, floors: Mapping[str, int]) -> None:
        """Keep what is higher."""


class FetchLink(ChunkLink, Protocol):
    """The link, as a download sees it."""

    @property
    def is_up(self) -> bool:
        """Whether the broker is connected."""


@dataclass(slots=True)
class _Job:
    """One fetch, from the effect that began it until it is stopped."""

    attempt: Attempt
    facts: DeviceFacts
    slots: Slots
    answer: Answer
    began_s: float
    waiting: bool = True
    doubts: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    download: Download | None = None
    target: Target | None = None


class Fetching:
    """At most one fetch at a time. Its methods are for the loop's thread, but `on_chunk`, which is for the link's.

    `refuse(code)` counts what was refused.
    """

    def __init__(
        self,
        *,
        trust: Trust,
        chunks: ImageStore,
        floors: Floors,
        link: FetchLink,
        topics: Topics,
        product: str,
        loop: Loop,
        worker: Worker,
        settings: DownloadSettings,
        refuse: Callable[[str], None],
        ask_for_bundle: Callable[[], object],
    ) -> None:
        self._trust = trust
        self._chunks = chunks
        self._floors = floors
        self._link = link
        self._topics = topics
        self._product = product
        self._loop = loop
        self._worker = worker
        self._settings = settings
        self._refuse = refuse
        self._ask_for_bundle = ask_for_bundle
        self._job: _Job | None = None
        self._fetched_bytes: dict[str, int] = {}
        self.progress: tuple[int, int] | None = None
        """Verified and durable bytes, and all bytes, of the image that is being fetched."""

    def received_bytes(self, firmware: FirmwareRef) -> int:
        """Return how much of an image is verified and durable."""
        return received_bytes(self._chunks.bitmap(firmware.digest, firmware.digest), firmware.size_bytes)

    def start(self, attempt: Attempt, facts: DeviceFacts, slots: Slots, answer: Answer) -> None:
        """Fetch an image: Downloaded or Failed."""
        self.stop()
        self._job = _Job(attempt, facts, slots, answer, self._loop.monotonic())
        self._begin()

    def stop(self) -> None:
        """Stop fetching; what was verified is kept."""
        job, self._job, self.progress = self._job, None, None
        if job is not None:
            job.cancelled.set()
            self._loop.at("fetch", None, self._begin)
            self._worker.submit(lambda: self._close(job))

    def link_up(self) -> None:
        """Go on."""
        job = self._job
        if job is not None and job.download is not None:
            job.download.resume()
        self._begin()

    def link_down(self) -> None:
        """Wait for the link."""
        if self._job is not None and self._job.download is not None:
            self._job.download.pause()

    def on_chunk(self, blob: str, payload: bytes | memoryview) -> None:
        """Take a chunk from the link."""
        job = self._job
        if job is not None and job.download is not None:
            job.download.on_chunk(blob, payload)

    def verify(self, firmware: FirmwareRef, slots: Slots, answer: Answer) -> None:
        """Hash what is on the disk: Verified or Failed."""
        job, self._job, self.progress = self._job, None, None
        self._worker.submit(lambda: answer(self._verified(firmware, slots, job)))

    def drop(self, firmware: FirmwareRef, slots: Slots) -> None:
        """Forget what was downloaded of an image, and free its space."""

        def drop() -> None:
            try:
                self._chunks.forget(firmware.digest)
                slots.discard()
            except FleetliftError as error:
                _LOG.warning("what was downloaded stays on the disk: %s", error)

        self.stop()
        self._worker.submit(drop)

    def _begin(self) -> None:
        job = self._job
        if job is not None and job.waiting and self._link.is_up:
            job.waiting = False
            self._worker.submit(lambda: self._prepare(job))

    def _prepare(self, job: _Job) -> None:
        if job.cancelled.is_set():
            return
        try:
            blob = self._looked_up(job)
            self._download(job, blob)
        except TrustError as error:
            self._loop.post(lambda doubt=error: self._doubted(job, doubt))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt ends by it and the worker goes on
            job.answer(_failure(error, Reason.STORAGE_FAILED))

    def _doubted(self, job: _Job, doubt: TrustError) -> None:
        if job is not self._job:
            return
        if doubt.code is Distrust.UNREACHABLE:
            again = not self._link.is_up or self._loop.monotonic() - job.began_s <= ASK_FOR_S
            pause_s = ASK_AGAIN_S
        else:
            job.doubts += 1
            if doubt.reason is Reason.UNTRUSTED:
                self._refuse(doubt.code.value)
            again, pause_s = job.doubts <= MAX_DOUBTS and doubt.reason is Reason.UNTRUSTED, DOUBT_AGAIN_S
            self._ask_for_bundle()
        if not again:
            job.answer(Failed(doubt.reason, str(doubt)))
            return
        _LOG.info("%s; looking again in %g s", doubt, pause_s)
        job.waiting = True
        self._loop.after("fetch", pause_s, self._begin)

    def _looked_up(self, job: _Job) -> BlobRef:
        firmware = job.attempt.firmware
        self._trust.refresh()
        path = target_path(self._product, firmware.component, firmware.version)
        signed = self._trust.signed_firmware(path)
        self._floors.raise_floors(self._trust.floors())
        return vetted(firmware, signed, job.facts, self._floors.floors())

    def _download(self, job: _Job, blob: BlobRef) -> None:
        firmware = job.attempt.firmware
        self._chunks.forget_others(firmware.digest)
        target = job.slots.open_target(firmware)
        job.target = target
        if not target.kept:
            self._chunks.forget(firmware.digest)
        download = Download(
            blob,
            image=firmware.digest,
            target=target,
            store=self._chunks,
            link=self._link,
            topics=self._topics,
            device_id=job.facts.device_id,
            on_done=lambda: self._done(job),
            on_failed=lambda reason, detail: job.answer(Failed(reason, detail)),
            on_progress=lambda done, total: self._loop.post(lambda: self._progressed(job, done, total)),
            on_bad_chunk=self._bad_chunk,
            on_durable=target.read_back,
            settings=self._settings,
        )
        job.download = download
        download.start(paused=True)
        self._loop.post(self._go_on)

    def _go_on(self) -> None:
        """Let a download that was made run, if it is still wanted and the link is (still, or again) up."""
        if self._job is not None and self._job.download is not None and self._link.is_up:
            self._job.download.resume()

    def _done(self, job: _Job) -> None:
        fetched = job.download.fetched_bytes if job.download else 0
        job.answer(Downloaded(self._fetched_bytes.pop(job.attempt.attempt_id, 0) + fetched))

    def _progressed(self, job: _Job, done_bytes: int, total_bytes: int) -> None:
        if job is self._job:
            self.progress = (done_bytes, total_bytes)

    def _bad_chunk(self, why: str) -> None:
        self._refuse("bad_chunk")
        _LOG.debug("a chunk was dropped: %s", why)

    def _close(self, job: _Job, *, keep_target: bool = False) -> None:
        if job.download is not None:
            job.download.close()
            before = self._fetched_bytes.pop(job.attempt.attempt_id, 0)
            if not keep_target:
                self._fetched_bytes = {job.attempt.attempt_id: before + job.download.fetched_bytes}
        if job.target is not None and not keep_target:
            job.target.close()

    def _verified(self, firmware: FirmwareRef, slots: Slots, job: _Job | None) -> Event:
        try:
            if job is not None:
                self._close(job, keep_target=True)
            target = job.target if job is not None else None
            if target is None:
                target = slots.open_target(firmware)
                if not target.kept:
                    target.close()
                    self._chunks.forget(firmware.digest)
                    return Failed(Reason.STORAGE_FAILED, "what was downloaded is not on the disk any more")
            try:
                digest = target.digest()
            finally:
                target.close()
        except Exception as error:  # noqa: BLE001 - as above
            return _failure(error, Reason.STORAGE_FAILED)
        if digest != firmware.digest:
            return Failed(Reason.DIGEST_MISMATCH, f"the disk has {digest}, not {firmware.digest}")
        return Verified()


def _failure(error: Exception, otherwise: Reason) -> Failed:
    """Return what an attempt fails of by this error."""
    reason = reason_of(error)
    if reason is None and not isinstance(error, JournalError | OSError):
        _LOG.error("a fetch failed in a way that was not thought of", exc_info=error)
    return Failed(reason or otherwise, str(error) or type(error).__name__)
