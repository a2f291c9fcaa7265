"""Devices' attributes: in the row for whoever reads one device, and a row each for whoever looks devices up by them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, insert
from sqlmodel import col

from cloud.device_models import DeviceAttributeRow
from cloud.models import DeviceRow
from cloud.store.engine import Change


def set_attributes(change: Change, row: DeviceRow, attributes: Mapping[str, str]) -> None:
    """Store a device's attributes, within somebody else's transaction; the same ones again write nothing."""
    if row.attributes == attributes:
        return
    row.attributes = dict(attributes)
    change.session.add(row)
    change.session.flush()
    change.session.execute(delete(DeviceAttributeRow).where(col(DeviceAttributeRow.device_id) == row.id))
    if attributes:
        rows = [{"device_id": row.id, "name": name, "value": value} for name, value in attributes.items()]
        change.session.execute(insert(DeviceAttributeRow), rows)
