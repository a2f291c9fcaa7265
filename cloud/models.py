"""The database's rows. They stay inside the store: `table=True` models do not validate, frozen values leave instead.

Names are the primary keys where people or devices name things. JSON columns hold what no query looks into. A column
ends in `_at_ms` for milliseconds since 1970. What was decided is never deleted, but for pins, memberships and groups.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    UniqueConstraint,
    false,
    text,
)
from sqlmodel import Field, SQLModel

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
_LISTED: Final = ("id", "product", "online", "has_pending", "hardware_model", "held_until_ms", "revoked_at_ms")
LAST_RANK: Final = 1_000_000
"""The stored rank of `everyone`: after all others."""

BigNumber: Final = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; SQLite numbers rows by itself only in a column that is called INTEGER."""


class Row(SQLModel):
    """What every row descends from: one schema with named constraints, so that migrations can speak of them."""

    metadata = MetaData(naming_convention=NAMING)


class ProductRow(Row, table=True):
    """A kind of device. A release of it needs `approvals` of others than who makes it."""

    __tablename__ = "product"
    id: str = Field(primary_key=True)
    hardware_models: list[str] = Field(sa_column=Column(JSON, nullable=False))
    ota_enabled: bool = True
    base_only: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    approvals: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    created_at_ms: int = Field(sa_type=BigInteger)


class FloorRow(Row, table=True):
    """The lowest firmware `seq` of a component that signed metadata still allows."""

    __tablename__ = "floor"
    product: str = Field(primary_key=True, foreign_key="product.id")
    component: str = Field(primary_key=True)
    minimum_seq: int = Field(sa_type=BigInteger)


class GroupRow(Row, table=True):
    """A ranked group; `everyone` has a row and no memberships. The members of one with a `query` follow from facts."""

    __tablename__ = "device_group"
    product: str = Field(primary_key=True, foreign_key="product.id")
    name: str = Field(primary_key=True)
    rank: int
    query: str | None = None
    created_at_ms: int = Field(sa_type=BigInteger)


class DeviceRow(Row, table=True):
    """A device. `state` is the last DeviceState as it came; `journal_next` what its last hello said comes next.

    `held_until_ms` is until when its application holds updates back; null if it does not, MAX_INTEGER without an end.
    `noted_attributes` are those that an operator's file stated; `attributes` has them where the device says nothing.
    """

    __tablename__ = "device"
    __table_args__ = (
        Index(None, "product", "id"),
        Index(None, "product", "online"),
        Index("ix_device_listed", *_LISTED),
    )
    id: str = Field(primary_key=True)
    product: str = Field(foreign_key="product.id")
    hardware_model: str
    agent_version: str = "0.0.0"
    attributes: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    encodings: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    root_version: int = Field(default=0, sa_type=BigInteger)
    online: bool = False
    session: int = Field(default=0, sa_type=BigInteger)
    state_seq: int = Field(default=-1, sa_type=BigInteger)
    state: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    has_pending: bool = False
    has_refused: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    held_until_ms: int | None = Field(default=None, sa_type=BigInteger)
    last_seen_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    registered_at_ms: int = Field(sa_type=BigInteger)
    journal_id: str | None = None
    journal_next: int = Field(default=1, sa_type=BigInteger)
    ack_through: int = Field(default=0, sa_type=BigInteger)
    desired_seq: int = Field(default=0, sa_type=BigInteger)
    timezone: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    noted_attributes: dict[str, str] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}")
    )
    revoked_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class MembershipRow(Row, table=True):
    """A device in a group."""

    __tablename__ = "membership"
    __table_args__ = (
        ForeignKeyConstraint(["product", "group_name"], ["device_group.product", "device_group.name"]),
        Index(None, "product", "group_name"),
        Index(None, "group_name", "device_id"),
    )
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    group_name: str = Field(primary_key=True)
    product: str


class ComponentRow(Row, table=True):
    """What a device last reported of one component."""

    __tablename__ = "device_component"
    __table_args__ = (Index(None, "component", "version", "device_id"), Index(None, "version", "device_id"))
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    component: str = Field(primary_key=True)
    version: str
    build: int = Field(sa_type=BigInteger)
    digest: str
    requires: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}"))
    data_schema: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))


