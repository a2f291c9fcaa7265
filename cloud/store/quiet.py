"""Devices that have gone quiet: away for longer than devices usually are. It is noted once each time."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement
from sqlmodel import col, select

from cloud.models import CounterRow, DeviceRow
from cloud.store.engine import Change, Database
from cloud.store.events import note

LOOKED_AT: Final = "quiet_looked_at_ms"
AT_ONCE: Final = 500
"""How many are noted in one transaction: nobody who writes waits long for it."""


class Quiet:
    """Who has gone quiet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self, *, after_ms: int) -> int:
        """Note devices that were last heard `after_ms` ago since the last look; return how many: a batch or so at most.

        What went by while the cloud was down is noted, too; at the first look of all nothing is.
        """
        with self._database.changing() as change:
            row = change.session.get(CounterRow, LOOKED_AT)
            if row is None:
                change.session.add(CounterRow(name=LOOKED_AT, value=change.now_ms))
                return 0
            through_ms = change.now_ms - after_ms
            last_seen = col(DeviceRow.last_seen_at_ms)
            new = (*went_quiet(through_ms), last_seen > row.value - after_ms)
            full = select(DeviceRow.last_seen_at_ms).where(*new).order_by(last_seen).offset(AT_ONCE - 1).limit(1)
            through_ms = min(through_ms, change.session.exec(full).first() or through_ms)
            query = select(DeviceRow).where(*new, last_seen <= through_ms)
            found = change.session.exec(query.order_by(last_seen, col(DeviceRow.id)))
            count = 0
            for count, device in enumerate(found, 1):  # noqa: B007 - it is returned
                _note(change, device)
            row.value = max(row.value, through_ms + after_ms)
            change.session.add(row)
            return count


def went_quiet(before_ms: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a device to be away since before a time; one that is revoked is not missed."""
    return (
        col(DeviceRow.online).is_(False),
        col(DeviceRow.revoked_at_ms).is_(None),
        col(DeviceRow.last_seen_at_ms) <= before_ms,
    )


def _note(change: Change, device: DeviceRow) -> None:
    note(
        *(change, "device.quiet", f"device/{device.id}", device.product),
        last_seen_at_ms=device.last_seen_at_ms,
        quiet_for_h=(change.now_ms - (device.last_seen_at_ms or 0)) // 3_600_000,
    )
