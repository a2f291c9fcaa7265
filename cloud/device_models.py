"""Rows beside a device's own: what lists of devices are filtered by, and which decisions for many were about it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index, text
from sqlmodel import Field, col

from cloud.models import AttemptRow, CertificateRow, DeviceRow, Row


class DeviceAttributeRow(Row, table=True):
    """One of a device's attributes, as its own row has them."""

    __tablename__ = "device_attribute"
    __table_args__ = (Index(None, "name", "value", "device_id"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    name: str = Field(primary_key=True)
    value: str


class DevicePendingRow(Row, table=True):
    """Something that waits on a device, as its state says it; `decided_at_ms` is when it was released to it."""

    __tablename__ = "device_pending"
    __table_args__ = (Index(None, "why", "device_id", "decided_at_ms"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    place: int = Field(primary_key=True)
    component: str
    version: str
    why: str
    detail: str
    decided_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class DecidedDeviceRow(Row, table=True):
    """A device that one decision for many changed: `number` is the decision's row in the audit.

    Neither is ever deleted, and a hundred thousand of these are made at once, so they name both without foreign keys.
    """

    __tablename__ = "decided_device"
    __table_args__ = (Index(None, "device_id", "number"),)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    device_id: str = Field(primary_key=True)


def _index(name: str, *columns: Any, where: str, there: str = "") -> None:
    """Make an index of the rows of which a condition is true, as SQLite and (`there`) as PostgreSQL write it."""
    Index(name, *columns, sqlite_where=text(where), postgresql_where=text(there or where))


_index("ix_device_refused", col(DeviceRow.id), where="has_refused IS 1", there="has_refused IS true")
_index("ix_attempt_taken_back", col(AttemptRow.device_id), where="taken_back_at_ms IS NOT NULL")
_index(
    "ix_certificate_present",
    *(col(CertificateRow.device_id), col(CertificateRow.not_after_ms), col(CertificateRow.revoked_at_ms)),
    where="superseded_at_ms IS NULL",
)
