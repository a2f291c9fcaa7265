"""What one decision for all devices that a filter finds would do: counted by the database, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, true
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from cloud.bulk import EXAMPLES, BulkOrder, BulkOutcome, Deed
from cloud.fleet import OtaStatus
from cloud.models import ComponentRow, DeviceRow, FirmwareRow, MembershipRow, OtaRow, PinRow
from cloud.store.device_lists import Ids
from protocol.manifest import ANY_HARDWARE
from protocol.values import MAX_GROUPS

_FULL: Final = f"in {MAX_GROUPS - 1} groups, the most there can be"


def forecast(session: Session, order: BulkOrder, ids: Ids, firmware: FirmwareRow | None) -> BulkOutcome:
    """Tell what a deed would do to the devices of this query; what is asked for is known to be there."""
    models = _models(session, ids) if firmware is not None else {}
    outcome = BulkOutcome(devices=sum(models.values()) if firmware is not None else _count(session, ids))
    for why, out, known in _left_out(session, order, ids, firmware, models):
        if count := _count(session, out) if known is None else known:
            outcome.left_out[why] = count
            some = out.order_by(col(DeviceRow.id)).limit(EXAMPLES)
            outcome.examples[why] = list(session.execute(some).scalars())
    outcome.unchanged = _count(session, ids.where(_is_so(order, firmware)))
    outcome.changed = outcome.devices - outcome.unchanged - sum(outcome.left_out.values())
    return outcome


def changes(order: BulkOrder, firmware: FirmwareRow | None) -> ColumnElement[bool]:
    """Return the condition for a deed to change a device: it is neither so already, nor left out."""
    device_id, there = col(DeviceRow.id), _is_so(order, firmware)
    if order.deed is Deed.ADD_TO_GROUP:
        return and_(~there, device_id.not_in(_full()))
    if firmware is None:
        return ~there
    free = device_id.not_in(_pinned(order)) if order.deed is Deed.OTA else true()
    return and_(~there, _fits(firmware), free)


def _full() -> Select[Any]:
    held = select_columns(col(MembershipRow.device_id)).group_by(col(MembershipRow.device_id))
    return held.having(func.count() >= MAX_GROUPS - 1)


def _left_out(
    session: Session, order: BulkOrder, ids: Ids, firmware: FirmwareRow | None, models: Mapping[str, int]
) -> Iterator[tuple[str, Ids, int | None]]:
    """Yield why devices are left out, which these are, and how many if that is known; none is in two of them."""
    if order.deed is Deed.ADD_TO_GROUP and session.execute(_full().limit(1)).first() is not None:
        yield _FULL, ids.where(col(DeviceRow.id).in_(_full()), ~_is_so(order, firmware)), None
    if firmware is None:
        return
    if ANY_HARDWARE not in firmware.hardware_models:
        for model, count in sorted(models.items()):
            if model not in firmware.hardware_models:
                why = f"hardware model {model}, which the firmware is not for"
                yield why, ids.where(col(DeviceRow.hardware_model) == model), count
    if order.deed is Deed.OTA:
        locked = ids.where(col(DeviceRow.id).in_(_pinned(order)), _fits(firmware))
        yield f"locked to a version of {order.component}", locked, None


def _is_so(order: BulkOrder, firmware: FirmwareRow | None) -> ColumnElement[bool]:
    """Return the condition for a device to be as is ordered before it is done."""
    device_id = col(DeviceRow.id)
    members = select_columns(col(MembershipRow.device_id)).where(col(MembershipRow.group_name) == order.group)
    match order.deed:
        case Deed.ADD_TO_GROUP:
            return device_id.in_(members)
        case Deed.REMOVE_FROM_GROUP:
            return device_id.not_in(members)
        case Deed.UNLOCK:
            return device_id.not_in(_pinned(order))
        case Deed.LOCK if firmware is not None:
            return and_(device_id.in_(_pinned(order).where(col(PinRow.firmware_id) == firmware.id)), _fits(firmware))
        case Deed.OTA if firmware is not None:
            return and_(device_id.in_(_wanting(order, firmware)), _fits(firmware))
        case _:
            return col(DeviceRow.revoked_at_ms).is_not(None)


def _wanting(order: BulkOrder, firmware: FirmwareRow) -> Select[Any]:
    """Return the devices that have just such an OTA in force, and take it or run it: the same again is no other one."""
    it, runs = OtaRow, ComponentRow
    running = select_columns(col(runs.device_id)).where(
        col(runs.component) == order.component, col(runs.digest) == firmware.digest
    )
    return select_columns(col(it.device_id)).where(
        col(it.component) == order.component,
        col(it.firmware_id) == firmware.id,
        col(it.urgency) == order.urgency.value,
        col(it.forced).is_(order.forced),
        col(it.in_force).is_(True),
        or_(col(it.status) == OtaStatus.OPEN.value, col(it.device_id).in_(running)),
    )


def _fits(firmware: FirmwareRow) -> ColumnElement[bool]:
    if ANY_HARDWARE in firmware.hardware_models:
        return true()
    return col(DeviceRow.hardware_model).in_(firmware.hardware_models)


def _models(session: Session, ids: Ids) -> dict[str, int]:
    """Return how many devices there are of each hardware model."""
    model = col(DeviceRow.hardware_model)
    query = ids.with_only_columns(model, func.count(), maintain_column_froms=True).group_by(model)
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - rows are no pairs to mypy


def _pinned(order: BulkOrder) -> Select[Any]:
    return select_columns(col(PinRow.device_id)).where(col(PinRow.component) == order.component)


def _count(session: Session, ids: Ids) -> int:
    found: int = session.execute(ids.with_only_columns(func.count(), maintain_column_froms=True)).scalar_one()
    return found
