"""Fetching: real metadata, slots, journal, downloads and threads; a link that answers by itself; time by hand."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_agent.asks import MetadataFiles
from device_agent.download_ports import DownloadSettings
from device_agent.events import Downloaded, Event, Failed, Verified
from device_agent.fetching import ASK_AGAIN_S, ASK_FOR_S, DOUBT_AGAIN_S, Fetching
from device_agent.journal import Journal
from device_agent.loop import Loop, WorkerThread
from device_agent.slots.files import FilesSlots
from device_agent.trust import DeviceTrust
from protocol.chunks import chunk_span, describe, pack_chunk
from protocol.codec import decode
from protocol.down import Metadata
from protocol.facts import DeviceFacts
from protocol.manifest import Requirements
from protocol.phases import Reason
from protocol.topics import ChunkTopic, Topics, UpTopic
from protocol.up import Ask, Asked, Want
from protocol.values import ComponentState, FirmwareRef
from tests.support.chunk_server import blobs_of, image_of
from tests.support.processes import wait_until
from tests.support.repository import NOW_S, Repository, firmware_ref
from tests.support.updates import attempt, digest_of

TOPICS = Topics()
IMAGE = image_of(300_000)


@dataclass
class AnsweringLink:
    """A link whose other end is a cloud that answers at once: metadata from a repository, chunks from blobs."""

    repository: Repository
    blobs: dict[str, bytes]
    is_up: bool = True
    answers: bool = True
    as_blobs: bool = False
    mangle: Callable[[int, bytes], bytes] | None = None
    wanted: list[int] = field(default_factory=list)
    bundles_asked: int = 0
    stop_after: int | None = None
    files: MetadataFiles | None = None
    on_chunk: Callable[[str, bytes], None] | None = None
    thread: WorkerThread = field(default_factory=lambda: WorkerThread("link"))

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        assert all(isinstance(TOPICS.parse(topic), ChunkTopic) for topic in filters)
        return self.is_up

    def unsubscribe(self, filters: Iterable[str]) -> bool:
        del filters
        return self.is_up

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        del qos, retain
        if not self.is_up:
            return False
        if self.answers:
            # Like the real one, in the link's one thread.
            self.thread.submit(lambda: self._answer(TOPICS.parse(topic), payload))
        return True

    def _answer(self, topic: object, payload: bytes) -> None:
        assert isinstance(topic, UpTopic)
        assert self.files is not None
        if topic.kind == "ask":
            ask = decode(payload, Ask)
            if ask.what is Asked.BUNDLE:
                self.bundles_asked += 1
            else:
                self.files.answer(self._metadata(ask))
        else:
            self._chunks(decode(payload, Want))

    def _metadata(self, ask: Ask) -> Metadata:
        data = self.repository.ask(ask.name)
        if data is None:
            return Metadata(request=ask.request, name=ask.name, found=False)
        if not self.as_blobs:
            return Metadata(request=ask.request, name=ask.name, found=True, body=data.decode())
        ref, blobs = blobs_of(data)
        self.blobs.update(blobs)
        return Metadata(request=ask.request, name=ask.name, found=True, blob=ref)

    def _chunks(self, want: Want) -> None:
        assert self.files is not None
        assert self.on_chunk is not None
        blob = self.blobs[want.blob]
        for index in (index for first, count in want.ranges for index in range(first, first + count)):
            if self.stop_after is not None and len(self.wanted) >= self.stop_after:
                return
            self.wanted.append(index)
            offset, length = chunk_span(index, len(blob))
            good = blob[offset : offset + length]
            payload = pack_chunk(index, good if self.mangle is None else self.mangle(index, good))
            self.on_chunk(want.blob, payload)
            self.files.on_chunk(want.blob, payload)


class Bench:
    """Everything around a Fetching."""

    def __init__(self, directory: Path) -> None:
        self.repository = Repository()
        ref, blobs = blobs_of(IMAGE)
        self.manifest = self.repository.add_firmware(
            ref, version="1.1.0", seq=2, hardware_models=("pi4",), requires=Requirements(components={"app": ">=1.0.0"})
        )
        self.repository.publish()
        self.firmware = firmware_ref(self.manifest)
        self.link = AnsweringLink(self.repository, blobs)
        self.time = 0.0
        self.journal = Journal(directory / "journal.db", lambda: NOW_S)
        self.loop = Loop(lambda: self.time)
        self.worker = WorkerThread("worker")
        self.slots = FilesSlots(directory / "slots", "app")
        self.files = MetadataFiles(self.link, TOPICS, "pi-1")
        self.link.files = self.files
        self.trust = DeviceTrust(
            directory / "metadata", self.repository.bootstrap, "thermostat", ask=self.files.file, now=lambda: NOW_S
        )
        self.fetching = Fetching(
            trust=self.trust,
            chunks=self.journal.chunks,
            floors=self.journal,
            link=self.link,
            topics=TOPICS,
            product="thermostat",
            loop=self.loop,
            worker=self.worker,
            settings=DownloadSettings(window_bytes=65536 * 2, sync_interval_s=0.01),
            refuse=self.journal.refuse,
            ask_for_bundle=lambda: self.files.ask_for(Asked.BUNDLE),
        )
        self.link.on_chunk = self.fetching.on_chunk
        self.events: list[Event] = []
        self.facts = DeviceFacts(
            device_id="pi-1",
            hardware_model="pi4",
            agent_version="0.1.0",
            components={"app": ComponentState(component="app", version="1.0.0", build=1, digest=digest_of("old"))},
        )

    def answer(self, event: Event) -> None:
        self.loop.post(lambda: self.events.append(event))

    def start(self, firmware: FirmwareRef | None = None) -> None:
        self.events.clear()
        self.fetching.start(attempt(firmware or self.firmware), self.facts, self.slots, self.answer)

    def turn(self) -> None:
        while self.loop.turn(wait=False):
            pass

    def until(self, predicate: Callable[[], object]) -> None:
        def turned() -> object:
            self.turn()
            return predicate()

        wait_until(turned, 20.0)

    def event(self) -> Event:
        self.until(lambda: self.events)
        (event,) = self.events
        return event

    def fetch(self, firmware: FirmwareRef | None = None) -> Event:
        self.start(firmware)
        return self.event()

    def close(self) -> None:
        self.fetching.stop()
        self.files.close()
        self.worker.stop(10.0)
        self.link.thread.stop(10.0)
        self.journal.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_an_image_is_fetched_and_verified(bench: Bench) -> None:
    fetched = bench.fetch()
    assert isinstance(fetched, Downloaded)
    assert fetched.fetched_bytes == len(IMAGE) + 32 * 5
    assert bench.fetching.received_bytes(bench.firmware) == len(IMAGE)
    bench.turn()
    assert bench.fetching.progress == (len(IMAGE), len(IMAGE))
    bench.events.clear()
    bench.fetching.verify(bench.firmware, bench.slots, bench.answer)
    assert bench.event() == Verified()
    bench.slots.stage(bench.firmware)
    assert bench.slots.inspect().other is not None or bench.slots.inspect().running is None


def test_metadata_that_outgrew_a_message_comes_as_a_blob(bench: Bench) -> None:
    bench.link.as_blobs = True
    assert isinstance(bench.fetch(), Downloaded)


@pytest.mark.parametrize(
    "differing",
    [
        {"digest": digest_of("other")},
        {"size_bytes": 299_999},
        {"seq": 3},
        {"build": 9},
        {"hardware_models": ("pi4", "pi5")},
        {"requires": Requirements()},
    ],
    ids=lambda differing: next(iter(differing)),
)
def test_what_is_wanted_must_be_what_is_signed(bench: Bench, differing: dict[str, object]) -> None:
    failed = bench.fetch(dataclasses.replace(bench.firmware, **differing))  # type: ignore[arg-type]
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.UNTRUSTED
    assert next(iter(differing)) in failed.detail
    assert bench.link.wanted == []


def test_what_is_not_signed_is_looked_up_again_and_then_refused(bench: Bench) -> None:
    unknown = dataclasses.replace(bench.firmware, version="6.6.6")
    bench.start(unknown)
    for doubts in (1, 2):
        bench.until(lambda doubts=doubts: bench.link.bundles_asked == doubts)  # type: ignore[misc]
        assert bench.events == []
        bench.time += DOUBT_AGAIN_S
    failed = bench.event()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.UNTRUSTED
    assert bench.journal.refused() == {"untrusted": 3}


def test_a_notice_that_was_faster_than_its_metadata(bench: Bench) -> None:
    manifest = bench.repository.add_firmware(describe([IMAGE])[0], version="1.2.0", seq=3, hardware_models=("pi4",))
    bench.start(firmware_ref(manifest))
    bench.until(lambda: bench.link.bundles_asked == 1)
    bench.repository.publish()
    assert bench.trust.offer_bundle(bench.repository.bundle())
    bench.time += DOUBT_AGAIN_S
    assert isinstance(bench.event(), Downloaded)


def test_below_the_floor(bench: Bench) -> None:
    bench.repository.raise_floor("thermostat", {"app": 3})
    bench.repository.publish()
    failed = bench.fetch()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.BELOW_FLOOR
    assert bench.journal.floors() == {"app": 3}  # for good, whatever the metadata says later


def test_a_floor_that_was_seen_once_stays(bench: Bench) -> None:
    bench.journal.raise_floors({"app": 3})
    failed = bench.fetch()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.BELOW_FLOOR


@pytest.mark.parametrize("facts", [{"hardware_model": "pi3"}, {"components": {}}], ids=["hardware", "requirement"])
def test_what_is_not_for_this_device(bench: Bench, facts: dict[str, object]) -> None:
    bench.facts = dataclasses.replace(bench.facts, **facts)  # type: ignore[arg-type]
    failed = bench.fetch()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.INCOMPATIBLE


def test_an_image_that_is_too_large(bench: Bench, tmp_path: Path) -> None:
    bench.slots = FilesSlots(tmp_path / "small", "app", capacity_bytes=1000)
    failed = bench.fetch()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.TOO_LARGE
    assert bench.link.wanted == []


def test_without_a_link_it_waits(bench: Bench) -> None:
    bench.link.is_up = False
    bench.start()
    bench.turn()
    assert bench.events == []
    bench.link.is_up = True
    bench.fetching.link_up()
    assert isinstance(bench.event(), Downloaded)


def test_a_cloud_that_does_not_answer_is_asked_again(bench: Bench) -> None:
    bench.link.answers = False
    bench.files._timeout_s = 0.1
    bench.start()
    bench.until(lambda: bench.loop.next_due() is not None)
    assert bench.events == []
    bench.link.answers = True
    bench.files._timeout_s = 10.0
    bench.time += ASK_AGAIN_S
    assert isinstance(bench.event(), Downloaded)


def test_a_cloud_that_never_answers_is_not_asked_for_ever(bench: Bench) -> None:
    bench.link.answers = False
    bench.files._timeout_s = 0.1
    bench.start()
    bench.until(lambda: bench.loop.next_due() is not None)
    bench.time += ASK_FOR_S + ASK_AGAIN_S
    failed = bench.event()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.DOWNLOAD_FAILED


def test_bad_chunks_are_counted_and_asked_for_again(bench: Bench) -> None:
    spoiled: set[int] = set()

    def mangle(index: int, good: bytes) -> bytes:
        if index in spoiled:
            return good
        spoiled.add(index)
        return bytes(len(good))

    bench.link.mangle = mangle
    assert isinstance(bench.fetch(), Downloaded)
    assert bench.journal.refused()["bad_chunk"] >= 5


def test_what_was_received_is_kept_when_it_stops(bench: Bench) -> None:
    bench.link.stop_after = 1 + 3  # the chunk list, and three chunks of five
    bench.start()
    bench.until(lambda: bench.fetching.received_bytes(bench.firmware) == 3 * 65536)
    bench.fetching.stop()
    bench.link.stop_after = None
    fetched = bench.fetch()
    assert isinstance(fetched, Downloaded)
    assert sorted(bench.link.wanted) == [0, 0, 1, 2, 3, 4]  # the list's only chunk, and each of the image's, once
    assert fetched.fetched_bytes == len(IMAGE) + 32 * 5  # what came before the pause counts


def test_another_image_takes_the_place_of_one_that_was_begun(bench: Bench) -> None:
    bench.link.stop_after = 3
    bench.start()
    bench.until(lambda: bench.fetching.received_bytes(bench.firmware) > 0)
    bench.link.stop_after = None
    other = image_of(200_000, seed=2)
    ref, blobs = blobs_of(other)
    bench.link.blobs.update(blobs)
    manifest = bench.repository.add_firmware(ref, version="1.2.0", seq=3, hardware_models=("pi4",))
    bench.repository.publish()
    assert isinstance(bench.fetch(firmware_ref(manifest)), Downloaded)
    assert bench.fetching.received_bytes(bench.firmware) == 0
    bench.events.clear()
    bench.fetching.verify(firmware_ref(manifest), bench.slots, bench.answer)
    assert bench.event() == Verified()


def test_what_was_altered_on_the_disk_is_found(bench: Bench, tmp_path: Path) -> None:
    bench.fetch()
    bench.fetching.stop()
    with (tmp_path / "slots" / "target").open("r+b") as target:
        target.seek(100_000)
        target.write(b"x")
    bench.events.clear()
    bench.fetching.verify(bench.firmware, bench.slots, bench.answer)
    failed = bench.event()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.DIGEST_MISMATCH
    bench.fetching.drop(bench.firmware, bench.slots)
    bench.until(lambda: bench.fetching.received_bytes(bench.firmware) == 0)
    bench.until(lambda: not (tmp_path / "slots" / "target").exists())


def test_what_is_gone_from_the_disk_is_fetched_another_time(bench: Bench, tmp_path: Path) -> None:
    bench.fetch()
    bench.fetching.stop()
    bench.until(lambda: True)
    (tmp_path / "slots" / "target").unlink()
    bench.events.clear()
    bench.fetching.verify(bench.firmware, bench.slots, bench.answer)
    failed = bench.event()
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.STORAGE_FAILED
    assert bench.fetching.received_bytes(bench.firmware) == 0
    assert isinstance(bench.fetch(), Downloaded)


def test_metadata_answers_that_nobody_waits_for(bench: Bench) -> None:
    bench.files.answer(Metadata(request=1, name="1.root.json", found=False))
    bench.files.on_chunk(digest_of("x"), b"")
    bench.fetching.on_chunk(digest_of("x"), b"")
    assert isinstance(bench.fetch(), Downloaded)
