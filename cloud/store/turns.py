"""Turns in redundancy sets: asked for, granted, ended, within the transaction in which a device says what changed.

A device asks by its state (`waits_for_turn`). It has its turn from the grant until its attempt has an outcome in the
database. A member that is beyond its restart without a turn counts as holding, too: nobody knows yet that it is well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from sqlmodel import Session, col, select

from cloud.models import AttemptRow, DeviceRow
from cloud.rollout_models import RedundancyMemberRow, TurnRequestRow, TurnRow
from cloud.store.engine import Change
from cloud.store.events import note
from cloud.store.evidence import is_behind
from cloud.store.lookup import batches
from cloud.store.otas import tell
from cloud.turns import Asked, grants
from protocol.phases import Phase

UNCONFIRMED: Final = (Phase.RESTARTING, Phase.PROVING, Phase.COMMITTING, Phase.ROLLING_BACK)
"""From the restart on an attempt cannot be called off, and what runs is not known to be good."""


def follow_turns(change: Change, row: DeviceRow, *, as_of_hello: bool = False) -> None:
    """Follow up on what a device said or did: its turn may have ended, it may ask for one, others may go now.

    `as_of_hello`: if all that its journal held at its hello has arrived, an attempt that is not in it is over.
    """
    sets = sets_of(change.session, row.id)
    if not sets:
        return
    change.session.flush()
    asked_for = _asked_for(change.session, row)
    turn = change.session.get(TurnRow, row.id)
    if turn is not None and _is_over(change.session, row, turn, asked_for, as_of_hello=as_of_hello):
        change.session.delete(turn)
        change.session.flush()
        turn = None
    _note_request(change, row, asked_for if turn is None else "")
    grant_turns(change, sets)


def grant_turns(change: Change, sets: Iterable[str]) -> None:
    """Grant the turns that are free in these sets, and have the devices told."""
    session = change.session
    of_these = select(RedundancyMemberRow.device_id).where(col(RedundancyMemberRow.set_name).in_(list(sets)))
    asking = select(TurnRequestRow.device_id).where(col(TurnRequestRow.device_id).in_(of_these))
    eligible = set(session.exec(asking))
    if not eligible:
        return
    members = members_of_sets(session, sorted({name for it in sorted(eligible) for name in sets_of(session, it)}))
    everyone = sorted(set().union(*members.values()))
    requests = _requests(session, everyone)
    waiting = [Asked(it.number, it.device_id) for it in requests.values()]
    for device_id in grants(members, waiting, set(holders(session, everyone))):
        if device_id in eligible:  # of others, not all of their sets were looked at
            _grant(change, requests[device_id], [name for name in sorted(members) if device_id in members[name]])


def holders(session: Session, device_ids: Sequence[str]) -> dict[str, str]:
    """Return those of the members that hold a turn, or count as holding one, and the attempt that they hold it for."""
    found: dict[str, str] = {}
    for some in batches(device_ids):
        found |= _holders(session, some)
    return found


def _holders(session: Session, device_ids: Sequence[str]) -> dict[str, str]:
    turns = {it.device_id: it for it in session.exec(select(TurnRow).where(col(TurnRow.device_id).in_(device_ids)))}
    found = {device_id: turn.attempt_id for device_id, turn in turns.items() if not turn.taken_away}
    joined = select(RedundancyMemberRow).where(col(RedundancyMemberRow.device_id).in_(device_ids))
    amid = {(it.device_id, it.joined_amid) for it in session.exec(joined)}
    query = (
        select(AttemptRow, DeviceRow)
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(
            col(AttemptRow.device_id).in_(device_ids),
            col(AttemptRow.outcome).is_(None),
            col(AttemptRow.journal_id) == col(DeviceRow.journal_id),
        )
    )
    for attempt, device in session.exec(query):
        turn = turns.get(device.id)
        freed = turn is not None and turn.taken_away and turn.attempt_id == attempt.attempt_id
        unsure = attempt.phase in UNCONFIRMED or (device.id, attempt.attempt_id) in amid
        if unsure and not freed and _said(device) != attempt.attempt_id:
            found.setdefault(device.id, attempt.attempt_id)
    return found


def under_way(session: Session, row: DeviceRow) -> str:
    """Return the attempt that a device is in the middle of, as far as it told; empty if in none."""
    query = select(AttemptRow.attempt_id).where(
        col(AttemptRow.device_id) == row.id,
        col(AttemptRow.journal_id) == row.journal_id,
        col(AttemptRow.outcome).is_(None),
    )
    return session.exec(query.order_by(col(AttemptRow.id).desc()).limit(1)).first() or ""


def sets_of(session: Session, device_id: str) -> list[str]:
    """Return the names of a device's redundancy sets."""
    query = select(RedundancyMemberRow.set_name).where(col(RedundancyMemberRow.device_id) == device_id)
    return sorted(session.exec(query))


