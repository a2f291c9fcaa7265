"""Single-device OTAs: how they are made, told, overtaken and closed, inside somebody else's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.fleet import OtaStatus, OtaView
from cloud.models import DeviceRow, OtaRow
from cloud.planner import superseded_otas
from cloud.store.audit import audit
from cloud.store.engine import Change
from cloud.store.lookup import batches, firmware_by_id, firmware_ref
from cloud.store.outbox import mark
from cloud.store.situations import channels_of, ids_of, situations
from cloud.values import OutboxKind
from protocol.phases import Reason
from protocol.values import Urgency

THE_CLOUD = "cloud"
"""Who decides what follows from another's decision, as the audit log names it."""


def tell(change: Change, device_ids: Sequence[str]) -> None:
    """Have those of the devices that are connected told anew what they are to follow; the rest are when they return."""
    for some in batches(device_ids):
        online = select(DeviceRow.id).where(col(DeviceRow.id).in_(some), col(DeviceRow.online).is_(True))
        mark(change, OutboxKind.DESIRED, change.session.exec(online).all())


def close_overtaken(
    change: Change,
    product: str,
    *,
    device_ids: Sequence[str] | SelectOfScalar[str] | None = None,
    component: str | None = None,
) -> None:
    """Close the OTAs that a later release has overtaken: of these devices (all of them), of this component (any)."""
    query = (
        select(OtaRow)
        .join(DeviceRow, col(DeviceRow.id) == col(OtaRow.device_id))
        .where(col(DeviceRow.product) == product, col(OtaRow.in_force).is_(True))
    )
    if device_ids is not None:
        query = query.where(col(OtaRow.device_id).in_(device_ids))
    if component is not None:
        query = query.where(col(OtaRow.component) == component)
    rows = {row.id: row for row in change.session.exec(query)}
    channels = channels_of(change.session, product) if rows else {}
    for some in batches(sorted({row.device_id for row in rows.values()})):
        for device in situations(change.session, product, ids_of(product, device_ids=some)):
            for ota_id in superseded_otas(device, channels, change.now_ms):
                if ota_id in rows:
                    close(change, rows[ota_id], OtaStatus.SUPERSEDED, "a later release reaches the device")


def close(
    change: Change,
    row: OtaRow,
    status: OtaStatus,
    detail: str,
    *,
    reason: Reason | None = None,
    by: str = THE_CLOUD,
) -> None:
    """Note how an OTA ended; one that succeeded stays in force, and keeps that status when it is overtaken."""
    row.in_force = status is OtaStatus.SUCCEEDED
    if row.status == OtaStatus.OPEN:
        row.status, row.reason, row.detail = status.value, reason.value if reason else None, detail
        row.closed_at_ms = change.now_ms
    change.session.add(row)
    after = {"device": row.device_id, "status": row.status, "in_force": row.in_force, "why": detail}
    audit(change, by, "ota.closed", f"ota/{row.id}", after=after)
    tell(change, [row.device_id])


def ota_view(session: Session, row: OtaRow) -> OtaView:
    """Return an OTA as others see it."""
    firmware = firmware_by_id(session, row.firmware_id)
    return OtaView(
        ota_id=row.id,
        device_id=row.device_id,
        product=firmware.product,
        order=row.decision,
        firmware=firmware_ref(firmware),
        urgency=Urgency(row.urgency),
        forced=row.forced,
        status=OtaStatus(row.status),
        in_force=row.in_force,
        reason=Reason(row.reason) if row.reason else None,
        detail=row.detail,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        closed_at_ms=row.closed_at_ms,
    )
