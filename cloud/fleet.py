"""Frozen values that leave the store: what devices are, how they stand, what was decided for them and what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cloud.attention import Trouble
from cloud.values import ChannelKey
from protocol.down import Ack, Desired
from protocol.facts import DeviceFacts
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.selection import Assignment, Channels
from protocol.up import Availability, Pending, Progress
from protocol.values import ComponentState, FirmwareRef, Urgency, Via


@dataclass(frozen=True, slots=True, kw_only=True)
class PinView:
    """A device that is locked to one version of a component."""

    component: str
    version: str
    digest: str
    pinned_at_ms: int
    pinned_by: str


class OtaStatus(StrEnum):
    """How a single-device OTA stands."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """A later release, OTA or pin decided for this device before it was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtaView:
    """A single-device OTA.

    While `in_force` the device is told to run it: one that succeeded goes on holding the device at its version until a
    release that was made after it reaches the device.
    """

    ota_id: str
    device_id: str
    product: str
    order: int
    firmware: FirmwareRef
    urgency: Urgency
    forced: bool
    status: OtaStatus
    in_force: bool
    reason: Reason | None
    detail: str
    created_at_ms: int
    created_by: str
    closed_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedMessage:
    """What a device said of one kind that was not processed, for one reason: how often, and why the last time."""

    kind: str
    code: str
    sentence: str
    count: int
    last_at_ms: int


ANY_REASON: Final = "any"
NO_REASON: Final = "none"


class CertificateStanding(StrEnum):
    """How the newest certificate of a device stands."""

    NONE = "none"
    GOOD = "good"
    """It ends later than EXPIRES_SOON_MS from now."""
    EXPIRES_SOON = "expires_soon"
    """Within two weeks: it should have been renewed."""
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFilter:
    """Which devices: every field that is not None must match. Ordered by id; `after` is the last id of the page before.

    `products` are those that whoever asks may look at. `version` is of `component` (of any component if that is None).
    `text` is somewhere in the id. `held`: its application holds updates back now. `failed`: its newest attempt at some
    component did not succeed, for that reason, for whichever (ANY_REASON), or for none that it told (NO_REASON).
    `quiet_for_s`: it is away, was last heard so long ago, and is not revoked. `locked`: to a version of some component.
    `decision`: one decision for many changed it, by the number of its row in the audit. `waits`: something waits on it,
    for that reason. `trouble`: it needs somebody, for that reason; the store does not know who is REFUSED (`among` has
    the ids), nor from when on one is QUIET (`quiet_for_s` says it). `refused`: it refused something that it was sent.
    """

    product: str | None = None
    products: frozenset[str] | None = None
    group: str | None = None
    online: bool | None = None
    component: str | None = None
    version: str | None = None
    pending: bool | None = None
    text: str | None = None
    hardware_model: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    held: bool | None = None
    failed: str | None = None
    quiet_for_s: int | None = None
    locked: bool | None = None
    revoked: bool | None = None
    decision: int | None = None
    waits: Wait | None = None
    trouble: Trouble | None = None
    certificate: CertificateStanding | None = None
    refused: bool | None = None
    among: tuple[str, ...] | None = None
    after: str | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device: what it is, how it last said it stands, and what was decided for it.

    `refused` counts what the device refused. `refused_messages` is what was refused of the device's own messages, the
    last one first, since the server started: the store does not know it, and who does fills it in.
    """

    device_id: str
    product: str
    hardware_model: str
    agent_version: str
    attributes: Mapping[str, str]
    groups: tuple[str, ...]
    online: bool
    session: int
    last_seen_at_ms: int | None
    registered_at_ms: int
    phase: Phase
    components: tuple[ComponentState, ...]
    availability: Availability
    pending: tuple[Pending, ...]
    progress: Progress | None
    failed: tuple[str, ...]
    refused: Mapping[str, int]
    pins: tuple[PinView, ...]
    otas: tuple[OtaView, ...]
    root_version: int
    journal_id: str | None
    journal_through: int
    revoked_at_ms: int | None = None
    refused_messages: tuple[RefusedMessage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One journal entry of an attempt. `at_ms` is the device's clock, `received_at_ms` the cloud's."""

    seq: int
    at_ms: int
    received_at_ms: int
    phase: Phase
    outcome: Outcome | None
    reason: Reason | None
    detail: str
    fetched_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One device taking one firmware; `channel` and `label` are those of its release, if the cloud knows it.

    `succeeded` is the evidence rule: the digest that was wanted booted, and no later report took that back.
    """

    device_id: str
    attempt_id: str
    journal_id: str
    source_id: str
    via: Via
    channel: ChannelKey | None
    label: int | None
    component: str
    version: str
    digest: str
    from_version: str | None
    from_digest: str | None
    phase: Phase
    outcome: Outcome | None
    succeeded: bool
    reason: Reason | None
    detail: str
    booted_digest: str | None
    fetched_bytes: int
    forced: bool
    started_at_ms: int
    ended_at_ms: int | None
    taken_back_at_ms: int | None
    steps: tuple[StepView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFilter:
    """Which attempts, newest first: every field that is not None must match; `source_id` is a release or an OTA.

    `products` are those that whoever asks may look at.
    """

    device_id: str | None = None
    product: str | None = None
    products: frozenset[str] | None = None
    source_id: str | None = None
    open_only: bool = False
    outcome: Outcome | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAnswer:
    """What to answer a hello with; `refusal` is a counter's name when there is to be no answer.

    `desired.metadata_version` is 0: who knows the metadata fills it in with `dataclasses.replace` before signing.
    """

    ack: Ack | None = None
    desired: Desired | None = None
    refusal: str | None = None
    registered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSituation:
    """One device as selection and planner see it."""

    facts: DeviceFacts
    assignment: Assignment
    online: bool = False
    phase: Phase = Phase.IDLE
    availability: Availability = field(default_factory=Availability)
    pending: tuple[Pending, ...] = ()
    timezone: str = ""
    last_seen_at_ms: int | None = None

    @property
    def device_id(self) -> str:
        """The device's id."""
        return self.facts.device_id


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """A product's devices (or those of one group), and the enabled releases of its channels, at one time.

    A `cloud.cohorts.Cohorts` holds many devices in little memory.
    """

    product: str
    channels: Channels
    devices: Sequence[DeviceSituation]
    now_ms: int = 0
