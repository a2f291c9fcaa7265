"""One decision for many devices: made some devices at a time, so that nobody who writes waits long for it.

Each transaction is audited as one row: how many devices it changed, which, and of how many it is a part. What was
ordered is looked at for each device when its turn comes: one that is so already, or that cannot be, is left as it is.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import delete, insert
from sqlalchemy.orm import load_only
from sqlmodel import Session, col, select

from cloud.bulk import BulkOrder, BulkOutcome, BulkPart, Deed
from cloud.fleet import DeviceFilter
from cloud.models import DeviceRow, FirmwareRow, MembershipRow, PinRow
from cloud.store.audit import audit
from cloud.store.bulk_forecasts import FULL, forecast, why_locked, why_not_fitting
from cloud.store.certificates import revoke_devices
from cloud.store.device_lists import ids_where
from cloud.store.devices import fits, put_otas, put_pins, releasable
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError, StoreError
from cloud.store.groups import regrouped
from cloud.store.lookup import batches, group_row, product_row
from cloud.store.otas import tell
from cloud.store.situations import ids_of
from protocol.identity import EVERYONE
from protocol.values import MAX_GROUPS

_ACTIONS: Final = {
    Deed.ADD_TO_GROUP: "group.added",
    Deed.REMOVE_FROM_GROUP: "group.removed",
    Deed.LOCK: "devices.pinned",
    Deed.UNLOCK: "devices.unpinned",
    Deed.OTA: "devices.ota_created",
    Deed.REVOKE: "devices.revoked",
}
_OF_GROUPS: Final = frozenset({Deed.ADD_TO_GROUP, Deed.REMOVE_FROM_GROUP})
_OF_FIRMWARE: Final = frozenset({Deed.LOCK, Deed.OTA})


class Bulk:
    """Decisions for many devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self, order: BulkOrder, device_ids: Sequence[str]) -> BulkOutcome:
        """Tell what would come of it, and change nothing; raises what `do` raises."""
        outcome = BulkOutcome()
        with self._database.reading() as session:
            firmware = _checked(session, order, device_ids)
            for some in batches(device_ids):
                outcome.add(_part(session, order, _rows(session, some), firmware), len(some))
        return outcome

    def forecast(self, order: BulkOrder, which: DeviceFilter) -> BulkOutcome:
        """Tell the same of all devices of the order's product that a filter finds."""
        asked = replace(which, product=order.product)
        with self._database.reading() as session:
            firmware = _checked(session, order, ())
            return forecast(session, order, ids_where(asked, self._database.now_ms()), firmware)

    def do(
        self, order: BulkOrder, device_ids: Sequence[str], *, by: str, chosen: dict[str, Any] | None = None
    ) -> BulkOutcome:
        """Do it, some devices at a time; `chosen` says in the record how they were chosen.

        Raises NotFoundError and ConflictError before anything is changed: for devices of other products, for a group or
        a firmware that does not exist, or that devices cannot be given.
        """
        outcome = BulkOutcome(bulk_id=f"bulk-{secrets.token_hex(6)}")
        with self._database.reading() as session:
            _checked(session, order, device_ids)
        for some in batches(device_ids):
            try:
                with self._database.changing() as change:
                    part = self._do(change, order, some, by)
                    if part.changed:
                        said = {"bulk": outcome.bulk_id, "of": len(device_ids), "chosen": chosen}
                        _audit(change, order, part, said, by)
            except StoreError as error:
                if not outcome.devices:
                    raise
                done = f"{outcome.devices} of {len(device_ids)} devices were seen to, and the others were not"
                raise type(error)(f"{done}: {str(error).removesuffix('; nothing was changed')}") from error
            outcome.add(part, len(some))
        return outcome

    @staticmethod
    def _do(change: Change, order: BulkOrder, device_ids: Sequence[str], by: str) -> BulkPart:
        firmware = _checked(change.session, order, ())
        rows = _rows(change.session, device_ids)
        part = _part(change.session, order, rows, firmware)
        ids = part.changed
        match order.deed:
            case Deed.ADD_TO_GROUP:
                made = [{"device_id": it, "group_name": order.group, "product": order.product} for it in ids]
                if made:
                    change.session.execute(insert(MembershipRow), made)
                regrouped(change, order.product, ids)
            case Deed.REMOVE_FROM_GROUP:
                change.session.execute(delete(MembershipRow).where(*_in_group(order, ids)))
                regrouped(change, order.product, ids)
            case Deed.LOCK if firmware is not None:
                put_pins(change, ids, firmware, by=by)
            case Deed.UNLOCK:
                change.session.execute(delete(PinRow).where(*_pinned(order, ids)))
                tell(change, ids)
            case Deed.OTA if firmware is not None:
                put_otas(change, ids, firmware, urgency=order.urgency, forced=order.forced, by=by)
            case Deed.REVOKE:
                revoke_devices(change, [row for row in rows if row.id in set(ids)])
        return part


