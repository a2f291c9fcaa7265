"""Redundancy sets: devices of which never two are unconfirmed at once, whatever is released to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlmodel import Session, col, select

from cloud.models import DeviceRow
from cloud.rollout_models import RedundancyMemberRow, RedundancySetRow, TurnRequestRow, TurnRow
from cloud.store.audit import audit
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.events import note
from cloud.store.lookup import checking, device_row
from cloud.store.otas import tell
from cloud.store.turns import follow_turns, grant_turns, holders, sets_of, under_way
from cloud.turns import RedundancySetView, SetMember, Standing
from protocol.identity import check_id

MAX_MEMBERS: Final = 500
MAX_SETS: Final = 16
"""Sets that one device can be in."""


class Redundancy:
    """Redundancy sets and turns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_set(self, name: str, *, by: str) -> RedundancySetView:
        """Make an empty set; ConflictError if it exists."""
        with checking():
            check_id(name, "set")
        with self._database.changing() as change:
            if change.session.get(RedundancySetRow, name) is not None:
                raise ConflictError(f"there is a redundancy set {name} already; nothing was changed")
            row = RedundancySetRow(name=name, created_at_ms=change.now_ms, created_by=by)
            change.session.add(row)
            change.session.flush()
            audit(change, by, "set.created", f"set/{name}")
            return _view(change.session, row)

    def sets(self) -> tuple[RedundancySetView, ...]:
        """Return all sets by name."""
        with self._database.reading() as session:
            rows = session.exec(select(RedundancySetRow).order_by(col(RedundancySetRow.name)))
            return tuple(_view(session, row) for row in rows)

    def find(self, name: str) -> RedundancySetView:
        """Return one set; NotFoundError."""
        with self._database.reading() as session:
            return _view(session, _set_row(session, name))

    def delete_set(self, name: str, *, by: str) -> None:
        """Delete a set: its devices are updated without regard to each other."""
        with self._database.changing() as change:
            row = _set_row(change.session, name)
            members = _members(change.session, name)
            _take_out(change, members)
            change.session.flush()
            change.session.delete(row)
            change.session.flush()
            audit(change, by, "set.deleted", f"set/{name}", before={"devices": [it.device_id for it in members]})

    def add_to_set(self, name: str, device_ids: Sequence[str], *, by: str) -> int:
        """Put devices into a set and return how many are new; NotFoundError, ConflictError, then none is put in.

        One that is in the middle of an update counts as having its turn, until it says that it waits for it.
        """
        with self._database.changing() as change:
            _set_row(change.session, name)
            there = {it.device_id for it in _members(change.session, name)}
            new = [device_id for device_id in dict.fromkeys(device_ids) if device_id not in there]
            if len(there) + len(new) > MAX_MEMBERS:
                raise ConflictError(f"a redundancy set has at most {MAX_MEMBERS} devices; nothing was changed")
            for device_id in new:
                device = device_row(change.session, device_id)
                if len(sets_of(change.session, device_id)) >= MAX_SETS:
                    raise ConflictError(f"device {device_id} is in {MAX_SETS} sets, the most; nothing was changed")
                amid = under_way(change.session, device)
                change.session.add(RedundancyMemberRow(set_name=name, device_id=device_id, joined_amid=amid))
                change.session.flush()
            if new:
                audit(change, by, "set.added", f"set/{name}", after={"devices": new})
                tell(change, new)
            return len(new)

    def remove_from_set(self, name: str, device_ids: Sequence[str], *, by: str) -> int:
        """Take devices out of a set and return how many were in it."""
        with self._database.changing() as change:
            _set_row(change.session, name)
            asked = set(device_ids)
            for device_id in sorted(asked):
                device_row(change.session, device_id)
            gone = [it for it in _members(change.session, name) if it.device_id in asked]
            if gone:
                ids = [it.device_id for it in gone]
                audit(change, by, "set.removed", f"set/{name}", before={"devices": ids})
                _take_out(change, gone)
                grant_turns(change, [name])
            return len(gone)

    def take_turn_away(self, device_id: str, *, by: str) -> str:
        """Let others go before a device that holds a turn has told how its attempt ended; return that attempt.

        Two members of a set may be unconfirmed then: it is for a device that does not come back. ConflictError if it
        holds no turn.
        """
        with self._database.changing() as change:
            device = device_row(change.session, device_id)
            attempt_id = holders(change.session, [device_id]).get(device_id)
            if attempt_id is None:
                raise ConflictError(f"device {device_id} holds no turn; nothing was changed")
            turn = change.session.get(TurnRow, device_id)
            turn = turn or TurnRow(device_id=device_id, attempt_id="", granted_at_ms=change.now_ms)
            turn.attempt_id, turn.taken_away = attempt_id, True
            change.session.add(turn)
            change.session.flush()
            sets = sets_of(change.session, device_id)
            subject = f"device/{device_id}"
            audit(change, by, "turn.taken_away", subject, after={"attempt": attempt_id, "sets": sets})
            note(change, "turn.taken_away", subject, device.product, attempt=attempt_id, sets=sets)
            tell(change, [device_id])
            follow_turns(change, device)
            return attempt_id


def _take_out(change: Change, members: Sequence[RedundancyMemberRow]) -> None:
    """Take members out of their set; who is in no other one waits for no turn, and has none."""
    for member in members:
        change.session.delete(member)
        change.session.flush()
        if not sets_of(change.session, member.device_id):
            for row_type in (TurnRow, TurnRequestRow):
                row = change.session.get(row_type, member.device_id)
                if row is not None:
                    change.session.delete(row)
    change.session.flush()
    tell(change, [member.device_id for member in members])


def _set_row(session: Session, name: str) -> RedundancySetRow:
    row = session.get(RedundancySetRow, name)
    if row is None:
        raise NotFoundError(f"there is no redundancy set {name!r:.80}; nothing was changed")
    return row


def _members(session: Session, name: str) -> list[RedundancyMemberRow]:
    query = select(RedundancyMemberRow).where(col(RedundancyMemberRow.set_name) == name)
    return list(session.exec(query.order_by(col(RedundancyMemberRow.device_id))))


def _view(session: Session, row: RedundancySetRow) -> RedundancySetView:
    ids = [it.device_id for it in _members(session, row.name)]
    holding = holders(session, ids)
    asking = {
        it.device_id: it for it in session.exec(select(TurnRequestRow).where(col(TurnRequestRow.device_id).in_(ids)))
    }
    members = []
    for device in session.exec(select(DeviceRow).where(col(DeviceRow.id).in_(ids)).order_by(col(DeviceRow.id))):
        request = asking.get(device.id)
        standing = Standing.HOLDS if device.id in holding else Standing.WAITS if request else Standing.FREE
        attempt_id = holding.get(device.id) or (request.attempt_id if request else "")
        members.append(
            SetMember(
                device_id=device.id,
                product=device.product,
                online=device.online,
                standing=standing,
                attempt_id=attempt_id,
                asked=request.number if request else None,
            )
        )
    return RedundancySetView(
        name=row.name, members=tuple(members), created_at_ms=row.created_at_ms, created_by=row.created_by
    )
