"""What the cloud tells devices: notices, desired states, acknowledgements, metadata.

Times are milliseconds since 1970 by the sender's clock, for people only: order is told by sequence numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.chunks import BlobRef
from protocol.errors import MessageError
from protocol.identity import EVERYONE, VersionRange, check_id
from protocol.patches import Patch
from protocol.schedule import Terms
from protocol.values import (
    MAX_COMPONENTS,
    MAX_FILES,
    MAX_GROUPS,
    MAX_RELEASES,
    FirmwareRef,
    Urgency,
    check_few,
    check_metadata_name,
    check_number,
    check_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRelease:
    """One enabled release of a channel. `order` numbers all decisions of the cloud, releases and single-device OTAs.

    A `percentage` of 0 covers nobody but the canaries of its terms.
    """

    release_id: str
    label: int
    order: int
    firmware: FirmwareRef
    percentage: int = 100
    mandatory: bool = False
    forced: bool = False
    urgency: Urgency = Urgency.GRADUAL
    target_range: str = "*"
    description: str = ""
    references: int | None = None
    terms: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        check_id(self.release_id, "release_id")
        check_number(self.label, "label", 1)
        check_number(self.order, "order", 1)
        check_number(self.percentage, "percentage", 0, 100)
        VersionRange.parse(self.target_range)
        check_text(self.description, "description")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A channel's enabled releases, newest first (retained, signed): all that its group needs to know."""

    product: str
    group: str
    component: str
    seq: int
    issued_at_ms: int
    releases: tuple[NoticeRelease, ...]

    def __post_init__(self) -> None:
        check_id(self.product, "product")
        check_id(self.group, "group")
        check_id(self.component, "component")
        check_number(self.seq, "seq", 1)
        check_few(self.releases, "releases", MAX_RELEASES)
        labels = [release.label for release in self.releases]
        if labels != sorted(set(labels), reverse=True):
            raise MessageError("releases are not newest label first")
        if any(release.firmware.component != self.component for release in self.releases):
            raise MessageError("releases holds a firmware of another component")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ota:
    """A single-device OTA: wanted until a release that was made after it reaches the device."""

    ota_id: str
    order: int
    firmware: FirmwareRef
    urgency: Urgency = Urgency.IMMEDIATE
    forced: bool = False

    def __post_init__(self) -> None:
        check_id(self.ota_id, "ota_id")
        check_number(self.order, "order", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What one device is to follow (signed): its groups in rank order, its pins and its single-device OTAs.

    `session` is that of the hello that this answers, 0 if nobody asked. `notices` tells the newest sequence number
    of each channel that the device follows, as `<group>/<component>`, so that a lost notice is missed and asked for.
    `base_only`: nothing but the base is updated. A device that `takes_turns` installs nothing before `turn` is its
    attempt's id.
    """

    device_id: str
    seq: int
    session: int
    issued_at_ms: int
    product: str
    groups: tuple[str, ...]
    pins: tuple[FirmwareRef, ...] = ()
    otas: tuple[Ota, ...] = ()
    ota_enabled: bool = True
    notices: Mapping[str, int] = field(default_factory=dict)
    metadata_version: int = 0
    base_only: bool = False
    takes_turns: bool = False
    turn: str = ""

    def __post_init__(self) -> None:
        check_id(self.device_id, "device_id")
        check_id(self.product, "product")
        check_number(self.seq, "seq", 1)
        check_number(self.session, "session")
        for group in self.groups:
            check_id(group, "group")
        check_few(self.groups, "groups", MAX_GROUPS)
        check_few(self.pins, "pins", MAX_COMPONENTS)
        check_few(self.otas, "otas", MAX_COMPONENTS)
        check_few(self.notices, "notices", MAX_GROUPS * MAX_COMPONENTS)
        if self.turn:
            check_id(self.turn, "turn")
        if not self.groups or self.groups[-1] != EVERYONE or len(set(self.groups)) != len(self.groups):
            raise MessageError(f"groups must name each group once, and end with {EVERYONE!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The cloud has stored this device's journal up to and including `through`; what follows is to be sent."""

    journal_id: str
    through: int

    def __post_init__(self) -> None:
        check_id(self.journal_id, "journal_id")
        check_number(self.through, "through")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The answer to an Ask for a TUF metadata file: its exact text, or a blob when one message cannot hold it."""

    request: int
    name: str
    found: bool
    body: str | None = None
    blob: BlobRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A product's current TUF metadata (retained): file names to exact texts, and the root version it stands on.

    What is large is told in `patches`, by the version before it.
    """

    product: str
    root_version: int
    files: Mapping[str, str]
    patches: Mapping[str, Patch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.product, "product")
        check_number(self.root_version, "root_version", 1)
        check_few(self.files, "files", MAX_FILES)
        check_few(self.patches, "patches", MAX_FILES)
        for name in (*self.files, *self.patches):
            check_metadata_name(name)
