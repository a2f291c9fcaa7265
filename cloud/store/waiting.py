"""What devices say waits, kept beside their states: lists are filtered by it, and who needs somebody is counted."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from cloud.device_models import DevicePendingRow
from cloud.models import DeviceRow, OtaRow, ReleaseRow
from cloud.store.engine import Change
from protocol.codec import to_plain
from protocol.up import DeviceState


def follow_pending(change: Change, row: DeviceRow, state: DeviceState) -> None:
    """Keep what waits on a device that says how it stands, before its row has that: nothing is written if it is so."""
    if (row.state or {}).get("pending", []) == to_plain(state).get("pending", []):
        return
    change.session.execute(delete(DevicePendingRow).where(col(DevicePendingRow.device_id) == row.id))
    decided = _decided_at(change.session, {it.source_id for it in state.pending})
    change.session.add_all(
        DevicePendingRow(
            device_id=row.id,
            place=place,
            component=it.component,
            version=it.version,
            why=it.why.value,
            detail=it.detail,
            decided_at_ms=decided.get(it.source_id),
        )
        for place, it in enumerate(state.pending)
    )


def _decided_at(session: Session, sources: Collection[str]) -> dict[str, int]:
    """Return when the releases and OTAs of these ids were made; a device may name others."""
    found: dict[str, int] = {}
    for row in (ReleaseRow, OtaRow) if sources else ():
        query = select_columns(col(row.id), col(row.created_at_ms)).where(col(row.id).in_(sources))
        found |= {it.id: it.created_at_ms for it in session.execute(query)}
    return found
