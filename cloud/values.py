"""Frozen values that leave the store: products, groups, firmware, releases, and the store's own records.

What devices are and did is in `fleet`. Times are milliseconds since 1970 (`_at_ms`), by the clock that the store was
opened with unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final, Self

from cloud.access.roles import Role
from cloud.groups_query import Saw
from cloud.store.errors import InvalidError
from protocol.errors import ProtocolError
from protocol.identity import VersionRange, check_id, check_version
from protocol.manifest import Blob, Requirements
from protocol.phases import Reason
from protocol.schedule import Terms
from protocol.values import MAX_TEXT, FirmwareRef, Urgency

MAX_APPROVALS: Final = 10
"""The most approvals that a product can ask for."""

# Products, groups, firmware


@dataclass(frozen=True, slots=True, order=True)
class ChannelKey:
    """A channel: one component of one product as one group sees it; `str()` gives `product/group/component`."""

    product: str
    group: str
    component: str

    def __post_init__(self) -> None:
        for name, value in (("product", self.product), ("group", self.group), ("component", self.component)):
            _valid(partial(check_id, value, name))

    def __str__(self) -> str:
        return f"{self.product}/{self.group}/{self.component}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the channel that `str()` wrote; raises InvalidError."""
        parts = text.split("/")
        if len(parts) != 3:
            raise InvalidError(f"{text!r:.200} is not a channel: product/group/component")
        return cls(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductView:
    """A kind of device. `floors` maps a component to the lowest firmware `seq` that may still be released.

    `base_only`: nothing but its base is updated. Its releases need `approvals` of others than who makes them.
    """

    product: str
    hardware_models: tuple[str, ...]
    ota_enabled: bool
    base_only: bool
    approvals: int
    floors: Mapping[str, int]
    devices: int
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group of a product's devices; `rank` 1 decides first, `everyone` ranks after all others.

    The devices of one with a `query` are those of which it is true.
    """

    product: str
    group: str
    rank: int
    devices: int
    created_at_ms: int
    query: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTrial:
    """What a query for a group finds now: `matched` of the product's `devices`; `matches` are ids, maybe not of all.

    `follows_versions`: an update can make a device join or leave. `nobody_has` are components that it looks at, and
    that no device and no firmware of the product has.
    """

    query: str
    matches: tuple[str, ...]
    matched: int
    devices: int
    follows_versions: bool
    nobody_has: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMatch:
    """Whether a device is in a group, and what each comparison of its query saw; `matches` is None without one."""

    device_id: str
    query: str | None
    member: bool
    matches: bool | None
    saw: tuple[Saw, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareView:
    """An immutable signed image. It can be released once it is published: its blobs can be served."""

    product: str
    component: str
    version: str
    build: int
    seq: int
    digest: str
    size_bytes: int
    hardware_models: tuple[str, ...]
    requires: Requirements
    notes: str
    data_schema: int
    reads_schemas: tuple[int, ...]
    blobs: tuple[Blob, ...]
    signer_keyids: tuple[str, ...]
    published: bool
    added_at_ms: int
    published_at_ms: int | None

    @property
    def ref(self) -> FirmwareRef:
        """The firmware as messages name it."""
        return FirmwareRef(
            component=self.component,
            version=self.version,
            build=self.build,
            seq=self.seq,
            digest=self.digest,
            size_bytes=self.size_bytes,
            hardware_models=self.hardware_models,
            requires=self.requires,
            data_schema=self.data_schema,
            reads_schemas=self.reads_schemas,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningView:
    """How many devices run an image; what they run need not be firmware of this server."""

    component: str
    version: str
    digest: str
    devices: int


# Releases


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDraft:
    """A release that is to be made; checks itself and raises InvalidError.

    A forecast and the release that follows it share `release_id`, because a device's bucket depends on it.
    """

    channel: ChannelKey
    version: str
    percentage: int = 100
    mandatory: bool = False
    forced: bool = False
    urgency: Urgency = Urgency.GRADUAL
    target_range: str = "*"
    description: str = ""
    release_id: str | None = None
    terms: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        _valid(partial(check_version, self.version))
        _valid(partial(VersionRange.parse, self.target_range))
        if self.release_id is not None:
            _valid(partial(check_id, self.release_id, "release id"))
        check_percentage(self.percentage)
        check_description(self.description)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePatch:
    """What to change of a release; None leaves a field as it is. Checks itself and raises InvalidError."""

    percentage: int | None = None
    mandatory: bool | None = None
    forced: bool | None = None
    urgency: Urgency | None = None
    description: str | None = None
    enabled: bool | None = None

    def __post_init__(self) -> None:
        if self.percentage is not None:
            check_percentage(self.percentage)
        if self.description is not None:
            check_description(self.description)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """A labelled decision that puts a firmware on a channel; `release_id` is also the deployment's id.

    `live` is true for the highest enabled label of the channel. `duration_s` counts from its making until it was
    superseded (a later enabled label) or disabled, or until now.
    """

    release_id: str
    channel: ChannelKey
    label: int
    order: int
    firmware: FirmwareRef
    percentage: int
    mandatory: bool
    forced: bool
    urgency: Urgency
    target_range: str
    description: str
    enabled: bool
    live: bool
    references_label: int | None
    promoted_from: str | None
    created_at_ms: int
    created_by: str
    superseded_at_ms: int | None
    disabled_at_ms: int | None
    duration_s: int
    terms: Terms

    @property
    def name(self) -> str:
        """The label as people say it: `v4`, or `v4 (references v2)`."""
        return f"v{self.label}" + (f" (references v{self.references_label})" if self.references_label else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMetrics:
    """What became of a release, derived from the devices' journals each time it is asked.

    `downloads` are attempts that had the image whole and verified; `installs` successes that stand; `taken_back`
    successes that a device later contradicted; `group_devices` the devices of the channel's group, of which
    `active_percent` are `active` on this release.

    A device is active on one release at most. It reports an image that its newest standing success is of (whatever
    that came from), and is active on the first enabled release of that image that applies to it: by its groups in rank
    order, newest label first. So who runs an image that is released again is active on the newer label at once, though
    `installs` stays where the image was taken. Where no enabled release has that image, a device is active on the one
    that its newest success is of. One that had the image before it was ever released is active nowhere.
    """

    release_id: str
    group_devices: int
    attempts: int
    under_way: int
    downloads: int
    installs: int
    taken_back: int
    active: int
    active_percent: float
    rollbacks: Mapping[Reason, int]
    failures: Mapping[Reason, int]
    cancellations: Mapping[Reason, int]


# The store's own


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """One decision: who did what to which subject, and whence. `hash` covers the row and `prev_hash`, the row before.

    Old rows, and what nobody asked for over the network, have no `origin` (the fields of `provenance.Origin`).
    """

    number: int
    at_ms: int
    actor: str
    action: str
    subject: str
    before: Any
    after: Any
    prev_hash: str
    hash: str
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The newest decision's number and hash; 0 and 64 zeros where there is none."""

    number: int
    hash: str


class OutboxKind(StrEnum):
    """What kind of message is to be sent (again)."""

    NOTICE = "notice"
    """Key: the channel as `product/group/component`."""
    DESIRED = "desired"
    """Key: the device's id."""
    BUNDLE = "bundle"
    """Key: the product's id."""
    ACCESS = "access"
    """Key: `broker`. Whom the broker lets in, and what each may do."""


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """Something that has to be told: compute the message from the store, send it, then settle this very item."""

    kind: OutboxKind
    key: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """An API token as the store knows it: by the SHA-256 of its text.

    It may do what `person` may, but no more than `role` on `product` (`*`: wherever they may). `used_at_ms` is exact
    to a minute.
    """

    name: str
    person: str
    role: Role
    product: str
    expires_at_ms: int | None
    used_at_ms: int | None
    created_at_ms: int
    created_by: str
    revoked_at_ms: int | None


MAX_PERCENTAGE: Final = 100


def check_percentage(value: object) -> None:
    """Raise InvalidError unless it is a whole number from 1 to 100."""
    if type(value) is not int or not 1 <= value <= MAX_PERCENTAGE:
        raise InvalidError(f"a percentage is a whole number from 1 to 100, not {value!r:.40}; nothing was changed")


def check_description(value: str) -> None:
    """Raise InvalidError for a description that does not fit into a notice."""
    if len(value) > MAX_TEXT:
        raise InvalidError(f"a description has at most {MAX_TEXT} characters, not {len(value)}; nothing was changed")


def _valid(check: Callable[[], object]) -> None:
    try:
        check()
    except ProtocolError as error:
        raise InvalidError(f"{error}; nothing was changed") from None
