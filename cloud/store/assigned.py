"""What was decided for single devices: their groups by rank, locks, OTAs, and turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.models import DeviceRow, FirmwareRow, GroupRow, MembershipRow, OtaRow, PinRow, ProductRow
from cloud.rollout_models import RedundancyMemberRow, TurnRow
from cloud.store.lookup import firmware_ref
from protocol.down import Ota
from protocol.identity import EVERYONE
from protocol.selection import Assignment
from protocol.values import FirmwareRef, Urgency

DeviceIds = SelectOfScalar[str]
"""A query for the ids of devices, which the queries about these devices contain."""
_NO_TURN: Final = ""


class Assigned:
    """What was decided for devices; equal decisions are one object.

    `many` says that the devices are likely more than those for which anything of their own was decided.
    """

    def __init__(self, session: Session, product: str, ids: DeviceIds, *, many: bool = False) -> None:
        def among(device_id: str) -> ColumnElement[bool]:
            return ids.where(col(DeviceRow.id) == device_id).exists() if many else col(device_id).in_(ids)

        row = session.get(ProductRow, product)
        self._ota_enabled, self._base_only = row is not None and row.ota_enabled, row is not None and row.base_only
        takers = select(RedundancyMemberRow.device_id).where(among(RedundancyMemberRow.device_id))
        turns = select(TurnRow).where(among(TurnRow.device_id), col(TurnRow.taken_away).is_(False))
        self._takers = set(session.exec(takers))
        self._turns = {it.device_id: it.attempt_id for it in session.exec(turns)}
        refs: dict[int, FirmwareRef] = {}
        self._pins: dict[str, list[FirmwareRef]] = defaultdict(list)
        for pin in session.exec(select(PinRow).where(among(PinRow.device_id)).order_by(col(PinRow.component))):
            self._pins[pin.device_id].append(_ref(session, refs, pin.firmware_id))
        self._otas = _otas(session, among(OtaRow.device_id), refs)
        ranks = select(GroupRow.name, GroupRow.rank).where(col(GroupRow.product) == product)
        self._ranks = {name: (rank, name) for name, rank in session.exec(ranks)}
        self._known: dict[object, Assignment] = {}
        self.own = frozenset({*self._takers, *self._turns, *self._pins, *self._otas})
        """The devices for which more was decided than the groups that they are in."""

    def of(self, device_id: str, groups: Sequence[str]) -> Assignment:
        """Return what was decided for a device that is in these groups, and in `everyone`."""
        ranked = tuple(sorted(groups, key=self._ranks.__getitem__))
        pins, otas = self._pins.get(device_id), self._otas.get(device_id)
        takes_turns, turn = device_id in self._takers, self._turns.get(device_id, _NO_TURN)
        key = device_id if pins or otas else (ranked, takes_turns, turn)
        if key not in self._known:
            self._known[key] = Assignment(
                groups=(*ranked, EVERYONE),
                pins=tuple(pins or ()),
                otas=tuple(otas or ()),
                ota_enabled=self._ota_enabled,
                base_only=self._base_only,
                takes_turns=takes_turns,
                turn=turn,
            )
        return self._known[key]


def assignments(session: Session, product: str, ids: DeviceIds) -> dict[str, Assignment]:
    """Return what was decided for each of these devices."""
    session.flush()
    assigned, groups = Assigned(session, product, ids), defaultdict[str, list[str]](list)
    members = select(MembershipRow.device_id, MembershipRow.group_name)
    for device_id, group in session.exec(members.where(col(MembershipRow.device_id).in_(ids))):
        groups[device_id].append(group)
    return {
        device_id: assigned.of(device_id, groups.get(device_id, ()))
        for device_id in session.exec(ids.order_by(col(DeviceRow.id))).all()
    }


def _otas(session: Session, among: ColumnElement[bool], refs: dict[int, FirmwareRef]) -> dict[str, list[Ota]]:
    query = select(OtaRow).where(among, col(OtaRow.in_force).is_(True)).order_by(col(OtaRow.decision).desc())
    found: dict[str, list[Ota]] = defaultdict(list)
    for row in session.exec(query):
        found[row.device_id].append(
            Ota(
                ota_id=row.id,
                order=row.decision,
                firmware=_ref(session, refs, row.firmware_id),
                urgency=Urgency(row.urgency),
                forced=row.forced,
            )
        )
    return found


def _ref(session: Session, refs: dict[int, FirmwareRef], firmware_id: int) -> FirmwareRef:
    if firmware_id not in refs:
        refs[firmware_id] = firmware_ref(session.get_one(FirmwareRow, firmware_id))
    return refs[firmware_id]
