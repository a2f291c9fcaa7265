"""What decisions for many devices change: a few statements for all of them, inside the decision's transaction.

The devices are a query of ids that stays the same while they are changed, and each of them is known to change.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, insert, literal, null, update
from sqlalchemy import select as select_columns
from sqlmodel import col
from sqlmodel.sql.expression import SelectOfScalar

from cloud.bulk import BulkOrder, Deed
from cloud.fleet import OtaStatus
from cloud.models import (
    CertificateRow,
    ComponentRow,
    DeviceRow,
    EnrolmentTokenRow,
    FirmwareRow,
    MembershipRow,
    OtaRow,
    OutboxRow,
    PinRow,
)
from cloud.store.certificates import BROKER
from cloud.store.engine import Change
from cloud.store.otas import close_overtaken
from cloud.store.outbox import mark
from cloud.values import OutboxKind

DeviceIds = SelectOfScalar[str]


def carry_out(  # one parameter a part of the decision
    change: Change, order: BulkOrder, among: DeviceIds, count: int, firmware: FirmwareRow | None, *, by: str
) -> None:
    """Carry out a decision for these devices, `count` of them; the firmware is the one that the deed takes."""
    match order.deed:
        case Deed.ADD_TO_GROUP:
            made = _of(among, literal(order.group), literal(order.product))
            change.session.execute(insert(MembershipRow).from_select(["device_id", "group_name", "product"], made))
            close_overtaken(change, order.product, device_ids=among)
        case Deed.REMOVE_FROM_GROUP:
            of = (col(MembershipRow.group_name) == order.group, col(MembershipRow.device_id).in_(among))
            _execute(change, delete(MembershipRow).where(*of))
            close_overtaken(change, order.product, device_ids=among)
        case Deed.LOCK if firmware is not None:
            _unlock(change, order, among)
            made = _of(
                among,
                *map(literal, (firmware.component, firmware.id or 0, change.now_ms, by)),
            )
            columns = ["device_id", "component", "firmware_id", "pinned_at_ms", "pinned_by"]
            change.session.execute(insert(PinRow).from_select(columns, made))
            _supersede(change, order, among, f"the device was locked to {firmware.version}")
        case Deed.UNLOCK:
            _unlock(change, order, among)
        case Deed.OTA if firmware is not None:
            _supersede(change, order, among, f"a later OTA to {firmware.version} was decided")
            _update(change, order, among, count, firmware, by)
        case Deed.REVOKE:
            _revoke(change, among)
    if order.deed is not Deed.REVOKE:
        _tell(change, among)


def otas_in_force(component: str, among: Select[Any]) -> Select[Any]:
    """Return the query for the ids of the OTAs that devices have of a component."""
    return select_columns(col(OtaRow.id)).where(*_in_force(component, among))


def _in_force(component: str, among: Select[Any]) -> tuple[ColumnElement[bool], ...]:
    of = OtaRow
    return col(of.component) == component, col(of.in_force).is_(True), col(of.device_id).in_(among)


def _of(among: DeviceIds, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return a row for each device: its id, and the columns."""
    there = among.subquery()
    return select_columns(there.c.device_id, *columns)


def _unlock(change: Change, order: BulkOrder, among: DeviceIds) -> None:
    of = (col(PinRow.component) == order.component, col(PinRow.device_id).in_(among))
    _execute(change, delete(PinRow).where(*of))


def _supersede(change: Change, order: BulkOrder, among: DeviceIds, why: str) -> None:
    """Close the OTAs of the devices as `cloud.store.otas.close` does; the decision's own row of the audit says it."""
    is_open = col(OtaRow.status) == OtaStatus.OPEN.value
    ended = {
        "in_force": False,
        "reason": case((is_open, null()), else_=col(OtaRow.reason)),
        "detail": case((is_open, why), else_=col(OtaRow.detail)),
        "closed_at_ms": case((is_open, change.now_ms), else_=col(OtaRow.closed_at_ms)),
        "status": case((is_open, OtaStatus.SUPERSEDED.value), else_=col(OtaRow.status)),
    }
    _execute(change, update(OtaRow).where(*_in_force(order.component, among)).values(ended))


def _update(  # noqa: PLR0917 - one parameter a part of the decision
    change: Change, order: BulkOrder, among: DeviceIds, count: int, firmware: FirmwareRow, by: str
) -> None:
    """Make an OTA for each device; `cloud.store.devices.put_otas` says what one is."""
    first = change.next_number("decision", count) - count + 1
    runs = ComponentRow
    there = among.subquery()
    place = func.row_number().over(order_by=there.c.device_id) + (first - 1)
    running = select_columns(col(runs.device_id)).where(
        col(runs.component) == firmware.component, col(runs.digest) == firmware.digest
    )
    numbered = select_columns(
        there.c.device_id, place.label("decision"), there.c.device_id.in_(running).label("is_there")
    ).subquery()
    decision, is_there = numbered.c.decision, numbered.c.is_there
    made: dict[str, ColumnElement[Any]] = {
        "id": literal(f"ota-{secrets.token_hex(6)}-").concat(decision),
        "device_id": numbered.c.device_id,
        "component": literal(firmware.component),
        "firmware_id": literal(firmware.id or 0),
        "decision": decision,
        "urgency": literal(order.urgency.value),
        "forced": literal(order.forced),
        "status": case((is_there, OtaStatus.SUCCEEDED.value), else_=OtaStatus.OPEN.value),
        "in_force": literal(True),
        "detail": case((is_there, "the device runs it already"), else_=""),
        "created_at_ms": literal(change.now_ms),
        "created_by": literal(by),
        "closed_at_ms": case((is_there, change.now_ms), else_=null()),
    }
    change.session.execute(insert(OtaRow).from_select(list(made), select_columns(*made.values())))


def _revoke(change: Change, among: DeviceIds) -> None:
    """Shut devices out as `cloud.store.certificates.revoke_devices` does."""
    now = {"revoked_at_ms": change.now_ms}
    _execute(change, update(DeviceRow).where(col(DeviceRow.id).in_(among)).values({**now, "online": False}))
    for row in (CertificateRow, EnrolmentTokenRow):
        of = and_(col(row.device_id).in_(among), col(row.revoked_at_ms).is_(None))
        _execute(change, update(row).where(of).values(now))
    mark(change, OutboxKind.ACCESS, [BROKER])


def _tell(change: Change, among: DeviceIds) -> None:
    """Have those of the devices that are connected told, as `cloud.store.otas.tell` does."""
    kind, it = OutboxKind.DESIRED.value, DeviceRow
    online = select_columns(col(it.id)).where(col(it.id).in_(among), col(it.online).is_(True))
    _execute(change, delete(OutboxRow).where(col(OutboxRow.kind) == kind, col(OutboxRow.key).in_(online)))
    revision = change.next_number("revision")
    marked = online.with_only_columns(literal(kind), col(it.id), literal(revision), maintain_column_froms=True)
    change.session.execute(insert(OutboxRow).from_select(["kind", "key", "revision"], marked))


def _execute(change: Change, statement: Any) -> None:
    """Execute it for rows of which the session holds none."""
    change.session.execute(statement, execution_options={"synchronize_session": False})
