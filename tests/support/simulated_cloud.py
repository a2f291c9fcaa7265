"""The cloud of one simulated device, and the link to it: a second writing of docs/protocol.md, in one thread."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from device_agent.contact import Contact
from device_agent.trust import Distrust, TrustError
from protocol.codec import decode, encode
from protocol.down import Ack, Bundle, Desired, Notice, NoticeRelease, Ota
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Signature, seal
from protocol.topics import Topics
from protocol.up import Ask, AttemptEntry, DeviceState, Entry, Hello, Report
from protocol.values import FirmwareRef, Urgency

DEVICE, PRODUCT, MODEL = "pi-1", "thermostat", "pi4"
GOOD_KEY = "a" * 64
TOPICS = Topics()


@dataclass
class Cloud:
    """The cloud of one device: says what is wanted, and keeps what it is told; it follows docs/protocol.md."""

    releases: list[NoticeRelease] = field(default_factory=list)
    otas: list[Ota] = field(default_factory=list)
    floors: dict[str, int] = field(default_factory=dict)
    ota_enabled: bool = True
    takes_turns: bool = False
    turn: str = ""
    seq: int = 1
    desired_seq: int = 1
    entries: list[Entry] = field(default_factory=list)
    journals: dict[str, int] = field(default_factory=dict)
    hellos: list[Hello] = field(default_factory=list)
    states: list[DeviceState] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    answers: bool = True

    def release(self, image: FirmwareRef, **values: Any) -> NoticeRelease:
        """Make a release; it is told at the next hello, or by `SimulatedLink.notify`."""
        label = len(self.releases) + 1
        release = NoticeRelease(
            release_id=f"r{label}",
            label=label,
            order=self.next_order(),
            firmware=image,
            **{"urgency": Urgency.IMMEDIATE, **values},
        )
        self.releases.insert(0, release)
        self.seq += 1
        return release

    def patch(self, release: NoticeRelease, **values: Any) -> None:
        self.releases = [dataclasses.replace(item, **values) if item == release else item for item in self.releases]
        self.seq += 1

    def disable(self, release: NoticeRelease) -> None:
        self.releases.remove(release)
        self.seq += 1

    def next_order(self) -> int:
        orders = [release.order for release in self.releases] + [ota.order for ota in self.otas]
        return 1 + max(orders, default=0)

    def notice(self) -> bytes:
        notice = Notice(
            product=PRODUCT,
            group="everyone",
            component="app",
            seq=self.seq,
            issued_at_ms=0,
            releases=tuple(self.releases),
        )
        return seal(notice, NOTICE_TYPE, sign)

    def desired(self, session: int) -> bytes:
        desired = Desired(
            device_id=DEVICE,
            seq=self.desired_seq,
            session=session,
            issued_at_ms=0,
            product=PRODUCT,
            groups=("everyone",),
            otas=tuple(self.otas),
            ota_enabled=self.ota_enabled,
            takes_turns=self.takes_turns,
            turn=self.turn,
            notices={"everyone/app": self.seq},
        )
        return seal(desired, DESIRED_TYPE, sign)

    def give_turn(self, attempt_id: str) -> None:
        """Say whose turn it is, from the next Desired on."""
        self.turn = attempt_id
        self.desired_seq += 1

    def attempts(self) -> dict[str, list[AttemptEntry]]:
        """Return what each attempt told, oldest first."""
        found: dict[str, list[AttemptEntry]] = {}
        for entry in self.entries:
            if entry.attempt is not None:
                found.setdefault(entry.attempt.attempt_id, []).append(entry.attempt)
        return found

    def ends(self) -> list[AttemptEntry]:
        """Return the last entries of attempts that ended."""
        return [item for items in self.attempts().values() for item in items if item.outcome is not None]

    def receive(self, report: Report) -> Ack:
        """Keep what comes next, and only that."""
        for entry in report.entries:
            if entry.seq == self.journals.get(report.journal_id, 0) + 1:
                self.journals[report.journal_id] = entry.seq
                self.entries.append(entry)
        return Ack(journal_id=report.journal_id, through=self.journals.get(report.journal_id, 0))


def sign(pae: bytes) -> tuple[Signature, ...]:
    """Sign as the online key of this simulation: with a hash."""
    return (Signature(keyid=GOOD_KEY, sig=hashlib.sha256(pae).hexdigest()),)


class SimulatedTrust:
    """Knows the online key."""

    root_version = 1
    is_behind = False

    def verify(self, pae: bytes, signatures: Iterable[Signature]) -> None:
        if tuple(signatures) != sign(pae):
            raise TrustError(Distrust.BAD_SIGNATURE, "not signed by the online key")

    def offer_bundle(self, bundle: Bundle) -> bool:
        return bundle.product == PRODUCT

    def refresh(self) -> None:
        pass


class SimulatedLink:
    """Delivers between a device and a cloud, at once and in order, while it is up."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.contact: Contact | None = None
        self.is_up = False
        self.published: list[tuple[str, bytes, bool]] = []
        self.filters: set[str] = set()

    def start(self) -> None:
        self.connect()

    def stop(self) -> None:
        self.is_up = False

    def connect(self) -> None:
        self.is_up = True
        if self.contact is not None:
            self.contact.link_up(False)

    def disconnect(self) -> None:
        self.is_up = False
        if self.contact is not None:
            self.contact.link_down("gone")

    def subscribe(self, filters: Mapping[str, int]) -> bool:
        self.filters.update(filters)
        if self.is_up and TOPICS.bundle(PRODUCT) in filters:  # it is retained
            self.send(TOPICS.bundle(PRODUCT), encode(Bundle(product=PRODUCT, root_version=1, files={})))
        return self.is_up

    def unsubscribe(self, filters: Iterable[str]) -> bool:
        self.filters.difference_update(filters)
        return self.is_up

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        del qos
        if not self.is_up:
            return False
        self.published.append((topic, payload, retain))
        if self.cloud.answers:
            self._answer(topic.rpartition("/")[2], payload)
        return True

    def deliver(self, kind: str, payload: bytes) -> None:
        """Send the device a message on one of its own topics."""
        self.send(TOPICS.down(DEVICE, kind), payload)

    def send(self, topic: str, payload: bytes) -> None:
        if self.contact is not None:
            self.contact.message(topic, payload)

    def notify(self, payload: bytes | None = None, group: str = "everyone") -> None:
        """Publish the channel's notice (again)."""
        self.send(TOPICS.notice(PRODUCT, group, "app"), payload or self.cloud.notice())

    def _answer(self, kind: str, payload: bytes) -> None:
        match kind:
            case "hello":
                hello = decode(payload, Hello)
                self.cloud.hellos.append(hello)
                journal_id = hello.journal.journal_id
                through = self.cloud.journals.get(journal_id, 0)
                self.deliver("ack", encode(Ack(journal_id=journal_id, through=through)))
                self.notify()
                self.deliver("desired", self.cloud.desired(hello.state.session))
            case "report":
                self.deliver("ack", encode(self.cloud.receive(decode(payload, Report))))
            case "state":
                self.cloud.states.append(decode(payload, DeviceState))
            case "ask":
                self.cloud.asks.append(decode(payload, Ask))
