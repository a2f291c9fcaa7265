"""What a simulated device is made of: its world, which outlasts a power cut or causes it, and its moving parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.driver import Answer
from device_agent.events import Attempt, Downloaded, Failed, Verified
from device_agent.journal import Journal
from device_agent.loop import Loop
from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import Slots
from device_agent.supervision import ApplicationError, Exit, check_image
from protocol.facts import DeviceFacts
from protocol.phases import Reason
from protocol.values import FirmwareRef
from tests.support.simulated_cloud import MODEL, SimulatedLink

CHUNK = 1000


class PowerCutError(BaseException):
    """The power is gone: nothing may catch this."""


@dataclass
class World:
    """What outlasts a power cut, or causes it; and the clock."""

    directory: Path
    cut_at: list[int] = field(default_factory=list)
    kills_agent_only: bool = False
    ticks: int = 0
    ticked: list[str] = field(default_factory=list)
    time: float = 1_800_000_000.0
    clock_ahead_s: float = 0.0
    """How far the device's clock on the wall is from the time that passes: whoever sets it moves no timer."""
    images: dict[str, bytes] = field(default_factory=dict)
    unhealthy: set[str] = field(default_factory=set)
    crashing: set[str] = field(default_factory=set)
    resetting: set[str] = field(default_factory=set)
    """The digests of versions that reset the board as soon as they start."""
    ending: set[str] = field(default_factory=set)
    """The digests of versions that start, and end at once."""
    running: str | None = None
    """The digest that the application's process was started from."""
    starts: list[str] = field(default_factory=list)
    works: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What versions do as soon as they start, by their digests."""
    fetched: list[tuple[str, int]] = field(default_factory=list)
    """The chunks that were fetched: image, index."""
    noted: set[tuple[str, int]] = field(default_factory=set)
    """The chunks that the journal was seen to hold as verified."""
    wasted: set[tuple[str, int]] = field(default_factory=set)
    """Those of them that were fetched again."""

    def tick(self, what: str) -> None:
        """Say that something durable is about to happen, or has happened."""
        self.ticked.append(what)
        self.ticks += 1
        if self.cut_at and self.ticks == self.cut_at[0]:
            self.cut_at.pop(0)
            self.ticks = 0
            if not self.kills_agent_only:
                self.running = None
            raise PowerCutError(what)

    @contextmanager
    def happening(self, what: str) -> Iterator[None]:
        self.tick(f"before {what}")
        yield
        self.tick(f"after {what}")

    def image(self, version: str, size_bytes: int = 3 * CHUNK - 100, **values: Any) -> FirmwareRef:
        """Publish a firmware."""
        content = (version.encode() * size_bytes)[:size_bytes]
        digest = hashlib.sha256(content).hexdigest()
        self.images[digest] = content
        seq = len(self.images)
        return FirmwareRef(
            component="app",
            version=version,
            build=seq,
            seq=seq,
            digest=digest,
            size_bytes=size_bytes,
            hardware_models=(MODEL,),
            **values,
        )

    def current_digest(self) -> str | None:
        """Return the digest of what the next start starts, as anybody could compute it."""
        try:
            return hashlib.sha256((self.directory / "components/app/current/image").read_bytes()).hexdigest()
        except FileNotFoundError:
            return None


def _nothing() -> None:
    pass


class SimulatedApplication:
    """A Supervisor whose process lives in the world; it refuses an image that is not what it should be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._callbacks: list[Callable[[Exit], None]] = []
        self.kept_up = False
        self.environment: Mapping[str, str] = {}

    def start(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> str:
        self.stop(0)
        check_image(image, digest)
        if digest in self._world.crashing:
            raise ApplicationError(Reason.START_FAILED, "it crashed")
        with self._world.happening("start"):
            self._world.running = digest
            self._world.starts.append(digest)
            self._world.works.get(digest, _nothing)()
            if digest in self._world.resetting:
                self._world.running = None
                raise PowerCutError("the new version reset the board")
        self.kept_up, self.environment = keep_up, environment
        if digest in self._world.ending:
            self._world.time += 0.001
            self.end_by_itself()
        return digest

    def adopt(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> bool:
        del image, environment
        if self._world.running != digest:
            self._world.running = None
        self.kept_up = keep_up
        return self._world.running is not None

    def keep_up(self, wanted: bool) -> None:
        self.kept_up = wanted

    def stop(self, timeout_s: float) -> None:
        del timeout_s
        if self._world.running is not None:
            with self._world.happening("stop"):
                self._world.running = None

    def alive(self) -> bool:
        return self._world.running is not None and self._world.running not in self._world.unhealthy

    def exited(self, callback: Callable[[Exit], None]) -> None:
        self._callbacks.append(callback)

    def end_by_itself(self, *, restart_in_s: float | None = None) -> None:
        """Play that the process ends."""
        self._world.running = None
        for callback in self._callbacks:
            callback(Exit(code=1, ran_s=1.0, restart_in_s=restart_in_s, detail="ended with 1"))

    def close(self) -> None:
        pass


class SimulatedSlots(FilesSlots):
    """Real slots, whose steps the power may cut before and after."""

    def __init__(self, world: World) -> None:
        super().__init__(world.directory / "components/app", "app")
        self.world = world

    def stage(self, firmware: FirmwareRef) -> None:
        with self.world.happening("stage"):
            super().stage(firmware)

    def activate(self, firmware: FirmwareRef) -> None:
        with self.world.happening("activate"):
            super().activate(firmware)

    def apply(self, firmware: FirmwareRef) -> Any:
        with self.world.happening("apply"):
            return super().apply(firmware)

    def confirm(self, firmware: FirmwareRef) -> None:
        with self.world.happening("confirm"):
            super().confirm(firmware)

    def revert(self) -> None:
        with self.world.happening("revert"):
            super().revert()


class SimulatedFetching:
    """Fetches chunks from the world's images, one at each turn of the loop, into the real target and journal."""

    def __init__(self, world: World, journal: Journal, loop: Loop, link: SimulatedLink) -> None:
        self._world = world
        self._chunks = journal.chunks
        self._loop = loop
        self._link = link
        self._job: tuple[FirmwareRef, Slots, Answer] | None = None
        self.failure: Failed | None = None
        self.stalled = False
        self.progress: tuple[int, int] | None = None

    def received_bytes(self, firmware: FirmwareRef) -> int:
        return sum(self._have(firmware)) * CHUNK

    def start(self, attempt: Attempt, facts: DeviceFacts, slots: Slots, answer: Answer) -> None:
        del facts
        self.stop()
        self._job = (attempt.firmware, slots, answer)
        self._loop.post(self._fetch)

    def stop(self) -> None:
        self._job, self.progress = None, None

    def link_up(self) -> None:
        self._loop.post(self._fetch)

    def link_down(self) -> None:
        pass

    def go_on(self) -> None:
        """End a stall."""
        self.stalled = False
        self._loop.post(self._fetch)

    def on_chunk(self, blob: str, payload: bytes | memoryview) -> None:
        del blob, payload

    def verify(self, firmware: FirmwareRef, slots: Slots, answer: Answer) -> None:
        self.stop()
        target = slots.open_target(firmware)
        digest = target.digest()
        target.close()
        answer(Verified() if digest == firmware.digest else Failed(Reason.DIGEST_MISMATCH, digest))

    def drop(self, firmware: FirmwareRef, slots: Slots) -> None:
        self.stop()
        self._chunks.forget(firmware.digest)
        slots.discard()

    def _have(self, firmware: FirmwareRef) -> list[bool]:
        bitmap = self._chunks.bitmap(firmware.digest, firmware.digest)
        count = -(-firmware.size_bytes // CHUNK)
        return [bool(bitmap and bitmap[index]) for index in range(count)]

    def _fetch(self) -> None:
        if self._job is None or not self._link.is_up or self.stalled:
            return
        firmware, slots, answer = self._job
        if self.failure is not None:
            answer(self.failure)
            return
        have = self._have(firmware)
        self._world.noted.update((firmware.digest, index) for index, there in enumerate(have) if there)
        if all(have):
            answer(Downloaded(firmware.size_bytes))
            return
        self._chunks.forget_others(firmware.digest)
        target = slots.open_target(firmware)
        if not target.kept:
            self._chunks.forget(firmware.digest)
            have = self._have(firmware)
        index = have.index(False)
        target.write(index * CHUNK, self._world.images[firmware.digest][index * CHUNK : (index + 1) * CHUNK])
        target.sync()
        target.close()
        self._world.fetched.append((firmware.digest, index))
        self._world.wasted.update({(firmware.digest, index)} & self._world.noted)
        have[index] = True
        self._chunks.save_bitmap(firmware.digest, firmware.digest, bytes(have))
        self.progress = (sum(have) * CHUNK, firmware.size_bytes)
        self._loop.post(self._fetch)


class AtOnce:
    """A Worker that does it now."""

    def submit(self, call: Callable[[], None]) -> None:
        call()

    def stop(self, timeout_s: float) -> None:
        pass


class SilentControl:
    """A control socket that nobody listens at; a test reads what was published."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def publish(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]
