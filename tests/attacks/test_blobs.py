"""Chunks and chunk lists: tampered, truncated, over-long, of another blob, endless, and by the thousand."""

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.config import Home
from device_agent.asks import MAX_FILE_BYTES
from protocol.chunks import CHUNK_BYTES, MAGIC, BlobRef, describe, pack_chunk
from protocol.manifest import Manifest
from tests.attacks.attacker import PATIENCE_S, TOPICS, FalseCloud, notice
from tests.attacks.evidence import ATTEMPT, fingerprint, refused
from tests.attacks.scene import Scene
from tests.attacks.test_firmware import sign
from tests.support.devices import Device
from tests.support.images import Image
from tests.support.processes import wait_until

GROWTH_KIB = 24 * 1024
"""How much more memory than before an agent may use, whatever is sent to it; at rest it has about 50 MiB."""
FILE_KIB = GROWTH_KIB + 2 * MAX_FILE_BYTES // 1024
"""The same, where it has to hold a metadata file of the largest size."""
FLOOD = 1500
"""Messages, of 64 KiB and more: about a hundred times what an agent may hold."""


@contextmanager
def bounded(device: Device, growth_kib: int = GROWTH_KIB) -> Iterator[None]:
    """The agent never uses so much more memory inside than it did before."""
    assert device.agent is not None
    pid = device.agent.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # begins the peak anew
    before = status_of(pid)["VmRSS"]
    yield
    grown = status_of(pid)["VmHWM"] - before
    assert grown <= growth_kib, f"{grown} KiB more than before"


def status_of(pid: int) -> dict[str, int]:
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[0].startswith("Vm")}


def bad_chunks(index: int, good: bytes) -> dict[str, bytes]:
    """Messages that look like the chunk that is waited for, and are not."""
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    header = pack_chunk(index, good)[:12]
    return {
        "tampered": pack_chunk(index, flipped),
        "truncated": pack_chunk(index, good[:-1]),
        "emptied": pack_chunk(index, b""),
        "over-long": pack_chunk(index, good + b"\0"),
        "twice as long": pack_chunk(index, good.ljust(2 * CHUNK_BYTES - 1024, b"\0")),
        "another's place": pack_chunk(index + 1, good),
        "beyond the end": pack_chunk(2**32 - 1, good),
        "no header": good,
        "half a header": header[:7],
        "nothing": b"",
        "another magic": b"FLC2" + pack_chunk(index, good)[4:],
        "a header that lies": header[:8] + (len(good) + 1).to_bytes(4, "big") + good,
        "a length without end": MAGIC + index.to_bytes(4, "big") + b"\xff\xff\xff\xff" + good,
    }


@contextmanager
def downloading(scene: Scene, false_cloud: FalseCloud, image: Image, manifest: Manifest) -> Iterator[None]:
    """Have the device wait for chunks of a firmware, of which the intruder alone can send any."""
    with false_cloud.reigning():
        wanted = scene.reference(image, seq=manifest.seq)
        scene.intruder.say(scene.channel_topic, notice(scene.offer(wanted), scene.key("online")))
        yield


def expect_want(scene: Scene, blob: str) -> None:
    def wanted() -> bool:
        return any(json.loads(want)["blob"] == blob for want in scene.wants())

    wait_until(wanted, PATIENCE_S, f"a want for {blob[:8]}")


@pytest.fixture
def upload(scene: Scene) -> tuple[Image, Manifest]:
    """A good firmware of several chunks that nobody has released yet."""
    image = scene.next_image(filler_bytes=5 * CHUNK_BYTES)
    manifest = sign(scene, image)
    content = image.path.read_bytes()
    scene.fleet.api(
        "PUT", f"/blobs/{image.digest}", content=content, headers={"Content-Type": "application/octet-stream"}
    )
    return image, manifest


@pytest.mark.parametrize("qos", [0, 1])
def test_chunks_and_chunk_lists_that_are_not_what_was_signed_are_dropped(
    scene: Scene, false_cloud: FalseCloud, upload: tuple[Image, Manifest], qos: int
) -> None:
    image, manifest = upload
    content = image.path.read_bytes()
    ref, (list_bytes,) = describe([content])
    before = scene.at_rest()
    with downloading(scene, false_cloud, image, manifest):
        for blob, good in ((ref.lists[0], list_bytes), (ref.digest, content[:CHUNK_BYTES])):
            expect_want(scene, blob)
            for topic in (TOPICS.chunks(blob), TOPICS.chunks(blob, scene.group)):
                for what, payload in bad_chunks(0, good).items():
                    counted = refused(scene.device)
                    scene.intruder.say(topic, payload, qos=qos)
                    scene.intruder.fence(scene.device)
                    assert refused(scene.device)["bad_chunk"] == counted.get("bad_chunk", 0) + 1, what
            scene.intruder.say(TOPICS.chunks(ref.lists[0]), pack_chunk(0, list_bytes))
        written = {"entries", "facts", "seen", "chunk_lists", "chunks"}
        scene.expect_unchanged(before, fingerprint(scene.device), written)
    scene.device.expect(image)  # the cloud is back, and the very same download is finished
    scene.fleet.expect_outcome(scene.device, image)
    scene.takes_the_next_good_release()


