"""What devices say, and what they are answered: one method per kind of message, each safe to repeat."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeVar, assert_never

from cloud.artifacts import Artifacts
from cloud.changes import Changes
from cloud.demand import Refusal
from cloud.link import UpMessage
from cloud.store.errors import NotFoundError
from cloud.store.journal import OTHER_PRODUCT, STALE_HELLO, UNKNOWN_DEVICE, UNKNOWN_PRODUCT
from cloud.store.store import Store
from cloud.tally import Tally
from cloud.trust import MetadataRepository
from cloud.values import OutboxKind
from protocol.chunks import MAX_BLOB_BYTES, BlobRef, describe
from protocol.codec import encode
from protocol.down import Ack, Desired, Metadata
from protocol.errors import MessageError
from protocol.identity import MAX_INTEGER
from protocol.signing import DESIRED_TYPE, seal
from protocol.topics import Topics
from protocol.up import Ask, Asked, DeviceState, Hello, Presence, Report, Want

M = TypeVar("M")
Publish = Callable[[str, bytes], Awaitable[None]]
"""Takes topic and payload; returns when the broker has it (QoS 1)."""
_CHANNEL_PARTS: Final = 2  # <group>/<component>
_HELLOS: Final[Mapping[str, str]] = {
    UNKNOWN_PRODUCT: "there is no product {hello.product}",
    OTHER_PRODUCT: "the device is registered as one of another product than {hello.product}",
    UNKNOWN_DEVICE: "the device was not enrolled, and only known ones are let in",
    STALE_HELLO: "session {hello.state.session} is before the one that it is in; each connect has a higher number",
}
_WANTS: Final[Mapping[Refusal, str]] = {
    Refusal.UNKNOWN_BLOB: "there is no such blob",
    Refusal.BEYOND_BLOB: "the blob ends before these chunks",
    Refusal.TOO_MANY_BLOBS: "too many blobs are wanted at once; it is taken when it is asked again",
    Refusal.TOO_MANY_DETACHED: "too many devices are served alone; it is taken when it is asked again",
    Refusal.TOO_MANY_CHUNKS: "the device wants more chunks at once than are kept for one",
}
_NO_HELLO: Final = "the device has not said hello yet"
_UNKNOWN_OR_STALE: Final = (
    f"{_NO_HELLO}, or this is no newer than what is known: session grows with each connect, and "
    "the seq of a state within a session"
)


class Streaming(Protocol):
    """Where wanted chunks are sent from."""

    def want(self, device_id: str, want: Want) -> Refusal | None:
        """Have chunks sent; returns at once, with the reason if not all of it is taken (which is counted as well)."""


class Reception:
    """Answers devices. Nothing here keeps anything: the store does, and what is lost is asked again."""

    def __init__(
        self,
        store: Store,
        repository: MetadataRepository,
        artifacts: Artifacts,
        *,
        streams: Streaming,
        publish: Publish,
        repeat: Callable[[OutboxKind, str], None],
        topics: Topics,
        changes: Changes,
        tally: Tally,
        open_joining: bool,
    ) -> None:
        """Take the parts; `repeat` has a retained message published again, at its leisure."""
        self._store, self._repository, self._artifacts = store, repository, artifacts
        self._streams, self._publish, self._repeat = streams, publish, repeat
        self._topics, self._changes, self._tally = topics, changes, tally
        self._open_joining = open_joining

    async def receive(self, device_id: str, message: UpMessage) -> None:
        """Store what a device says and answer it; raises what the store and the broker raise."""
        match message:
            case Hello():
                await self._hello(device_id, message)
            case DeviceState():
                await self._note(device_id, "state", self._store.journal.receive_state, message)
            case Presence():
                await self._note(device_id, "presence", self._store.journal.receive_presence, message)
            case Report():
                await self._report(device_id, message)
            case Want():
                self._want(device_id, message)
            case Ask():
                await self._ask(device_id, message)
            case _:
                assert_never(message)

    async def _hello(self, device_id: str, hello: Hello) -> None:
        answer = await asyncio.to_thread(
            self._store.journal.receive_hello, device_id, hello, open_joining=self._open_joining
        )
        if answer.refusal is not None:
            self._tally.refuse("hello", answer.refusal, device_id, _HELLOS[answer.refusal].format(hello=hello))
            if answer.refusal == STALE_HELLO:
                # Its own session numbers are behind what was said in its name. In a new journal they begin anew.
                beyond = Ack(journal_id=hello.journal.journal_id, through=MAX_INTEGER)
                await self._publish(self._topics.down(device_id, "ack"), encode(beyond))
            return
        self._changes.bump()
        if answer.ack is not None:
            await self._publish(self._topics.down(device_id, "ack"), encode(answer.ack))
        if answer.desired is not None:
            await self._publish(self._topics.down(device_id, "desired"), await self.seal(answer.desired))

    async def seal(self, desired: Desired) -> bytes:
        """Return a desired state as it travels: with the metadata's version, signed."""
        complete = dataclasses.replace(desired, metadata_version=self._repository.version)
        return await asyncio.to_thread(seal, complete, DESIRED_TYPE, self._repository.sign)

    async def _note(self, device_id: str, kind: str, store: Callable[[str, M], bool], message: M) -> None:
        if await asyncio.to_thread(store, device_id, message):
            self._changes.bump()
        else:
            # Usual: what is retained or comes twice is old when it arrives.
            self._tally.refuse(kind, "unknown_or_stale", device_id, _UNKNOWN_OR_STALE, of_all=True)

    async def _report(self, device_id: str, report: Report) -> None:
        through = await asyncio.to_thread(self._store.journal.receive_report, device_id, report)
        if through is None:
            self._tally.refuse("report", UNKNOWN_DEVICE, device_id, _NO_HELLO)
            return
        self._changes.bump()
        ack = Ack(journal_id=report.journal_id, through=through)
        await self._publish(self._topics.down(device_id, "ack"), encode(ack))

    async def _ask(self, device_id: str, ask: Ask) -> None:
        if ask.what is Asked.METADATA:
            answer = await asyncio.to_thread(self._metadata, ask)
            await self._publish(self._topics.down(device_id, "meta"), encode(answer))
            return
        try:
            product = (await asyncio.to_thread(self._store.devices.device, device_id)).product
        except NotFoundError:
            self._tally.refuse("ask", UNKNOWN_DEVICE, device_id, _NO_HELLO)
            return
        if ask.what is Asked.BUNDLE:
            self._repeat(OutboxKind.BUNDLE, product)
        elif len(ask.name.split("/")) == _CHANNEL_PARTS:
            self._repeat(OutboxKind.NOTICE, f"{product}/{ask.name}")
        else:
            self._tally.refuse("ask", "bad_name", device_id, f"{ask.name!r:.100} is no channel: <group>/<component>")

    def _want(self, device_id: str, want: Want) -> None:
        refusal = self._streams.want(device_id, want)
        if refusal is not None:
            of_all = refusal in (Refusal.TOO_MANY_BLOBS, Refusal.TOO_MANY_DETACHED)
            why = f"{_WANTS[refusal]} (blob {want.blob[:12]})"
            self._tally.refusals.note(device_id, "want", refusal.value, why, of_all=of_all)

    def _metadata(self, ask: Ask) -> Metadata:
        content = self._repository.metadata(ask.name)
        if content is None:
            return Metadata(request=ask.request, name=ask.name, found=False)
        answer = Metadata(request=ask.request, name=ask.name, found=True, body=content.decode())
        try:
            encode(answer)
        except MessageError:  # too large for one message: it travels as a blob
            return Metadata(request=ask.request, name=ask.name, found=True, blob=self._as_blob(content))
        return answer

    def _as_blob(self, content: bytes) -> BlobRef:
        digest = describe([content])[0].digest
        return self._artifacts.receive([content], digest, MAX_BLOB_BYTES)
