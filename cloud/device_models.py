"""Rows beside a device's own: what lists of devices are filtered by."""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field

from cloud.models import Row


class DeviceAttributeRow(Row, table=True):
    """One of a device's attributes, as its own row has them."""

    __tablename__ = "device_attribute"
    __table_args__ = (Index(None, "name", "value", "device_id"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    name: str = Field(primary_key=True)
    value: str
