"""The attacker's tools: every right on the broker, a memory for all that was ever said there, and stolen keys."""

import hashlib
import json
import os
import queue
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]

from cloud.key_files import load_key
from protocol.chunks import BlobRef
from protocol.codec import encode, to_plain
from protocol.down import Bundle, Desired, Notice
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Signature, seal
from protocol.topics import Topics
from tests.attacks.evidence import refused
from tests.support.devices import Device
from tests.support.processes import wait_until

TOPICS = Topics()
PATIENCE_S = 10.0
REMEMBERED_BYTES = 32 * 1024
"""Larger messages are chunks, or floods."""


@dataclass(frozen=True)
class Heard:
    """One message on the broker."""

    topic: str
    payload: bytes
    retained: bool


class Intruder:
    """Sits on the broker with all rights: hears everything from the first moment on, and says what it likes."""

    def __init__(self, port: int, tls: ssl.SSLContext, *, client_id: str = "intruder") -> None:
        self._listening = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.tls_set_context(tls)
        self._client.max_inflight_messages_set(1000)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{TOPICS.root}/#", 1)
        self._client.on_subscribe = lambda *_: self._listening.set()
        self._client.on_message = self._hear
        self._port = port
        self._history: list[Heard] = []
        self._answering: Callable[[Heard], None] | None = None
        self._inbox: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer, name="intruder", daemon=True)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port, keepalive=30)
        self._client.loop_start()
        self._thread.start()
        assert self._listening.wait(PATIENCE_S), "no SUBACK"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._inbox.put(None)
        self._thread.join()

    def say(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has it (QoS 1) or the socket (QoS 0)."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE_S)

    def heard(self, *topics: str) -> list[bytes]:
        """Everything that was said on these topics, oldest first."""
        return [message.payload for message in list(self._history) if message.topic in topics]

    def hear(self, topic: str, count: int = 1) -> list[bytes]:
        """Wait until so many messages were said on a topic; return them all."""
        wait_until(lambda: len(self.heard(topic)) >= count, PATIENCE_S, f"{count} messages on {topic}")
        return self.heard(topic)

    def history(self) -> list[Heard]:
        """Everything that was said so far, oldest first."""
        return list(self._history)

    def forget(self) -> None:
        """Begin a new history."""
        self._history.clear()

    @contextmanager
    def answering(self, answer: Callable[[Heard], None]) -> Iterator[None]:
        """Have each message that comes meanwhile answered, in a thread of its own."""
        self._answering = answer
        try:
            yield
        finally:
            self._answering = None

    def fence(self, device: Device) -> None:
        """Return when a device has heard everything that was said to it so far, in its loop.

        What is said last is no message at all, and counted.
        """
        before = refused(device).get("bad_message", 0)
        self.say(TOPICS.down(device.device_id, "ack"), b"a fence")
        wait_until(lambda: refused(device).get("bad_message", 0) > before, PATIENCE_S, "the fence")

    def _hear(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        heard = Heard(message.topic, bytes(message.payload), bool(message.retain))
        if len(heard.payload) <= REMEMBERED_BYTES:
            self._history.append(heard)
        if self._answering is not None:
            self._inbox.put(heard)

    def _answer(self) -> None:
        while (message := self._inbox.get()) is not None:
            answer = self._answering
            if answer is not None:
                answer(message)


def stolen(home: Path, name: str) -> CryptoSigner:
    """A key of the operator's (`root-1`, `targets`, `product-thermostat`) or the server's (`online`)."""
    directory = home / "cloud" / "keys" if name == "online" else home / "operator" / "keys"
    return load_key(directory / f"{name}.pem")


def signing(*signers: Signer) -> Callable[[bytes], tuple[Signature, ...]]:
    """Sign messages with these keys."""

    def sign(pae: bytes) -> tuple[Signature, ...]:
        made = [signer.sign(pae) for signer in signers]
        return tuple(Signature(keyid=item.keyid, sig=item.signature) for item in made)

    return sign


def notice(message: Notice, *signers: Signer) -> bytes:
    """Sign a notice."""
    return seal(message, NOTICE_TYPE, signing(*signers))


def desired(message: Desired, *signers: Signer) -> bytes:
    """Sign a desired state."""
    return seal(message, DESIRED_TYPE, signing(*signers))


def metadata(signed: Root | Targets | Snapshot | Timestamp, *signers: Signer) -> bytes:
    """Sign metadata."""
    file: Metadata[Any] = Metadata(signed)
    for signer in signers:
        file.sign(signer, append=True)
    return file.to_bytes()


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Files:
    """One product's metadata, as a bundle and as files that may be asked for; `forge` what you like and `seal` it."""

    product: str
    root_version: int
    files: dict[str, bytes]
    more: dict[str, bytes] = field(default_factory=dict)
    """Files that are not in the bundle, and are there when asked for."""

    @classmethod
    def current(cls, directory: Path, product: str) -> Self:
        """What a repository's timestamp leads to now, and the product's part of it."""
        names = ["timestamp.json"]
        timestamp = Metadata[Timestamp].from_bytes((directory / names[0]).read_bytes()).signed
        names.append(f"{timestamp.snapshot_meta.version}.snapshot.json")
        meta = Metadata[Snapshot].from_bytes((directory / names[1]).read_bytes()).signed.meta
        names += [f"{meta[f'{role}.json'].version}.{role}.json" for role in (product, "targets")]
        roots = [int(path.name.partition(".")[0]) for path in directory.glob("*.root.json")]
        return cls(product, max(roots), {name: (directory / name).read_bytes() for name in names})

    def copy(self) -> "Files":
        """Another, to be changed."""
        return Files(self.product, self.root_version, dict(self.files), dict(self.more))

    @property
    def bundle(self) -> bytes:
        return encode(
            Bundle(
                product=self.product,
                root_version=self.root_version,
                files={name: data.decode() for name, data in self.files.items()},
            )
        )

    def as_kept(self) -> dict[str, str]:
        """What a fingerprint shows of a device that keeps these very files."""
        roles = {name.rpartition(".json")[0].rpartition(".")[2]: data for name, data in self.files.items()}
        return {f"{role}.json": f"100600 {hashlib.sha256(data).hexdigest()}" for role, data in roles.items()}

    def name_of(self, role: str) -> str:
        """The name of a role's file."""
        return next(name for name in self.files if name == f"{role}.json" or name.endswith(f".{role}.json"))

    def signed(self, role: str) -> Any:
        """A role's content, to be changed and signed anew."""
        return Metadata[Any].from_bytes(self.files[self.name_of(role)]).signed

    def version(self, role: str) -> int:
        version: int = self.signed(role).version
        return version

    def put(self, role: str, version: int, data: bytes) -> None:
        """Have a role's file be this."""
        del self.files[self.name_of(role)]
        self.files[f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"] = data

    def vouch(
        self, *signers: Signer, versions: Mapping[str, int] | None = None, expires: timedelta = timedelta(days=1)
    ) -> None:
        """Sign snapshot and timestamp anew, over what is here (or over other versions), as the online key can."""
        snapshot: Snapshot = self.signed("snapshot")
        for role in ("targets", self.product):
            data, version = self.files[self.name_of(role)], (versions or {}).get(role, self.version(role))
            snapshot.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
        snapshot.version += 1
        snapshot.expires = now() + timedelta(days=7)
        self.put("snapshot", snapshot.version, metadata(snapshot, *signers))
        self.date(*signers, expires=expires)

    def date(self, *signers: Signer, expires: timedelta = timedelta(days=1)) -> None:
        """Sign the timestamp anew, over the snapshot that is here."""
        timestamp: Timestamp = self.signed("timestamp")
        data = self.files[self.name_of("snapshot")]
        timestamp.snapshot_meta = MetaFile.from_data(self.version("snapshot"), data, ["sha256"])
        timestamp.version += 1
        timestamp.expires = now() + expires
        self.put("timestamp", timestamp.version, metadata(timestamp, *signers))


class FalseCloud:
    """Stands in for the cloud, which is stopped meanwhile (SIGSTOP), towards every device: it answers for metadata."""

    def __init__(self, intruder: Intruder, server_pid: int) -> None:
        self._intruder = intruder
        self._pid = server_pid
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, BlobRef] = {}
        self.asked: list[str] = []

    @contextmanager
    def reigning(self) -> Iterator[Self]:
        """Take over from the cloud for a while."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            with self._intruder.answering(self._answer):
                yield self
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def _answer(self, message: Heard) -> None:
        if not message.topic.endswith("/up/ask"):
            return
        ask = json.loads(message.payload)
        if ask["what"] != "metadata":
            return
        self.asked.append(ask["name"])
        body, blob = self.files.get(ask["name"]), self.blobs.get(ask["name"])
        answer: dict[str, Any] = {"request": ask["request"], "name": ask["name"], "found": bool(body or blob)}
        if blob is not None:
            answer["blob"] = to_plain(blob)
        elif body is not None:
            answer["body"] = body.decode()
        device_id = message.topic.split("/")[-3]
        self._intruder.say(TOPICS.down(device_id, "meta"), json.dumps(answer).encode())


def soon_ms() -> int:
    """A sequence number as the cloud would give it now."""
    return int(time.time() * 1000)
