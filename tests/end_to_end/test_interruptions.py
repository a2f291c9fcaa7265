"""Kills and changes midway: nothing verified is fetched again, nothing told is lost or counted twice (B6, B10)."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from tests.support.fleet import TOPICS, Device, Fleet
from tests.support.images import Image
from tests.support.mqtt import Peer

MIB = 1024 * 1024
ONE_CHUNK = 65536


class ChunkWitness:
    """Hears the chunks of one image on the shared stream."""

    def __init__(self, peer: Peer, image: Image) -> None:
        self._peer = peer
        self._topic = TOPICS.chunks(image.digest)
        peer.subscribe(self._topic, qos=0)
        peer.subscribe(f"{TOPICS.root}/fence")

    def heard(self) -> list[int]:
        """The chunks that the broker has handed on since it was asked last, in order."""
        self._peer.publish(f"{TOPICS.root}/fence", b"")
        indexes = []
        while (message := self._peer.receive())[0] == self._topic:
            indexes.append(int.from_bytes(message[1][4:8], "big"))
        return indexes


@contextmanager
def frozen(fleet: Fleet) -> Iterator[None]:
    """Have the server stand still for a while."""
    assert fleet.office.server is not None
    fleet.office.server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        fleet.office.server.process.send_signal(signal.SIGCONT)


def change_broker(fleet: Fleet) -> None:
    """Have another broker in the place of the one there was, which takes all it knew along."""
    fleet.broker.kill()
    shutil.rmtree(fleet.broker.data_dir / "data")
    fleet.broker.start()


def test_neither_a_killed_agent_nor_another_broker_has_a_verified_chunk_sent_again(own_fleet: Fleet) -> None:
    fleet = own_fleet
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("19.0.0", filler_bytes=32 * MIB)
    device = fleet.join("cut-1", "--window", ONE_CHUNK, image=base)
    group = fleet.group("cut", device)
    with fleet.peer("witness-1") as peer:
        witness = ChunkWitness(peer, image)
        fleet.push(image, "--group", group, "--immediate")
        fleet.until(lambda: len(device.marked(image.digest)) > 20, "a part of the download")
        device.kill()
        kept = device.marked(image.digest)
        assert 20 < len(kept) < image.chunks
        assert kept.intersection(witness.heard()), "the witness hears nothing"
        assert device.seen.running_version() == base.version, "its application runs on"
        device.start()
        fleet.until(lambda: len(device.marked(image.digest)) > len(kept) + 20, "more of the download")
        with frozen(fleet):
            sent = witness.heard()
            assert not kept.intersection(sent), "after the agent was killed"
            change_broker(fleet)
            kept = settled_marks(fleet, device, image)
            assert len(kept) < image.chunks
            peer_after = fleet.peer("witness-2").connect()
            witness_after = ChunkWitness(peer_after, image)
    device.expect(image)
    again = kept.intersection(witness_after.heard())
    peer_after.close()
    assert not again, "after the broker was changed"
    fleet.expect_outcome(device, image)
    fleet.expect_told(device)
    expect_whole_journal(fleet, device)
    (attempt,) = fleet.attempts(device, image)
    assert attempt["fetched_bytes"] <= image.size_bytes


def settled_marks(fleet: Fleet, device: Device, image: Image) -> set[int]:
    """The verified chunks in the journal, once nothing more comes in: without a broker nothing does."""
    fleet.until(lambda: not device.control("status")["status"]["online"], "the agent's notice of the loss")
    return device.marked(image.digest)


def expect_whole_journal(fleet: Fleet, device: Device) -> None:
    """Fail unless the cloud holds the device's journal without a gap or a double, up to its last entry."""
    rows = fleet.query("SELECT journal_id, seq FROM journal_entry WHERE device_id = ? ORDER BY seq", device.device_id)
    assert [row["seq"] for row in rows] == list(range(1, device.last_entry() + 1))
    assert len({row["journal_id"] for row in rows}) == 1


class Meddler:
    """Hears a device's reports, and says each of them again, and one with a gap before it."""

    def __init__(self, peer: Peer, device: Device) -> None:
        self.topic = TOPICS.up(device.device_id, "report")
        self.said: dict[int, Any] = {}
        self._ours: set[bytes] = set()
        self._peer = peer
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._meddle)

    def __enter__(self) -> Self:
        self._peer.connect()
        self._peer.subscribe(self.topic)
        self._peer.subscribe(f"{TOPICS.root}/fence")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.publish(f"{TOPICS.root}/fence", b"over")
        self._thread.join()
        self._peer.close()

    def _meddle(self) -> None:
        while (message := self._peer.receive(120))[0] == self.topic:
            payload = message[1]
            if payload in self._ours:
                continue
            report = json.loads(payload)
            self.said |= {entry["seq"]: entry for entry in report["entries"]}
            gap = [entry | {"seq": entry["seq"] + 5} for entry in report["entries"]]
            changed = [entry | {"at_ms": 1} for entry in report["entries"]]
            for entries in (report["entries"], gap, changed):
                ours = json.dumps(report | {"entries": entries}).encode()
                self._ours.add(ours)
                self._peer.publish(self.topic, ours)


def test_duplicates_gaps_and_kills_leave_the_journal_whole_and_every_count_right(own_fleet: Fleet) -> None:
    fleet = own_fleet
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("19.1.0")
    broken = fleet.images.thermostat("19.1.1", crashes="no sensor")
    device = fleet.join("told-1", image=base)
    group = fleet.group("told", device)
    with Meddler(fleet.peer("meddler"), device) as meddler:
        first = fleet.push(image, "--group", group, "--immediate")
        fleet.until(lambda: fleet.attempts(device, image), "the attempt told")
        fleet.restart_cloud()
        device.expect(image)
        fleet.expect_outcome(device, image)
        fleet.expect_told(device)
        assert fleet.office.server is not None
        fleet.office.server.kill()  # told to nobody, but kept
        device.kill()
        device.start()
        fleet.office.serve()
        second = fleet.push(broken, "--group", group, "--immediate")
        fleet.expect_outcome(device, broken, "rolled_back")
        fleet.settle(device)
        fleet.expect_told(device)
    fleet.settle(device)  # what was said before it has been heard
    expect_whole_journal(fleet, device)
    rows = fleet.query("SELECT seq, body FROM journal_entry WHERE device_id = ?", device.device_id)
    stored = {row["seq"]: json.loads(row["body"]) for row in rows}
    heard = {seq: entry for seq, entry in meddler.said.items() if seq in stored}
    assert len(heard) >= len(stored) - 1
    assert all(stored[seq]["at_ms"] == entry["at_ms"] > 1 for seq, entry in heard.items())
    fleet.expect_metrics(first, attempts=1, downloads=1, installs=1)
    fleet.expect_metrics(second, attempts=1, downloads=1, installs=0, rollbacks={"start_failed": 1})
