"""The cloud's side of the broker, where the repository is one that is served over HTTP: answers asks, sends chunks."""

import contextlib
import http.client
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from conformance.names import from_wire
from device_agent.asks import MAX_FILE_BYTES
from protocol.chunks import BlobRef, chunk_span, describe, pack_chunk
from protocol.codec import decode, encode
from protocol.down import Metadata
from protocol.errors import FleetliftError, MessageError
from protocol.topics import Topics, UpTopic
from protocol.up import Ask, Asked, Want

_TIMEOUT_S: Final = 10.0
_ABSENT: Final = frozenset({403, 404})
_LOG = logging.getLogger(__name__)


class BridgeError(FleetliftError):
    """The bridge could not join the broker."""


class Bridge:
    """Answers for the cloud while it is open. `metadata_url` and the values of `targets` are HTTP URLs.

    `targets` is what both sides call a target by agreement, where the suite knows only its path: name to URL; it may
    grow. A repository that does not answer is not answered for: that something is absent is said where HTTP said so.
    """

    def __init__(self, port: int, topics: Topics, metadata_url: str, targets: Mapping[str, str]) -> None:
        self._port = port
        self._topics = topics
        self._metadata_url = metadata_url.rstrip("/") + "/"
        self._targets = targets
        self._blobs: dict[str, bytes] = {}
        self._subscribed = threading.Event()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="fleetlift-conformance-bridge")
        self._client.on_socket_open = _no_delay
        self._client.on_connect = lambda client, *_: client.subscribe(topics.all_up(), qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        if not self._subscribed.wait(_TIMEOUT_S):
            raise BridgeError("the broker did not acknowledge the bridge's subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = self._topics.parse(message.topic)
            if isinstance(topic, UpTopic) and topic.kind == "ask":
                self._answer(topic.device_id, decode(message.payload, Ask))
            elif isinstance(topic, UpTopic) and topic.kind == "want":
                self._send_chunks(topic.device_id, decode(message.payload, Want))
        except (FleetliftError, OSError, http.client.HTTPException) as error:
            _LOG.warning("%s is not answered: %s", message.topic, error)

    def _answer(self, device_id: str, ask: Ask) -> None:
        if ask.what is not Asked.METADATA:
            return
        data = self._fetch(self._targets.get(ask.name) or self._metadata_url + from_wire(ask.name))
        answer = Metadata(request=ask.request, name=ask.name, found=data is not None)
        payload = encode(answer)
        if data is not None:
            payload = self._in_a_message(answer, data) or self._as_a_blob(answer, data)
        self._client.publish(self._topics.down(device_id, "meta"), payload, qos=1)

    @staticmethod
    def _in_a_message(answer: Metadata, data: bytes) -> bytes | None:
        with contextlib.suppress(UnicodeDecodeError, MessageError):
            return encode(Metadata(request=answer.request, name=answer.name, found=True, body=data.decode()))
        return None

    def _as_a_blob(self, answer: Metadata, data: bytes) -> bytes:
        ref, lists = describe([data])
        self._blobs |= {ref.digest: data, **dict(zip(ref.lists, lists, strict=True))}
        return encode(Metadata(request=answer.request, name=answer.name, found=True, blob=_checked(ref)))

    def _send_chunks(self, device_id: str, want: Want) -> None:
        data = self._blobs.get(want.blob)
        if data is None:
            return
        topic = self._topics.chunks(want.blob, device_id if want.detached else None)
        for first, count in want.ranges:
            for index in range(first, first + count):
                offset, length = chunk_span(index, len(data))
                self._client.publish(topic, pack_chunk(index, data[offset : offset + length]), qos=0)

    def _fetch(self, url: str) -> bytes | None:
        try:
            with self._opener.open(url, timeout=_TIMEOUT_S) as response:
                data: bytes = response.read(MAX_FILE_BYTES + 1)
                return data
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _ABSENT:
                    return None
                raise


def _checked(ref: BlobRef) -> BlobRef:
    if ref.size_bytes > MAX_FILE_BYTES:
        raise BridgeError(f"the repository sent more than {MAX_FILE_BYTES} bytes, which no device takes as one file")
    return ref


def _no_delay(_client: paho.Client, _user: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
