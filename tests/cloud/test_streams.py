"""Chunks reach those who want them through a real broker: once for everyone, at the broker's pace, whatever breaks."""

import contextlib
import hashlib
import os
import queue
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from cloud import publisher as publisher_module
from cloud import streams as streams_module
from cloud.artifacts import Artifacts
from cloud.broker import HOST, EmbeddedBroker
from cloud.connection import Backoff, BrokerAccess, Versions
from cloud.demand import Refusal
from cloud.streams import Streams
from protocol.chunks import CHUNK_BYTES, BlobRef, ChunkList, unpack_chunk
from protocol.topics import Topics
from protocol.up import Want
from tests.support.brokers import free_port
from tests.support.mqtt import Peer
from tests.support.processes import wait_until

TOPICS = Topics()
Serve = Callable[..., Streams]


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Artifacts]:
    artifacts = Artifacts(tmp_path / "blobs")
    yield artifacts
    artifacts.close()


@pytest.fixture
def serve(artifacts: Artifacts) -> Iterator[Serve]:
    """Starts streams towards a port, after some wants have come; stops them when the test ends."""
    started: list[Streams] = []

    def start(port: int, wants: Iterable[tuple[str, Want]] = ()) -> Streams:
        streams = Streams(BrokerAccess(host=HOST, port=port), artifacts, TOPICS)
        streams._publisher._backoff = Backoff(longest_s=0.2)
        for device_id, wanted in wants:
            assert streams.want(device_id, wanted) is None
        streams.start()
        started.append(streams)
        return streams

    yield start
    for streams in started:
        streams.stop()
        assert not streams._thread.is_alive()


def blob_of(artifacts: Artifacts, chunks: int, seed: int = 0) -> tuple[BlobRef, bytes]:
    data = random.Random(seed).randbytes(chunks * CHUNK_BYTES - 100)
    return artifacts.receive([data], hashlib.sha256(data).hexdigest(), 1 << 30), data


def want(ref: BlobRef, first: int = 0, count: int | None = None, *, detached: bool = False) -> Want:
    count = ref.chunk_count - first if count is None else count
    return Want(blob=ref.digest, ranges=((first, count),), detached=detached)


def collect(peer: Peer, count: int) -> list[tuple[str, int, bytes]]:
    """The next messages, as (topic, chunk index, data)."""
    found = []
    for _ in range(count):
        topic, payload = peer.receive()
        index, data = unpack_chunk(payload)
        found.append((topic, index, bytes(data)))
    return found


def test_what_two_devices_want_comes_once_for_both_and_is_what_was_signed(
    broker: EmbeddedBroker, artifacts: Artifacts, serve: Serve
) -> None:
    ref, data = blob_of(artifacts, 40)
    content = artifacts.read_chunk(ref.lists[0], 0)
    assert content is not None
    chunks = ChunkList.trust(content, ref.lists[0], ref.size_bytes)
    with Peer(broker.port, "one") as one, Peer(broker.port, "two") as two:
        for name, peer in (("one", one), ("two", two)):
            peer.subscribe(TOPICS.chunks(ref.digest), qos=0)
            peer.subscribe(TOPICS.all_down(name), qos=0)
        streams = serve(broker.port, [("one", want(ref)), ("two", want(ref, 10))])
        for name, peer in (("one", one), ("two", two)):
            got = collect(peer, 40)
            assert {topic for topic, _, _ in got} == {TOPICS.chunks(ref.digest)}
            assert [chunks.verify(index, part) for _, index, part in got] == [n * CHUNK_BYTES for n in range(40)]
            assert b"".join(part for _, _, part in got) == data
            streams.want(name, want(ref, 0, 1, detached=True))  # whatever else was sent would come before this
            assert [topic for topic, _, _ in collect(peer, 1)] == [TOPICS.chunks(ref.digest, name)]
    counts = streams.counts()
    assert (counts.wants, counts.wanted_chunks, counts.chunks_sent, counts.refused) == (4, 72, 42, {})
    assert counts.bytes_sent == len(data) + 2 * CHUNK_BYTES