def members_of_sets(session: Session, sets: Sequence[str]) -> dict[str, set[str]]:
    """Return the members of sets by their names."""
    members: dict[str, set[str]] = defaultdict(set)
    for some in batches(sets):
        for row in session.exec(select(RedundancyMemberRow).where(col(RedundancyMemberRow.set_name).in_(some))):
            members[row.set_name].add(row.device_id)
    return dict(members)


def _requests(session: Session, device_ids: Sequence[str]) -> dict[str, TurnRequestRow]:
    """Return the requests of those devices that are connected."""
    found: dict[str, TurnRequestRow] = {}
    for some in batches(device_ids):
        query = (
            select(TurnRequestRow)
            .join(DeviceRow, col(DeviceRow.id) == col(TurnRequestRow.device_id))
            .where(col(TurnRequestRow.device_id).in_(some), col(DeviceRow.online).is_(True))
        )
        found |= {row.device_id: row for row in session.exec(query)}
    return found


def _said(row: DeviceRow) -> str:
    """Return the attempt with which a device says that it waits for its turn."""
    return str((row.state or {}).get("waits_for_turn") or "")


def _asked_for(session: Session, row: DeviceRow) -> str:
    """Return the attempt that a device asks a turn for; none that has ended: a state may be older than a report."""
    said = _said(row)
    attempt = _attempt(session, row, said) if said else None
    return "" if attempt is not None and attempt.outcome is not None else said


def _is_over(session: Session, row: DeviceRow, turn: TurnRow, asked_for: str, *, as_of_hello: bool) -> bool:
    if asked_for:  # one attempt at a time: who asks for another is done with this; who asks again lost it
        return asked_for != turn.attempt_id or turn.taken_away
    attempt = _attempt(session, row, turn.attempt_id)
    if attempt is not None:
        return attempt.outcome is not None
    return as_of_hello and not is_behind(row)


def _attempt(session: Session, row: DeviceRow, attempt_id: str) -> AttemptRow | None:
    query = select(AttemptRow).where(
        col(AttemptRow.device_id) == row.id,
        col(AttemptRow.journal_id) == row.journal_id,
        col(AttemptRow.attempt_id) == attempt_id,
    )
    return session.exec(query).first()


def _note_request(change: Change, row: DeviceRow, asked_for: str) -> None:
    """Note what a device asks for, in its place in the queue for as long as it asks."""
    request = change.session.get(TurnRequestRow, row.id)
    if not asked_for:
        if request is not None:
            change.session.delete(request)
    elif request is None:
        number = change.next_number("turn")
        change.session.add(TurnRequestRow(device_id=row.id, attempt_id=asked_for, number=number))
    else:
        request.attempt_id = asked_for
        change.session.add(request)
    change.session.flush()


def _grant(change: Change, request: TurnRequestRow, sets: Sequence[str]) -> None:
    device = change.session.get_one(DeviceRow, request.device_id)
    turn = change.session.get(TurnRow, device.id)
    turn = turn or TurnRow(device_id=device.id, attempt_id="", granted_at_ms=0)
    turn.attempt_id, turn.granted_at_ms, turn.taken_away = request.attempt_id, change.now_ms, False
    change.session.add(turn)
    change.session.delete(request)
    change.session.flush()
    note(change, "turn.granted", f"device/{device.id}", device.product, attempt=turn.attempt_id, sets=list(sets))
    tell(change, [device.id])
