"""Rows beside a device's own: what lists of devices are filtered by, and which decisions for many were about it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from cloud.models import Row


class DeviceAttributeRow(Row, table=True):
    """One of a device's attributes, as its own row has them."""

    __tablename__ = "device_attribute"
    __table_args__ = (Index(None, "name", "value", "device_id"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    name: str = Field(primary_key=True)
    value: str


class DecidedDeviceRow(Row, table=True):
    """A device that one decision for many changed: `number` is the decision's row in the audit.

    Neither is ever deleted, and a hundred thousand of these are made at once, so they name both without foreign keys.
    """

    __tablename__ = "decided_device"
    __table_args__ = (Index(None, "device_id", "number"),)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    device_id: str = Field(primary_key=True)