@pytest.mark.broker
def test_a_detached_device_is_served_on_its_own_topic(
    mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve
) -> None:
    ref, _ = blob_of(artifacts, 3)
    streams = serve(mosquitto.port)
    with Peer(mosquitto.port, "lagging") as lagging, Peer(mosquitto.port, "other") as other:
        lagging.subscribe(TOPICS.all_down("lagging"), qos=0)
        other.subscribe(TOPICS.chunks(ref.digest), qos=0)
        streams.want("lagging", want(ref, detached=True))
        topic = TOPICS.chunks(ref.digest, "lagging")
        assert [(where, index) for where, index, _ in collect(lagging, 3)] == [(topic, 0), (topic, 1), (topic, 2)]
        streams.want("other", want(ref, 1, 1))
        assert [index for _, index, _ in collect(other, 1)] == [1]
        assert lagging.drain() == []


@pytest.mark.broker
def test_a_chunk_list_is_a_blob_like_any_other(mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve) -> None:
    ref, _ = blob_of(artifacts, 5)
    streams = serve(mosquitto.port)
    with Peer(mosquitto.port, "one") as one:
        one.subscribe(TOPICS.chunks(ref.lists[0]), qos=0)
        assert streams.want("one", Want(blob=ref.lists[0], ranges=((0, 1),))) is None
        ((_, index, data),) = collect(one, 1)
    assert (index, hashlib.sha256(data).hexdigest()) == (0, ref.lists[0])


@pytest.mark.broker
def test_what_cannot_be_sent_is_counted_and_does_no_harm(
    mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve
) -> None:
    ref, _ = blob_of(artifacts, 5)
    streams = serve(mosquitto.port)
    assert streams.want("one", Want(blob="ab" * 32, ranges=((0, 1),))) is Refusal.UNKNOWN_BLOB
    assert streams.want("one", want(ref, 4, 2)) is Refusal.BEYOND_BLOB
    with Peer(mosquitto.port, "two") as two:
        two.subscribe(TOPICS.chunks(ref.digest), qos=0)
        assert streams.want("two", want(ref)) is None
        assert [index for _, index, _ in collect(two, 5)] == list(range(5))
    assert streams.counts().refused == {Refusal.UNKNOWN_BLOB: 1, Refusal.BEYOND_BLOB: 1}


def _vanishes(artifacts: Artifacts, lost: BlobRef) -> None:
    artifacts.discard(lost.digest)


def _cannot_be_read(artifacts: Artifacts, lost: BlobRef) -> None:
    artifacts.discard(lost.digest)
    artifacts._path(lost.digest).mkdir()


