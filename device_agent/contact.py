"""The device's side of a session: says hello, asks, reports and tells, and hands on what it hears.

`link_up`, `link_down`, `message`, `bulk` and `will` are for the link's thread, the rest for the loop's. Chunks are
dealt with in the link's thread, all else is posted to the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from device_agent.admission import Trigger
from device_agent.asks import MetadataFiles
from device_agent.backlog import Backlog
from device_agent.config import AgentSettings
from device_agent.hearing import Hearing, Hears
from device_agent.journal import Journal
from device_agent.journal_database import JournalError
from device_agent.loop import Loop
from device_agent.reports import Reports
from device_agent.session import Session
from device_agent.standing import Standing, StateSender
from device_agent.told import Told
from device_agent.vetting import ENCODINGS
from protocol.codec import encode
from protocol.down import Bundle
from protocol.signing import Signature
from protocol.topics import Topics
from protocol.up import Asked, DeviceState, Hello, Presence

AGENT_VERSION: Final = "0.1.0"
AGAIN_S: Final = 5.0
_LOG = logging.getLogger(__name__)


class Link(Protocol):
    """The connection to the broker (`link.Link`)."""

    @property
    def is_up(self) -> bool:
        """Whether the broker is connected."""

    def start(self) -> None:
        """Connect, and stay connected."""

    def stop(self) -> None:
        """Say farewell and disconnect."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over."""

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        """Want these topics."""

    def unsubscribe(self, filters: Iterable[str]) -> bool:
        """Want them no more."""


class Root(Protocol):
    """What the device trusts, as far as a session needs it (`trust.DeviceTrust`)."""

    @property
    def root_version(self) -> int:
        """The version of the root metadata that it trusts."""

    def verify(self, pae: bytes, signatures: Iterable[Signature]) -> None:
        """Raise TrustError unless the online key signed it."""


class ContactHears(Hears, Protocol):
    """Who does something about what happens to the contact, in the loop's thread."""

    def session_began(self) -> None:
        """Hear that the broker is connected."""

    def session_ended(self) -> None:
        """Hear that it is not any more."""

    def broker_answered(self, at_s: float) -> None:
        """Hear that the broker sent something, at a time of the loop's clock."""


class BundleTaker(Root, Protocol):
    """What takes bundles, besides."""

    @property
    def is_behind(self) -> bool:
        """Whether the last bundle stands on a newer root."""

    def offer_bundle(self, bundle: Bundle) -> bool:
        """Take a product's current metadata."""

    def refresh(self) -> None:
        """Bring everything up to date; blocking. Raises TrustError."""