def test_a_flood_of_forged_chunks_costs_neither_memory_nor_the_update(
    scene: Scene, false_cloud: FalseCloud, upload: tuple[Image, Manifest]
) -> None:
    """On every stream that the device listens to, as fast as the broker takes it, while an update is under way."""
    image, manifest = upload
    content = image.path.read_bytes()
    ref, (list_bytes,) = describe([content])
    counted = refused(scene.device).get("bad_chunk", 0)
    with bounded(scene.device), downloading(scene, false_cloud, image, manifest):
        expect_want(scene, ref.lists[0])
        scene.intruder.say(TOPICS.chunks(ref.lists[0]), pack_chunk(0, list_bytes))
        expect_want(scene, ref.digest)
        payload = pack_chunk(1, b"\x66" * CHUNK_BYTES)
        for number in range(FLOOD):
            topic = TOPICS.chunks(ref.digest, scene.group if number % 2 else None)
            scene.intruder.say(topic, payload, qos=0)
        scene.intruder.fence(scene.device)
        assert 0 < refused(scene.device)["bad_chunk"] - counted <= FLOOD
    scene.device.expect(image)
    scene.fleet.expect_outcome(scene.device, image)
    scene.takes_the_next_good_release()


def test_a_flood_of_chunks_that_nobody_wants_changes_nothing(scene: Scene) -> None:
    with bounded(scene.device), scene.refusing():
        payload = pack_chunk(0, b"\x66" * CHUNK_BYTES)
        for _ in range(FLOOD):
            scene.intruder.say(TOPICS.chunks("e" * 64, scene.group), payload, qos=0)


@pytest.mark.parametrize("kind", ["desired", "notice", "bundle", "meta"])
def test_a_flood_of_the_largest_messages_costs_no_memory(scene: Scene, kind: str) -> None:
    """Each is as large as a message can be, well made, and wrong in its last part."""
    topics = {"notice": scene.channel_topic, "bundle": TOPICS.bundle(scene.product)}
    filler = "x" * 120_000
    payloads: dict[str, Any] = {
        "desired": {"type": "t", "payload": filler, "signatures": [{"keyid": "0" * 64, "sig": "00"}]},
        "notice": {"type": "t", "payload": filler, "signatures": [{"keyid": "0" * 64, "sig": "00"}]},
        "bundle": {"product": "thermostat", "root_version": 1, "files": {"a/b": filler}},
        "meta": {"request": -1, "name": filler, "found": "no"},
    }
    with bounded(scene.device), scene.refusing("bad_message"):
        payload = json.dumps(payloads[kind]).encode()
        for _ in range(FLOOD):
            scene.intruder.say(topics.get(kind, scene.topic(kind)), payload, qos=0)


def test_a_metadata_file_without_end_is_not_fetched(scene: Scene, false_cloud: FalseCloud) -> None:
    """The false cloud answers with a blob, one byte larger than any metadata file is."""
    image = scene.next_image()
    blob = BlobRef(digest="e" * 64, size_bytes=MAX_FILE_BYTES + 1, lists=("d" * 64,))
    files = scene.files()
    files.date(CryptoSigner.generate_ed25519())
    with scene.refusing("bad_signature", besides=ATTEMPT | {"seen"}), false_cloud.reigning():
        false_cloud.blobs["timestamp.json"] = blob
        scene.intruder.say(TOPICS.bundle(scene.product), files.bundle)
        with scene.wanting(scene.reference(image), code="bad_signature"):
            pass
        scene.at_rest()
        assert "timestamp.json" in false_cloud.asked, "the answer was not asked for"
        assert not any(json.loads(want)["blob"] == "d" * 64 for want in scene.wants())


def test_the_largest_metadata_file_costs_no_memory_and_is_refused(scene: Scene, false_cloud: FalseCloud) -> None:
    """5 MB of timestamp, every chunk of it just what its digest says: the false cloud chose the digest."""
    image, content = scene.next_image(), b" " * MAX_FILE_BYTES
    blob, (list_bytes,) = describe([content])
    files = scene.files()
    files.date(CryptoSigner.generate_ed25519())
    with (
        bounded(scene.device, FILE_KIB),
        scene.refusing("untrusted", besides=ATTEMPT | {"seen"}),
        false_cloud.reigning(),
    ):
        false_cloud.blobs["timestamp.json"] = blob
        scene.intruder.say(TOPICS.bundle(scene.product), files.bundle)
        with scene.wanting(scene.reference(image), code="untrusted"):
            expect_want(scene, blob.lists[0])
            scene.intruder.say(TOPICS.chunks(blob.lists[0]), pack_chunk(0, list_bytes))
            expect_want(scene, blob.digest)
            for index in range(blob.chunk_count):
                chunk = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
                scene.intruder.say(TOPICS.chunks(blob.digest), pack_chunk(index, chunk))
        scene.at_rest()