@pytest.mark.broker
@pytest.mark.parametrize("accident", [_vanishes, _cannot_be_read])
def test_a_blob_that_is_lost_while_it_is_wanted_holds_up_no_other(
    mosquitto: EmbeddedBroker,
    artifacts: Artifacts,
    serve: Serve,
    accident: Callable[[Artifacts, BlobRef], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ref, _ = blob_of(artifacts, 5)
    lost, _ = blob_of(artifacts, 5, seed=1)
    mosquitto.kill()
    streams = serve(mosquitto.port, [("one", want(lost)), ("one", want(ref))])
    accident(artifacts, lost)
    mosquitto.start()
    wait_until(lambda: streams.counts().waiting_chunks == 0)
    wait_until(lambda: streams.counts().chunks_sent == 5)
    told = [record.getMessage() for record in caplog.records if "nobody is sent it" in record.getMessage()]
    if accident is _vanishes:
        assert streams.want("one", want(lost)) is Refusal.UNKNOWN_BLOB
    else:
        assert len(told) == 1


@pytest.mark.broker
def test_a_want_wakes_it_at_once(
    mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps for a minute when nothing wakes it: ten rounds would take ten."""
    monkeypatch.setattr(streams_module, "IDLE_S", 60)
    monkeypatch.setattr(publisher_module, "TEND_S", 60)
    ref, _ = blob_of(artifacts, 10)
    streams = serve(mosquitto.port)
    with Peer(mosquitto.port, "one") as one:
        one.subscribe(TOPICS.chunks(ref.digest), qos=0)
        for number in range(10):
            streams.want("one", want(ref, number, 1))
            assert [index for _, index, _ in collect(one, 1)] == [number]


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.broker
def test_a_broker_that_reads_no_more_costs_no_memory_and_loses_nothing_that_waits(
    mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve
) -> None:
    """64 MiB are wanted of a broker that is stopped (not dead): what was taken fits into the socket's buffers."""
    ref, _ = blob_of(artifacts, 1024)
    streams = serve(mosquitto.port)
    with Peer(mosquitto.port, "one") as one:
        one.subscribe(TOPICS.chunks(ref.digest), qos=0)
        wait_until(lambda: streams.is_connected)
        before = rss_bytes()
        os.kill(mosquitto.pid, signal.SIGSTOP)
        try:
            streams.want("one", want(ref))
            wait_until(lambda: not streams._publisher.is_ready, what="the socket being full")
            began = time.monotonic()
            assert streams.want("two", want(ref, 1000)) is None
            assert time.monotonic() - began < 1, "want waited for the broker"
            client = streams._publisher._client
            assert client is not None
            assert len(client._out_packet) == 1
            assert streams.counts().bytes_sent < 16 * 1024 * 1024
            assert rss_bytes() - before < 16 * 1024 * 1024
        finally:
            os.kill(mosquitto.pid, signal.SIGCONT)
        wait_until(lambda: streams.counts().waiting_chunks == 0 and streams._publisher.is_ready)
        assert [index for _, index, _ in collect(one, 3)] == [0, 1, 2]
    wait_until(lambda: streams.counts().chunks_sent == 1024)


@pytest.mark.broker
def test_after_the_broker_was_killed_the_rest_is_sent_to_those_who_ask_again(
    mosquitto: EmbeddedBroker, artifacts: Artifacts, serve: Serve
) -> None:
    ref, data = blob_of(artifacts, 64)
    streams = serve(mosquitto.port)
    with Peer(mosquitto.port, "one") as one:
        one.subscribe(TOPICS.chunks(ref.digest), qos=0)
        streams.want("one", want(ref, 0, 8))
        have = {index: part for _, index, part in collect(one, 8)}
    mosquitto.kill()
    wait_until(lambda: not streams.is_connected)
    streams.want("one", want(ref, 8, 8))  # nobody is there; it waits
    mosquitto.start()
    with Peer(mosquitto.port, "one") as one:
        one.subscribe(TOPICS.chunks(ref.digest), qos=0)
        wait_until(lambda: streams.is_connected)
        deadline = time.monotonic() + 20
        while len(have) < 64:
            assert time.monotonic() < deadline
            streams.want("one", want(ref, 8))
            with contextlib.suppress(queue.Empty):  # then it is time to ask again, as a device does
                while len(have) < 64:
                    index, part = unpack_chunk(one.receive(1.0)[1])
                    have[index] = bytes(part)
    assert b"".join(have[index] for index in range(64)) == data


def test_without_a_broker_it_starts_waits_and_stops(artifacts: Artifacts, serve: Serve) -> None:
    ref, _ = blob_of(artifacts, 4)
    streams = serve(free_port())
    assert streams.want("one", want(ref)) is None
    assert not streams.is_connected
    assert streams.counts().waiting_chunks == 4
    began = time.monotonic()
    streams.stop()
    assert time.monotonic() - began < 2
    assert streams.want("one", want(ref)) is None  # after the end: nothing happens, nothing breaks


def test_a_listener_that_is_no_broker_is_given_up_and_tried_again(artifacts: Artifacts, serve: Serve) -> None:
    with socket.create_server((HOST, 0)) as listener:
        streams = serve(listener.getsockname()[1])
        seen = set()
        for _ in range(3):
            opened, _ = listener.accept()
            with opened:
                seen.add(opened.recv(100)[8])  # the protocol level in CONNECT
                opened.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert seen == {4, 5}
        assert not streams.is_connected


def test_the_socket_has_no_delay(broker: EmbeddedBroker, serve: Serve) -> None:
    streams = serve(broker.port)
    wait_until(lambda: streams.is_connected)
    client = streams._publisher._client
    assert client is not None
    opened = client.socket()
    assert isinstance(opened, socket.socket)
    assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_versions_take_turns_and_attempts_become_rarer() -> None:
    versions, seen = Versions(BrokerAccess(host=HOST).first_version), []
    for _ in range(3):
        seen.append(int(versions.current))
        versions.refused()
    assert seen == [5, 4, 5]
    most, least = Backoff(first_s=0.1, longest_s=1.0, chance=lambda: 1.0), Backoff(first_s=0.1, chance=lambda: 0.0)
    assert [most.next_s() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert [least.next_s() for _ in range(3)] == pytest.approx([0.05, 0.1, 0.2])
    most.ended(0.5)
    assert most.next_s() == pytest.approx(1.0)
    most.ended(60)
    assert most.next_s() == pytest.approx(0.1)
    assert max(Backoff(longest_s=15.0).next_s() for _ in range(2000)) <= 15
