"""Somebody with broker access and bad intentions: forged chunks, altered notices, old notices."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud.connection import Tls
from protocol.chunks import CHUNK_BYTES, pack_chunk

CONNECT_TIMEOUT_S: Final = 10.0
FORGERY_S: Final = 0.01


class Stranger:
    """Who has the broker itself, or the cloud's way to it: hears everything, and says what he likes."""

    def __init__(self, url: str, root: str, tls: Tls | None) -> None:
        """Take the broker's address for the cloud, the topic root, and the cloud's stolen certificate."""
        self._address = urlsplit(url)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        if tls is not None:
            self._client.tls_set_context(tls.context())
        self._client.on_connect = self._subscribe
        self._client.on_message = self._hear
        self._root = root
        self._listening = threading.Event()
        self._lock = threading.Lock()
        self._chunks: list[tuple[str, int]] = []
        self._notices: dict[str, list[bytes]] = {}
        self._client.on_subscribe = lambda *_: self._listening.set()

    def __enter__(self) -> Self:
        """Connect and listen."""
        self._client.connect(self._address.hostname or "", self._address.port or 1883)
        self._client.loop_start()
        self._listening.wait(CONNECT_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def chunks(self, blob: str) -> list[int]:
        """Return the indexes of a blob's chunks heard on the shared stream, in order."""
        with self._lock:
            return [index for digest, index in self._chunks if digest == blob]

    def notices(self, topic: str) -> list[bytes]:
        """Return what was heard on a notice's topic, oldest first."""
        with self._lock:
            return list(self._notices.get(topic, ()))

    @contextmanager
    def forging_chunks(self, blob: str, count: int) -> Iterator[None]:
        """Publish chunks that look right and are not, the last first, over and over while the block runs."""
        over = threading.Event()

        def forge() -> None:
            for index in itertools.cycle(reversed(range(count))):
                self._client.publish(f"{self._root}/b/{blob}", pack_chunk(index, b"\x66" * CHUNK_BYTES))
                if over.wait(FORGERY_S):
                    return

        forger = threading.Thread(target=forge, name="forger")
        forger.start()
        try:
            yield
        finally:
            over.set()
            forger.join()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(CONNECT_TIMEOUT_S)

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe([(f"{self._root}/b/+", 0), (f"{self._root}/p/+/n/+/+", 1)])

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        with self._lock:
            if "/b/" in message.topic:
                self._chunks.append((message.topic.rsplit("/", 1)[1], int.from_bytes(message.payload[4:8], "big")))
            else:
                self._notices.setdefault(message.topic, []).append(bytes(message.payload))


def altered(envelope: bytes, **changes: object) -> bytes:
    """Return a signed notice with another payload under the old signatures."""
    fields = json.loads(envelope)
    payload = json.loads(fields["payload"])
    for release in payload["releases"]:
        release["firmware"].update(changes)
    payload["seq"] += 1000
    return json.dumps(fields | {"payload": json.dumps(payload)}).encode()