def _checked(session: Session, order: BulkOrder, device_ids: Sequence[str]) -> FirmwareRow | None:
    """Return the firmware that the deed takes, if it does; raises NotFoundError and ConflictError."""
    product_row(session, order.product)
    for some in batches(device_ids):
        found = set(session.exec(ids_of(order.product, device_ids=some)))
        if unknown := [it for it in some if it not in found]:
            raise NotFoundError(f"product {order.product} has no device {unknown[0]!r:.80}; nothing was changed")
    if order.deed in _OF_GROUPS:
        _check_group(session, order)
    if order.deed in _OF_FIRMWARE:
        return releasable(session, order.product, order.component, order.version)
    return None


def _check_group(session: Session, order: BulkOrder) -> None:
    row = group_row(session, order.product, order.group)
    if row.name == EVERYONE:
        raise ConflictError(f"every device is in group {EVERYONE}, always; nothing was changed")
    if row.query is not None:
        raise ConflictError(
            f"the devices of group {row.name} of {row.product} are those of which {row.query} is true: none is put in "
            "or taken out by hand; nothing was changed"
        )


def _part(session: Session, order: BulkOrder, rows: Sequence[DeviceRow], firmware: FirmwareRow | None) -> BulkPart:
    """Tell which of these devices change."""
    ids = [row.id for row in rows]
    there: set[str] = set()
    left_out: dict[str, str] = {}
    if order.deed in _OF_GROUPS:
        members = set(session.exec(select(MembershipRow.device_id).where(*_in_group(order, ids))))
        there = members if order.deed is Deed.ADD_TO_GROUP else set(ids) - members
        if order.deed is Deed.ADD_TO_GROUP:
            left_out = dict.fromkeys(_full(session, ids) - there, FULL)
    if order.deed is Deed.REVOKE:
        there = {row.id for row in rows if row.revoked_at_ms is not None}
    if order.deed is Deed.UNLOCK:
        there = set(ids) - _locked(session, order, ids).keys()
    if firmware is not None:
        locked = _locked(session, order, ids)
        for row in rows:
            if not fits(firmware, row):
                left_out[row.id] = why_not_fitting(row.hardware_model)
            elif order.deed is Deed.OTA and row.id in locked:
                left_out[row.id] = why_locked(order.component)
            elif order.deed is Deed.LOCK and locked.get(row.id) == firmware.id:
                there.add(row.id)
    return BulkPart(changed=tuple(it for it in ids if it not in there and it not in left_out), left_out=left_out)


def _rows(session: Session, ids: Sequence[str]) -> Sequence[DeviceRow]:
    """Return devices, without what is long in their rows."""
    short = load_only(DeviceRow.product, DeviceRow.hardware_model, DeviceRow.revoked_at_ms)  # type: ignore[arg-type]
    query = select(DeviceRow).options(short).where(col(DeviceRow.id).in_(ids))
    return session.exec(query.order_by(col(DeviceRow.id))).all()


def _in_group(order: BulkOrder, ids: Sequence[str]) -> tuple[Any, ...]:
    return col(MembershipRow.device_id).in_(ids), col(MembershipRow.group_name) == order.group


def _pinned(order: BulkOrder, ids: Sequence[str]) -> tuple[Any, ...]:
    return col(PinRow.device_id).in_(ids), col(PinRow.component) == order.component


def _locked(session: Session, order: BulkOrder, ids: Sequence[str]) -> dict[str, int]:
    query = select(PinRow.device_id, PinRow.firmware_id).where(*_pinned(order, ids))
    return dict(session.exec(query).all())


def _full(session: Session, ids: Sequence[str]) -> set[str]:
    held = Counter(session.exec(select(MembershipRow.device_id).where(col(MembershipRow.device_id).in_(ids))))
    return {device_id for device_id, count in held.items() if count >= MAX_GROUPS - 1}


def _audit(change: Change, order: BulkOrder, part: BulkPart, said: dict[str, Any], by: str) -> None:
    subject = f"group/{order.product}/{order.group}" if order.deed in _OF_GROUPS else f"product/{order.product}"
    ordered: Mapping[Deed, dict[str, Any]] = {
        Deed.LOCK: {order.component: order.version},
        Deed.UNLOCK: {"component": order.component},
        Deed.OTA: {order.component: order.version, "urgency": order.urgency.value, "forced": order.forced},
        Deed.REVOKE: {"reason": order.reason},
    }
    after = {"number": len(part.changed), **said, **ordered.get(order.deed, {}), "devices": part.changed}
    audit(change, by, _ACTIONS[order.deed], subject, after=after)
