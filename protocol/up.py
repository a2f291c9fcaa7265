"""What devices tell the cloud: who they are, how they stand, what happened, and what they want.

Times are milliseconds since 1970 by the device's clock, for people only: order is told by sequence numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.chunks import check_ranges
from protocol.errors import MessageError
from protocol.identity import MAX_INTEGER, check_digest, check_id, check_version
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.values import (
    MAX_ATTRIBUTES,
    MAX_COMPONENTS,
    MAX_ENTRIES,
    MAX_FAILED,
    MAX_GAUGES,
    MAX_HOLDS,
    MAX_RELEASES,
    MAX_TIMEZONE,
    MAX_WANTED_CHUNKS,
    MAX_WANTED_RANGES,
    PROTOCOL_VERSION,
    ComponentState,
    Scope,
    Via,
    check_few,
    check_metadata_name,
    check_number,
    check_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldInfo:
    """Somebody's reason to wait."""

    owner: str
    why: str
    scopes: tuple[Scope, ...]
    expires_at_ms: int | None = None

    def __post_init__(self) -> None:
        check_text(self.owner, "owner", 100)
        check_text(self.why, "why", 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether the application lets updates happen."""

    enabled: bool = True
    disabled_until_ms: int | None = None
    holds: tuple[HoldInfo, ...] = ()

    def __post_init__(self) -> None:
        check_few(self.holds, "holds", MAX_HOLDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A newer firmware that waits on the device, and why."""

    component: str
    version: str
    digest: str
    source_id: str
    why: Wait
    detail: str = ""

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_version(self.version)
        check_digest(self.digest)
        check_id(self.source_id, "source_id")
        check_text(self.detail, "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the download is, in bytes that are verified and durable."""

    attempt_id: str
    component: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a component's application does since this digest was started first: its crashes, and gauges by name.

    Gauges are whole numbers in a unit that the application chooses.
    """

    component: str
    digest: str
    crashes: int = 0
    gauges: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_digest(self.digest)
        check_number(self.crashes, "crashes")
        check_few(self.gauges, "gauges", MAX_GAUGES)
        for name, value in self.gauges.items():
            check_id(name, "gauges")
            check_number(value, f"gauges.{name}", -MAX_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """How the device stands now; the newest `seq` of a session wins.

    `declined` are releases that somebody at the device declined. `waits_for_turn` is the attempt that waits for the
    cloud to say that it is the device's turn.
    """

    session: int
    seq: int
    phase: Phase
    components: tuple[ComponentState, ...] = ()
    availability: Availability = field(default_factory=Availability)
    pending: tuple[Pending, ...] = ()
    progress: Progress | None = None
    failed: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    declined: tuple[str, ...] = ()
    waits_for_turn: str = ""
    health: tuple[Health, ...] = ()

    def __post_init__(self) -> None:
        check_few(self.declined, "declined", MAX_RELEASES)
        for release_id in self.declined:
            check_id(release_id, "declined")
        if self.waits_for_turn:
            check_id(self.waits_for_turn, "waits_for_turn")
        check_few(self.health, "health", MAX_COMPONENTS)
        check_number(self.session, "session", 1)
        check_number(self.seq, "seq")
        check_few(self.components, "components", MAX_COMPONENTS)
        check_few(self.pending, "pending", MAX_COMPONENTS)
        check_few(self.failed, "failed", MAX_FAILED)
        check_few(self.refused, "refused", MAX_ATTRIBUTES)
        names = [item.component for item in self.components]
        if len(set(names)) != len(names):
            raise MessageError("components names one twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalPosition:
    """Which journal the device writes, and the number that its next entry will have."""

    journal_id: str
    next_seq: int

    def __post_init__(self) -> None:
        check_id(self.journal_id, "journal_id")
        check_number(self.next_seq, "next_seq", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A device opens a session: what it is, what it runs, where its journal stands. Answered by Desired and Ack."""

    product: str
    hardware_model: str
    agent_version: str
    journal: JournalPosition
    state: DeviceState
    protocol: int = PROTOCOL_VERSION
    root_version: int = 0
    encodings: tuple[str, ...] = ("identity",)
    attributes: Mapping[str, str] = field(default_factory=dict)
    timezone: str = ""
    """Of the IANA database, as `Europe/Lisbon`; empty for UTC."""

    def __post_init__(self) -> None:
        check_id(self.product, "product")
        check_id(self.hardware_model, "hardware_model")
        check_version(self.agent_version, "agent_version")
        check_number(self.protocol, "protocol", 1)
        check_few(self.encodings, "encodings", MAX_ATTRIBUTES)
        check_text(self.timezone, "timezone", MAX_TIMEZONE)
        check_few(self.attributes, "attributes", MAX_ATTRIBUTES)
        for name, value in self.attributes.items():
            check_text(name, "attributes", 64)
            check_text(value, f"attributes.{name}", 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEntry:
    """One step of one device taking one firmware; the last one of an attempt has an outcome.

    `source_id` is the release's or the OTA's id, or `pin`. `booted_digest` is the digest of what runs, hashed by the
    device after the start; a success without it is none. `order` is the decision that the attempt followed.
    """

    attempt_id: str
    source_id: str
    via: Via
    component: str
    version: str
    digest: str
    phase: Phase
    from_version: str | None = None
    from_digest: str | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    detail: str = ""
    booted_digest: str | None = None
    fetched_bytes: int = 0
    forced: bool = False
    order: int = 0

    def __post_init__(self) -> None:
        check_number(self.order, "order")
        check_id(self.attempt_id, "attempt_id")
        check_id(self.source_id, "source_id")
        check_id(self.component, "component")
        check_version(self.version)
        check_digest(self.digest)
        check_text(self.detail, "detail")
        check_number(self.fetched_bytes, "fetched_bytes")
        if self.outcome is Outcome.SUCCEEDED and self.booted_digest is None:
            raise MessageError("booted_digest is missing: a success is told by the digest that booted")
        if self.outcome not in (None, Outcome.SUCCEEDED) and self.reason is None:
            raise MessageError("reason is missing: an attempt that did not succeed says why")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One numbered entry of the device's journal: a step of an attempt, or a component that is found installed."""

    seq: int
    at_ms: int
    attempt: AttemptEntry | None = None
    installed: ComponentState | None = None

    def __post_init__(self) -> None:
        check_number(self.seq, "seq", 1)
        check_number(self.at_ms, "at_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Entries of the device's journal, ascending; each is kept and sent again until an Ack covers it."""

    journal_id: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        check_id(self.journal_id, "journal_id")
        check_few(self.entries, "entries", MAX_ENTRIES)
        numbers = [entry.seq for entry in self.entries]
        if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise MessageError("entries are not one after the other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """The chunks that a device waits for, as [first, count] ranges: the credit for them, and the whole of it.

    A newer Want adds to those before it. `detached` asks for them on the device's own topic.
    """

    blob: str
    ranges: tuple[tuple[int, ...], ...]
    detached: bool = False

    def __post_init__(self) -> None:
        check_digest(self.blob, "blob")
        check_few(self.ranges, "ranges", MAX_WANTED_RANGES)
        if not self.ranges or any(len(item) != 2 for item in self.ranges):
            raise MessageError("ranges is a list of [first, count] pairs")
        check_ranges([(first, count) for first, count in self.ranges], max_chunks=MAX_WANTED_CHUNKS)


class Asked(StrEnum):
    """What a device may ask for."""

    METADATA = "metadata"
    """A TUF metadata file by name; answered on the device's `meta` topic."""
    BUNDLE = "bundle"
    """The product's metadata bundle, which then is published again."""
    NOTICE = "notice"
    """A channel's notice, named `<group>/<component>`, which then is published again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A device asks for something that it lacks; `request` comes back in the answer."""

    request: int
    what: Asked
    name: str = ""

    def __post_init__(self) -> None:
        check_number(self.request, "request")
        if self.what is Asked.METADATA:
            check_metadata_name(self.name)
        check_text(self.name, "name", 130)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether the device is connected (retained; the offline one is the last will)."""

    online: bool
    session: int
