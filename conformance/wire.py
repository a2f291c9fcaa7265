"""A broker, the agent's own link to it, and the bridge behind it: what a command of the client has for a network."""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cloud.broker import EmbeddedBroker
from conformance.bridge import Bridge, BridgeError
from device_agent.asks import MetadataFiles
from device_agent.link import Link, LinkSettings
from protocol.codec import decode, encode
from protocol.down import Metadata
from protocol.errors import FleetliftError
from protocol.topics import ChunkTopic, DownTopic, Topics
from protocol.up import Presence

DEVICE_ID: Final = "conformance"
ANSWER_TIMEOUT_S: Final = 5.0
_UP_TIMEOUT_S: Final = 20.0


@contextlib.contextmanager
def wire(directory: Path, metadata_url: str, targets: Mapping[str, str]) -> Iterator[Callable[[str], bytes | None]]:
    """Yield the agent's way to ask for a file by its name in messages, over a broker of its own on loopback.

    The broker's files lie in `directory` while it runs. Raises BridgeError, BrokerError.
    """
    topics = Topics()
    with (
        tempfile.TemporaryDirectory(prefix=".broker-", dir=directory) as place,
        EmbeddedBroker(Path(place)) as broker,
        Bridge(broker.port, topics, metadata_url, targets),
        _linked(broker.url, topics) as files,
    ):
        yield files.file


@contextlib.contextmanager
def _linked(url: str, topics: Topics) -> Iterator[MetadataFiles]:
    up = threading.Event()

    def bulk(topic: str, payload: memoryview) -> bool:
        _, is_chunk, blob = topic.rpartition("/b/")
        if is_chunk:
            files.on_chunk(blob, payload)
        return bool(is_chunk)

    def message(topic_text: str, payload: bytes) -> None:
        try:
            match topics.parse(topic_text):
                case DownTopic(device_id, "meta") if device_id == DEVICE_ID:
                    files.answer(decode(payload, Metadata))
                case ChunkTopic(blob):
                    files.on_chunk(blob, payload)
        except FleetliftError:
            return  # refused and dropped: what is waited for does not come

    link = Link(
        LinkSettings(url=url, device_id=DEVICE_ID),
        topics,
        will=lambda: encode(Presence(online=False, session=1)),
        on_up=lambda _session_present: up.set(),
        on_down=lambda _why: None,
        on_message=message,
        on_bulk=bulk,
    )
    files = MetadataFiles(link, topics, DEVICE_ID, timeout_s=ANSWER_TIMEOUT_S)
    link.subscribe({topics.all_down(DEVICE_ID): 1})
    link.start()
    try:
        if not up.wait(_UP_TIMEOUT_S):
            raise BridgeError(f"the link to the broker did not come up: {link.problem}")
        yield files
    finally:
        files.close()
        link.stop()