class Contact:
    """One device's contact with its cloud. `on_chunk(blob, message)` takes chunks, in the link's thread."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        link: Link,
        journal: Journal,
        root: Root,
        files: MetadataFiles,
        loop: Loop,
        hears: ContactHears,
        on_chunk: Callable[[str, memoryview], None],
    ) -> None:
        self._settings = settings
        self._link = link
        self._journal = journal
        self._root = root
        self._files = files
        self._loop = loop
        self._hears = hears
        self._on_chunk = on_chunk
        self._topics = Topics(settings.broker.topic_root)
        self._chunk_prefixes = {self._topics.root, self._topics.down(settings.device_id, "").rstrip("/")}
        self._number = journal.session
        self._groups: tuple[str, ...] = ()
        self._backlog = Backlog()
        self._session = Session()
        self._reports = Reports(journal)
        self._sender = StateSender(self._send_state)
        self.told = Told(settings.device_id, settings.product, settings.components, keeper=journal)
        self._hearing = Hearing(
            topics=self._topics,
            device_id=settings.device_id,
            product=settings.product,
            told=self.told,
            session=self._session,
            reports=self._reports,
            files=files,
            verify=root.verify,
            hears=hears,
            refuse=journal.refuse,
            monotonic=loop.monotonic,
        )

    @property
    def session(self) -> int:
        """The number of the session, 0 while there is none."""
        return self._session.number

    @property
    def awaits_decision(self) -> bool:
        """Whether a decision follows soon anyway."""
        return self._session.awaits_decision

    def start(self) -> None:
        """Subscribe and connect."""
        self._link.subscribe({self._topics.all_down(self._settings.device_id): 1})
        self._link.subscribe({self._topics.bundle(self._settings.product): 1})
        self.follow_groups()
        self._link.start()

    def will(self) -> bytes:
        """Return the last will: that the session of the connection being made, or made, is over."""
        number = self._number if self._link.is_up else self._number + 1
        return encode(Presence(online=False, session=number))

    def link_up(self, _session_present: bool) -> None:
        """Hear that the broker is connected."""
        at_s = self._loop.monotonic()
        self._loop.post(lambda: self._hears.broker_answered(at_s))
        self._loop.post(self._begin)

    def link_down(self, _why: str) -> None:
        """Hear that it is not any more."""
        self._loop.post(self._end)

    def message(self, topic: str, payload: bytes) -> None:
        """Take a message from the broker."""
        if not self.bulk(topic, memoryview(payload)):
            if not self._backlog.enter(len(payload)):
                self._journal.refuse("overrun")
                return
            at_s = self._loop.monotonic()
            self._loop.post(lambda: self._heard(topic, payload, at_s))

    def bulk(self, topic: str, payload: memoryview) -> bool:
        """Take a message if it is a chunk."""
        prefix, _, blob = topic.rpartition("/b/")
        if not blob or prefix not in self._chunk_prefixes:
            return False
        self._on_chunk(blob, payload)
        self._files.on_chunk(blob, payload)
        return True

    def follow_groups(self) -> None:
        """Subscribe to the notices of the groups that the device is in, and no others."""
        before, self._groups = self._groups, self.told.groups
        topics = {group: self._topics.notice(self._settings.product, group, "+") for group in before + self._groups}
        if gone := [topics[group] for group in before if group not in self._groups]:
            self._link.unsubscribe(gone)
        if joined := {topics[group]: 1 for group in self._groups if group not in before}:
            self._link.subscribe(joined)

    def provoke(self) -> None:
        """Have the broker send something: the bundle, which is retained, comes at each subscription."""
        self._link.subscribe({self._topics.bundle(self._settings.product): 1})

    def check(self, trigger: Trigger) -> None:
        """Ask the cloud now, and again when the interval is over."""
        self._session.check(trigger, self._loop.monotonic())
        self._loop.after("check", self._settings.updates.check_interval_s, lambda: self.check(Trigger.TIMER))

    def entries_added(self) -> None:
        """Hear that the journal has something to tell."""
        self._reports.entries_added(self._loop.monotonic())

    def take_trigger(self) -> Trigger | None:
        """Return, once, what a decision is to be made for now."""
        return self._session.take_trigger(self.told.missing(), self._loop.monotonic())

    def send_due(self, standing: Standing) -> None:
        """Send what is due now."""
        now = self._loop.monotonic()
        if self._session.hello_due(now):
            self._publish("hello", encode(self._hello(standing, now)))
            self._reports.hello_said()
        if self._session.ask_due(now):
            for channel in self.told.missing():
                self._files.ask_for(Asked.NOTICE, channel)
        report = self._reports.report_due(now)
        if report is not None:
            self._publish("report", encode(report))
        times = (self._sender.changed(standing, now), self._session.next_due(), self._reports.next_due())
        self._loop.at("contact", min((due for due in times if due is not None), default=None), _nothing)

    def _begin(self) -> None:
        if not self._link.is_up:
            return
        try:
            number = self._journal.next_session()
        except JournalError as error:
            _LOG.error("no session without its number: %s", error)
            self._loop.after("session", AGAIN_S, self._begin)
            return
        now = self._loop.monotonic()
        self._number = number
        self._session.begin(number, now)
        self._sender.begin(number)
        self._reports.link_up(now)
        self._publish("presence", encode(Presence(online=True, session=number)), retain=True)
        self._loop.after("check", self._settings.updates.check_interval_s, lambda: self.check(Trigger.TIMER))
        self._hears.session_began()

    def _end(self) -> None:
        self._session.end()
        self._sender.end()
        self._reports.link_down()
        self._hears.session_ended()

    def _heard(self, topic: str, payload: bytes, at_s: float) -> None:
        self._backlog.leave(len(payload))
        self._hears.broker_answered(at_s)
        self._hearing.message(topic, payload)

    def _hello(self, standing: Standing, now: float) -> Hello:
        return Hello(
            product=self._settings.product,
            hardware_model=self._settings.hardware_model,
            agent_version=AGENT_VERSION,
            journal=self._journal.position(),
            state=self._sender.for_hello(standing, now),
            root_version=self._root.root_version,
            encodings=ENCODINGS,
            attributes=self._settings.attributes,
            timezone=self._settings.timezone,
        )

    def _send_state(self, state: DeviceState) -> bool:
        return self._publish("state", encode(state))

    def _publish(self, kind: str, payload: bytes, *, retain: bool = False) -> bool:
        return self._link.publish(self._topics.up(self._settings.device_id, kind), payload, retain=retain)


def _nothing() -> None:
    pass  # what is due is sent when the loop settles
