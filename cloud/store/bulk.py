"""One decision for many devices: one transaction, by statements for all of them, whatever their number.

So it is made for every device that was asked for, or for none: nothing that cuts it off leaves it half done. Each
device is looked at as it is then: one that is so already, or that cannot be, is left as it is. It is one row of the
audit, and `decided_device` says which devices it changed: their timelines tell it, and lists find them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import func, insert, literal
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.bulk import BulkOrder, BulkOutcome, Deed
from cloud.device_models import DecidedDeviceRow
from cloud.fleet import DeviceFilter
from cloud.models import AuditRow, DeviceRow, FirmwareRow
from cloud.store.audit import audit
from cloud.store.bulk_deeds import carry_out, otas_in_force
from cloud.store.bulk_forecasts import changes, forecast
from cloud.store.device_lists import Ids, ids_where
from cloud.store.devices import releasable
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.lookup import batches, group_row, product_row
from cloud.store.situations import ids_of
from protocol.identity import EVERYONE

NAMED: Final = 1000
"""A decision for no more devices than that names them in its row of the audit; beyond, it has their digest."""
Whom = DeviceFilter | Sequence[str]
"""Devices of the order's product: all that a filter finds, or those that are named."""
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

    def forecast(self, order: BulkOrder, whom: Whom) -> BulkOutcome:
        """Tell what would come of it, and change nothing; raises what `do` raises."""
        with self._database.reading() as session:
            firmware, ids = _asked(session, order, whom, self._database.now_ms())
            return forecast(session, order, ids, firmware)

    def do(
        self,
        order: BulkOrder,
        whom: Whom,
        *,
        by: str,
        count: int | None = None,
        chosen: Mapping[str, Any] | None = None,
    ) -> BulkOutcome:
        """Do it; `count` is how many devices it has to be about, and `chosen` says in the audit how they were chosen.

        Raises NotFoundError and ConflictError: for another number of devices, for devices of other products, for a
        group or a firmware that does not exist, or that devices cannot be given.
        """
        with self._database.changing() as change:
            firmware, ids = _asked(change.session, order, whom, change.now_ms)
            outcome = forecast(change.session, order, ids, firmware)
            if count not in (None, outcome.devices):
                one = outcome.devices == 1
                there = f"{outcome.devices} {'device is' if one else 'devices are'} found now"
                raise ConflictError(
                    f"the world has changed: {there}, and it was to be {count}; nothing was changed, look again"
                )
            if outcome.changed:
                decision = _note(change, order, ids.where(changes(order, firmware)), outcome, chosen, by)
                among = select(DecidedDeviceRow.device_id).where(col(DecidedDeviceRow.number) == decision.number)
                carry_out(change, order, among, outcome.changed, firmware, by=by)
                outcome.decision = decision.number
            return outcome


def _asked(session: Session, order: BulkOrder, whom: Whom, now_ms: int) -> tuple[FirmwareRow | None, Ids]:
    """Return the firmware that the deed takes, if it does, and the devices; raises NotFoundError and ConflictError."""
    product_row(session, order.product)
    if order.deed in _OF_GROUPS:
        _check_group(session, order)
    firmware = None
    if order.deed in _OF_FIRMWARE:
        firmware = releasable(session, order.product, order.component, order.version)
    if isinstance(whom, DeviceFilter):
        return firmware, ids_where(replace(whom, product=order.product, after=None), now_ms)
    for some in batches(whom):
        found = set(session.exec(ids_of(order.product, device_ids=some)))
        if unknown := [it for it in some if it not in found]:
            raise NotFoundError(f"product {order.product} has no device {unknown[0]!r:.80}; nothing was changed")
    return firmware, select_columns(col(DeviceRow.id)).where(col(DeviceRow.id).in_(whom))


def _check_group(session: Session, order: BulkOrder) -> None:
    row = group_row(session, order.product, order.group)
    if row.name == EVERYONE:
        raise ConflictError(f"every device is in group {EVERYONE}, always; nothing was changed")
    if row.query is not None:
        raise ConflictError(
            f"the devices of group {row.name} of {row.product} are those of which {row.query} is true: none is put in "
            "or taken out by hand; nothing was changed"
        )


def _note(  # noqa: PLR0917 - one parameter a part of the decision
    change: Change,
    order: BulkOrder,
    ids: Ids,
    outcome: BulkOutcome,
    chosen: Mapping[str, Any] | None,
    by: str,
) -> AuditRow:
    """Add the decision to the audit, and which devices it changes: those, as nothing is done yet."""
    subject = f"group/{order.product}/{order.group}" if order.deed in _OF_GROUPS else f"product/{order.product}"
    ordered: Mapping[Deed, dict[str, Any]] = {
        Deed.LOCK: {order.component: order.version},
        Deed.UNLOCK: {"component": order.component},
        Deed.OTA: {order.component: order.version, "urgency": order.urgency.value, "forced": order.forced},
        Deed.REVOKE: {"reason": order.reason},
    }
    names = change.session.execute(ids.order_by(col(DeviceRow.id))).scalars().all()
    after = {"number": len(names), "of": outcome.devices, "chosen": chosen, **ordered.get(order.deed, {})}
    if order.deed in _OF_FIRMWARE:
        superseded = select_columns(func.count()).select_from(otas_in_force(order.component, ids).subquery())
        after["superseded_otas"] = change.session.execute(superseded).scalar_one()
    if len(names) <= NAMED:
        after["devices"] = names
    else:
        after["devices_sha256"] = hashlib.sha256("".join(f"{it}\n" for it in names).encode()).hexdigest()
    row = audit(change, by, _ACTIONS[order.deed], subject, after=after)
    among = ids.with_only_columns(literal(row.number), col(DeviceRow.id), maintain_column_froms=True)
    change.session.execute(insert(DecidedDeviceRow).from_select(["number", "device_id"], among))
    return row