class FirmwareRow(Row, table=True):
    """An immutable signed image."""

    __tablename__ = "firmware"
    __table_args__ = (UniqueConstraint("product", "component", "version"),)
    id: int | None = Field(default=None, sa_column=Column(BigNumber, primary_key=True))
    product: str = Field(foreign_key="product.id")
    component: str
    version: str
    build: int = Field(sa_type=BigInteger)
    seq: int = Field(sa_type=BigInteger)
    digest: str
    size_bytes: int = Field(sa_type=BigInteger)
    hardware_models: list[str] = Field(sa_column=Column(JSON, nullable=False))
    requires: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    notes: str
    data_schema: int = Field(sa_type=BigInteger)
    reads_schemas: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]"))
    blobs: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    signer_keyids: list[str] = Field(sa_column=Column(JSON, nullable=False))
    added_at_ms: int = Field(sa_type=BigInteger)
    published_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class ChannelRow(Row, table=True):
    """A channel that had a release; it outlives its group, so that labels and notice numbers never start again."""

    __tablename__ = "channel"
    product: str = Field(primary_key=True, foreign_key="product.id")
    group_name: str = Field(primary_key=True)
    component: str = Field(primary_key=True)
    notice_seq: int = Field(default=0, sa_type=BigInteger)
    notice_issued_at_ms: int = Field(default=0, sa_type=BigInteger)


class ReleaseRow(Row, table=True):
    """A labelled decision on a channel. `terms` are `protocol.schedule.Terms`, as they stand now."""

    __tablename__ = "release"
    __table_args__ = (
        ForeignKeyConstraint(
            ["product", "group_name", "component"], ["channel.product", "channel.group_name", "channel.component"]
        ),
        UniqueConstraint("product", "group_name", "component", "label"),
        UniqueConstraint("decision"),
    )
    id: str = Field(primary_key=True)
    product: str
    group_name: str
    component: str
    label: int
    decision: int = Field(sa_type=BigInteger)
    firmware_id: int = Field(foreign_key="firmware.id", sa_type=BigInteger)
    percentage: int
    mandatory: bool
    forced: bool
    urgency: str
    target_range: str
    description: str
    enabled: bool = True
    terms: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}"))
    references_label: int | None = None
    promoted_from: str | None = Field(default=None, foreign_key="release.id")
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str
    disabled_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class PinRow(Row, table=True):
    """A device that is locked to one firmware."""

    __tablename__ = "pin"
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    component: str = Field(primary_key=True)
    firmware_id: int = Field(foreign_key="firmware.id", sa_type=BigInteger)
    pinned_at_ms: int = Field(sa_type=BigInteger)
    pinned_by: str


class OtaRow(Row, table=True):
    """A single-device OTA."""

    __tablename__ = "ota"
    __table_args__ = (Index(None, "device_id", "in_force"), UniqueConstraint("decision"))
    id: str = Field(primary_key=True)
    device_id: str = Field(foreign_key="device.id")
    component: str
    firmware_id: int = Field(foreign_key="firmware.id", sa_type=BigInteger)
    decision: int = Field(sa_type=BigInteger)
    urgency: str
    forced: bool
    status: str = "open"
    in_force: bool = True
    reason: str | None = None
    detail: str = ""
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str
    closed_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class AttemptRow(Row, table=True):
    """One device taking one firmware, put together from its journal's entries; `ended_seq` is the last one's number.

    `source_id` is what the device said; nothing else has to know it. A success counts while `taken_back_at_ms` is null;
    `contradicted_by` is the digest that was reported instead. By the cloud's own clock, the attempt was heard
    of at `begun_at_ms`, the device was first known to restart into the firmware at `taken_at_ms`, and to have ended the
    attempt at `settled_at_ms`.
    """

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("device_id", "journal_id", "attempt_id"),
        Index(None, "source_id", "outcome"),
        Index(None, "device_id", "component", "outcome"),
        Index(None, "outcome", "reason", "device_id", "component"),
    )
    id: int | None = Field(default=None, sa_column=Column(BigNumber, primary_key=True))
    device_id: str = Field(foreign_key="device.id")
    journal_id: str
    attempt_id: str
    source_id: str
    via: str
    component: str
    version: str
    digest: str
    from_version: str | None = None
    from_digest: str | None = None
    phase: str
    downloaded: bool = False
    outcome: str | None = None
    reason: str | None = None
    detail: str = ""
    booted_digest: str | None = None
    fetched_bytes: int = Field(default=0, sa_type=BigInteger)
    forced: bool = False
    tried_order: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    started_at_ms: int = Field(sa_type=BigInteger)
    ended_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    ended_seq: int | None = Field(default=None, sa_type=BigInteger)
    begun_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    taken_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    settled_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    taken_back_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    contradicted_by: str | None = None