def test_a_patch_bomb_in_a_bundle_is_refused(scene: Scene) -> None:
    """Metadata may be told by the version before: the same bytes over and over, of any size, from a small message."""
    base = (scene.device.state_dir / "metadata" / f"{scene.product}.json").read_bytes()
    files = scene.files()
    files.date(CryptoSigner.generate_ed25519())
    bundle = json.loads(files.bundle)
    role = files.name_of(scene.product)
    del bundle["files"][role]

    def patched(copies: list[list[int]], **more: Any) -> bytes:
        texts = [""] * (len(copies) + 1)
        patch = {"base": hashlib.sha256(base).hexdigest(), "texts": texts, "copies": copies, **more}
        return json.dumps({**bundle, "patches": {role: patch}}).encode()

    with bounded(scene.device, FILE_KIB), scene.refusing("bad_message"):
        counted = refused(scene.device)
        bombs = (
            patched([[0, len(base)]] * 65),
            patched([[0, 5_000_001]]),
            patched([[0, 2_500_001]] * 2),
            patched([[0, -1]]),
            patched([[0, 1, 2]]),
            patched([[0, 1]], texts=[""]),
            patched([[0, 2**60]]),
            patched([[0, 1]], base="../../x"),
        )
        for bomb in bombs:
            scene.intruder.say(TOPICS.bundle(scene.product), bomb)
        scene.expect_refused("bad_message", len(bombs), counted)
        for harmless in (patched([[0, len(base)]] * 64), patched([[len(base), 1]]), patched([[0, 1]], base="0" * 64)):
            scene.intruder.say(TOPICS.bundle(scene.product), harmless)  # well made, and of no use


class BoundlessBroker(threading.Thread):
    """A broker by the stolen key of the real one: it lets everybody in, and then sends one message without end."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(name="boundless-broker", daemon=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)  # or `stop` would wait for one more connection
        self.port: int = self._listener.getsockname()[1]
        self.sent_bytes: list[int] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with self._context.wrap_socket(self._listener.accept()[0], server_side=True) as connection:
                    self._serve(connection)
            except OSError:
                continue

    def stop(self) -> None:
        self.over.set()
        self.join()
        self._listener.close()

    def _serve(self, connection: ssl.SSLSocket) -> None:
        while True:
            kind, body = self._packet(connection)
            if kind == 1:
                connection.sendall(b"\x20\x03\x00\x00\x00")
            elif kind == 8:
                break
        connection.sendall(b"\x90\x04" + body[:2] + b"\x00\x01")
        self.sent_bytes.append(0)
        connection.sendall(b"\x30\xff\xff\xff\x7f\x00\x01x\x00")  # a PUBLISH of 256 MiB, the most that MQTT can say
        while True:
            connection.sendall(b"\0" * 65536)
            self.sent_bytes[-1] += 65536

    @staticmethod
    def _packet(connection: ssl.SSLSocket) -> tuple[int, bytes]:
        with connection.makefile("rb", buffering=0) as stream:
            head, length, shift = stream.read(1), 0, 0
            if not head:
                raise ConnectionError
            while True:
                (byte,) = stream.read(1)
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            body = b""
            while len(body) < length:
                body += stream.read(length - len(body))
            return head[0] >> 4, body


def test_a_packet_without_end_costs_a_connection_and_no_memory(scene: Scene) -> None:
    """Mosquitto sends none such: this is a broker of the intruder's own."""
    device = scene.fleet.enrol("boundless-1")
    settings = device.directory / "agent.toml"
    text = settings.read_text()
    broker = BoundlessBroker(Home(scene.fleet.office.home).broker / "server.pem")
    broker.start()
    settings.write_text(text.replace(f":{scene.fleet.broker.port}", f":{broker.port}"))
    try:
        device.start()
        assert device.agent is not None
        device.agent.wait_for_line("the broker sent a packet over")
        with bounded(device):
            wait_until(lambda: len(broker.sent_bytes) >= 2, PATIENCE_S, "it tries again")
        assert max(broker.sent_bytes) < 64 * 1024 * 1024
    finally:
        device.stop()
        broker.stop()
    settings.write_text(text)
    device.start()
    scene.fleet.expect_online(device)
    device.stop()
    scene.fleet.devices.remove(device)
