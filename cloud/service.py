"""The cloud's loop: hears devices, tells them what changed, keeps the metadata fresh, and ends only when told to.

Rules. The row is the truth and a message is a reminder of it: what is to be told lies in the store's outbox until the
broker has it. On each connection every retained message is published again, because the broker may have lost them. One
bad message, one failing publish or one failing disk write is counted and logged, and ends nothing.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from structlog.contextvars import bound_contextvars

from cloud.artifacts import Artifacts
from cloud.changes import Changes
from cloud.link import LinkError, UpMessage
from cloud.reception import Reception, Streaming
from cloud.refusals import Refusals
from cloud.roles import TrustError
from cloud.rollouts_loop import RolloutsLoop
from cloud.shadowing import TooManyReleasesError
from cloud.spans import Kind, span
from cloud.store.errors import NotFoundError
from cloud.store.store import Store
from cloud.tally import Tally
from cloud.trust import MetadataRepository
from cloud.values import ChannelKey, OutboxItem, OutboxKind
from protocol.codec import encode
from protocol.down import Notice
from protocol.errors import FleetliftError, ProtocolError
from protocol.signing import NOTICE_TYPE, seal
from protocol.topics import Topics
from protocol.up import Hello

_log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 2.0
"""How often the outbox is looked at when nothing wakes it."""
GATHER_S: Final = 0.2
"""How long asked repetitions gather, so that a fleet that asks at once is told once."""
RESIGN_CHECK_S: Final = 60.0
WARN_EVERY_S: Final = 86_400.0
OUTBOX_BATCH: Final = 100
TURNS: Final = 64


class Broker(Protocol):
    """The connection to the broker."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker is reached now."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Return when the broker has it (QoS 1); raises LinkError when it is not reached."""


class Service:
    """Ties store, metadata, artifacts and broker together."""

    def __init__(
        self,
        store: Store,
        repository: MetadataRepository,
        artifacts: Artifacts,
        *,
        link: Broker,
        streams: Streaming,
        topics: Topics,
        changes: Changes,
        open_joining: bool = True,
        refusals: Refusals | None = None,
        tell_access: Callable[[], None] = lambda: None,
        beside: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    ) -> None:
        """Take the parts; `run` starts.

        `tell_access` has the broker learn whom it lets in and what each may do (blocking; raises FleetliftError).
        `beside` are steps of other rooms that are repeated for ever beside these, by name.
        """
        self.tally = Tally(refusals)
        self._store, self._repository, self._link, self._topics = store, repository, link, topics
        self._changes, self._tell_access, self._beside = changes, tell_access, dict(beside or {})
        self._rollouts = RolloutsLoop(store, changes, self.tally, is_connected=lambda: link.is_connected)
        self._revoked: frozenset[str] = frozenset()
        self._connected = asyncio.Event()
        self._asked: set[tuple[OutboxKind, str]] = set()
        self._ask_came = asyncio.Event()
        self._turns = [asyncio.Lock() for _ in range(TURNS)]
        """Devices and channels share them: messages of one topic leave in the order in which they were computed."""
        self._reception = Reception(
            store,
            repository,
            artifacts,
            streams=streams,
            publish=self._publish,
            repeat=self._repeat,
            topics=topics,
            changes=changes,
            tally=self.tally,
            open_joining=open_joining,
        )

    async def receive(self, device_id: str, message: UpMessage) -> None:
        """Store what a device says and answer it; raises FleetliftError, and then the device says it again."""
        kind = type(message).__name__.lower()
        self.tally.receive(kind)
        with (
            bound_contextvars(device_id=device_id),
            span(f"receive {kind}", Kind.CONSUMER, messaging__system="mqtt", fleetlift__device_id=device_id),
        ):
            if device_id in self._revoked:  # the broker shuts it out, too; this is for what was on its way
                self.tally.refuse(kind, "revoked", device_id, "The device is revoked.")
            elif isinstance(message, Hello):
                _log.debug("hello, session %d", message.state.session)
                async with self._turn(device_id):
                    await self._reception.receive(device_id, message)
            else:
                await self._reception.receive(device_id, message)

    def connected(self) -> None:
        """Take the link's word that it is connected (again)."""
        self._connected.set()
        self._rollouts.reconnected()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._learn_revoked()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(self._tell_changes, "outbox"), name="outbox")
            tasks.create_task(self._keep(self._tell_all, "republish"), name="republish")
            tasks.create_task(self._keep(self._tell_asked, "repeat"), name="repeat")
            tasks.create_task(self._keep(self._resign, "resign"), name="resign")
            tasks.create_task(self._keep(self._warn, "warn"), name="warn")
            tasks.create_task(self._keep(self._rollouts.step, "rollouts"), name="rollouts")
            for name, step in self._beside.items():
                tasks.create_task(self._keep(step, name), name=name)

    async def _keep(self, step: Callable[[], Awaitable[None]], name: str) -> None:
        """Repeat a step for ever; one that fails is logged and tried again."""
        while True:
            try:
                await step()
            except FleetliftError as error:
                self.tally.fail(name, "failed", "the service", error)
                await asyncio.sleep(LOOK_AGAIN_S)
            except OSError as error:
                self.tally.fail(name, "disk", "the service", error)
                await asyncio.sleep(LOOK_AGAIN_S)
            except Exception:  # noqa: BLE001 - the same
                _log.exception("%s failed and is tried again", name)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _tell_changes(self) -> None:
        """Send what lies in the outbox, then wait for more."""
        seen = self._changes.revision
        kind = None if self._link.is_connected else OutboxKind.ACCESS  # files, which need no connection
        items = await asyncio.to_thread(self._store.outbox.take, OUTBOX_BATCH, kind)
        told = [await self._tell(item) for item in items]
        if len(items) == OUTBOX_BATCH and any(told):
            return
        await self._changes.wait(seen, LOOK_AGAIN_S)

    async def _tell(self, item: OutboxItem) -> bool:
        named = "device_id" if item.kind is OutboxKind.DESIRED else "subject"
        with bound_contextvars(**{named: item.key}), span(f"tell {item.kind.value}", fleetlift__subject=item.key):
            return await self._tell_item(item)

    async def _tell_item(self, item: OutboxItem) -> bool:
        try:
            notice = await self._say(item.kind, item.key)
            if notice is not None:
                await self._log_notice(item.key, notice)
        except LinkError:
            raise  # the whole outbox waits until the broker is back
        except (NotFoundError, ProtocolError, TrustError, TooManyReleasesError) as error:  # gone, or never to be said
            self.tally.fail(item.kind.value, _code_of(error), item.key, error)
        except FleetliftError as error:  # to the end of the line: it must not keep the others waiting
            self.tally.fail(item.kind.value, _code_of(error), item.key, error)
            await asyncio.to_thread(self._store.outbox.mark, item.kind, item.key)
            return False
        return await asyncio.to_thread(self._store.outbox.settle, item)

    async def _log_notice(self, channel: str, notice: Notice) -> None:
        """Say which releases devices are told of now; with the newest's id goes the request that decided on it last."""
        fields: dict[str, object] = {"releases": [f"v{it.label} {it.release_id}" for it in notice.releases]}
        if notice.releases:
            newest = notice.releases[0]
            last = await asyncio.to_thread(self._store.audit.last, f"release/{newest.release_id}")
            request_id = (last.origin or {}).get("request") if last else None
            fields |= {"release_id": newest.release_id, "label": f"v{newest.label}"}
            fields |= {"request_id": request_id} if request_id else {}
        _log.info("the notice of %s is published, number %d", channel, notice.seq, extra=fields)

    async def _say(self, kind: OutboxKind, key: str) -> Notice | None:
        """Compute a message from the truth and publish it: one at a time, so that an older one never comes last.

        Returns the notice, if it was one.
        """
        async with self._turn(key if kind is OutboxKind.DESIRED else f"{kind.value}/{key}"):
            notice = await self._say_in_turn(kind, key)
        self.tally.publish(kind.value)
        return notice

    async def _say_in_turn(self, kind: OutboxKind, key: str) -> Notice | None:
        match kind:
            case OutboxKind.NOTICE:
                channel = ChannelKey.parse(key)
                notice = await asyncio.to_thread(self._store.releases.channel_notice, channel)
                payload = await asyncio.to_thread(seal, notice, NOTICE_TYPE, self._repository.sign)
                topic = self._topics.notice(channel.product, channel.group, channel.component)
                await self._publish(topic, payload, retain=True)
                return notice
            case OutboxKind.BUNDLE:
                bundle = await asyncio.to_thread(self._repository.bundle, key)
                await self._publish(self._topics.bundle(key), encode(bundle), retain=True)
            case OutboxKind.DESIRED:
                await self._say_desired(key)
            case OutboxKind.ACCESS:
                await self._learn_revoked()
                await asyncio.to_thread(self._tell_access)
        return None

    async def _learn_revoked(self) -> None:
        revocations = await asyncio.to_thread(self._store.certificates.revocations)
        self._revoked = frozenset(revocations.device_ids)

    async def _say_desired(self, device_id: str) -> None:
        device = await asyncio.to_thread(self._store.devices.device, device_id)
        if device.online:  # one that is not asks when it comes back
            desired = await asyncio.to_thread(self._store.devices.desired_for, device_id)
            await self._publish(self._topics.down(device_id, "desired"), await self._reception.seal(desired))
            otas = {"ota_id": desired.otas[-1].ota_id} if desired.otas else {}
            _log.info(
                "what it is to follow is published, number %d", desired.seq, extra={"device_id": device_id, **otas}
            )

    async def _tell_all(self) -> None:
        """After each connection, publish every retained message again."""
        await self._connected.wait()
        self._connected.clear()
        try:
            products = await asyncio.to_thread(self._repository.products)
            channels = await asyncio.to_thread(self._store.releases.channels)
        except BaseException:
            self._connected.set()  # it is still to be done
            raise
        self._asked |= {(OutboxKind.BUNDLE, product) for product in products}
        self._asked |= {(OutboxKind.NOTICE, str(channel)) for channel in channels}
        self._ask_came.set()

    async def _tell_asked(self) -> None:
        """Publish again what devices asked for, once for all who asked meanwhile."""
        await self._ask_came.wait()
        await asyncio.sleep(GATHER_S)
        self._ask_came.clear()
        while self._asked:
            kind, key = self._asked.pop()
            try:
                await self._say(kind, key)
            except FleetliftError as error:  # after the next connection everything is said again anyway
                self.tally.fail(kind.value, _code_of(error), key, error)
            except BaseException:
                self._repeat(kind, key)
                raise

    def _repeat(self, kind: OutboxKind, key: str) -> None:
        self._asked.add((kind, key))
        self._ask_came.set()

    async def _resign(self) -> None:
        if await asyncio.to_thread(self._repository.resign_if_due):
            for product in self._repository.products():
                self._repeat(OutboxKind.BUNDLE, product)
        await asyncio.sleep(RESIGN_CHECK_S)

    async def _warn(self) -> None:
        for expiry in await asyncio.to_thread(self._repository.expiries):
            if expiry.due:
                _log.warning(
                    "metadata %s version %d expires at %s and must be renewed by the %s",
                    expiry.name,
                    expiry.version,
                    expiry.expires_at.isoformat(),
                    expiry.renewed_by,
                )
        await asyncio.sleep(WARN_EVERY_S)

    def _turn(self, of: str) -> asyncio.Lock:
        return self._turns[zlib.crc32(of.encode()) % TURNS]

    async def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        with span("publish", Kind.PRODUCER, messaging__system="mqtt", messaging__destination__name=topic):
            await self._link.publish(topic, payload, retain=retain)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Return what was counted."""
        return self.tally.counts()


def _code_of(error: FleetliftError) -> str:
    return str(getattr(error, "code", "failed"))