class EntryRow(Row, table=True):
    """One entry of a device's journal, as it came."""

    __tablename__ = "journal_entry"
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    journal_id: str = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    at_ms: int = Field(sa_type=BigInteger)
    received_at_ms: int = Field(sa_type=BigInteger)
    attempt: int | None = Field(default=None, foreign_key="attempt.id", index=True, sa_type=BigInteger)
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class AuditRow(Row, table=True):
    """One decision; `before`, `after` and `origin` are canonical JSON, exactly as hashed. Old rows have no `origin`."""

    __tablename__ = "audit"
    number: int = Field(sa_column=Column(BigNumber, primary_key=True, autoincrement=False))
    at_ms: int = Field(sa_type=BigInteger)
    actor: str
    action: str
    subject: str = Field(index=True)
    before: str
    after: str
    origin: str | None = None
    prev_hash: str
    hash: str


class TokenRow(Row, table=True):
    """A bearer token, by the SHA-256 of its text. It may do what its person may, but no more than `role` on `product`.

    `product` is `*` for all that its person may. `used_at_ms` is exact to a minute.
    """

    __tablename__ = "token"
    name: str = Field(primary_key=True)
    sha256: str = Field(unique=True)
    person: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    role: str = Field(default="admin", sa_column_kwargs={"server_default": "admin"})
    product: str = Field(default="*", sa_column_kwargs={"server_default": "*"})
    expires_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    used_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str
    revoked_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class EnrolmentTokenRow(Row, table=True):
    """What lets devices enrol, by the SHA-256 of its text; `hardware_model` and `device_id` are null for any."""

    __tablename__ = "enrolment_token"
    name: str = Field(primary_key=True)
    sha256: str = Field(unique=True)
    product: str = Field(foreign_key="product.id")
    hardware_model: str | None = None
    device_id: str | None = Field(default=None, index=True)
    groups: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    uses_left: int
    max_uses: int
    expires_at_ms: int = Field(sa_type=BigInteger)
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str
    revoked_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class CertificateRow(Row, table=True):
    """A device's certificate, by its serial number in hexadecimal; `token` is what it was enrolled with.

    One that is superseded is still good: its device holds the next one, or is about to.
    """

    __tablename__ = "certificate"
    serial: str = Field(primary_key=True)
    device_id: str = Field(foreign_key="device.id", index=True)
    authority: str
    key_sha256: str = Field(index=True)
    pem: str
    token: str | None = Field(default=None, foreign_key="enrolment_token.name")
    not_before_ms: int = Field(sa_type=BigInteger)
    not_after_ms: int = Field(sa_type=BigInteger)
    issued_at_ms: int = Field(sa_type=BigInteger)
    superseded_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    revoked_at_ms: int | None = Field(default=None, index=True, sa_type=BigInteger)


class OutboxRow(Row, table=True):
    """Something that is to be told; `revision` is new each time it is marked."""

    __tablename__ = "outbox"
    kind: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    revision: int = Field(sa_type=BigInteger, index=True)


class CounterRow(Row, table=True):
    """A number that only rises: `decision` orders releases and OTAs, `revision` the outbox."""

    __tablename__ = "counter"
    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)
