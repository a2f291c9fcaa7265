"""Success is evidence: what the journal's entries make of attempts, and when a device's own word takes a success back.

An attempt counts as a success when it ended `succeeded` with the wanted digest booted, until the device reports that
it runs something else, or that it began its next attempt from something else, and no newer attempt at that explains it.
States and journal entries travel side by side, so what a device says is only held against what came before it: a hello
tells how far the journal had come, and is judged once the entries up to there are here; a state comes after the entries
that were applied before it. A success is given back when an attempt that explains the contradiction arrives late.
"""

from __future__ import annotations

from sqlalchemy import update
from sqlmodel import Session, col, select

from cloud.models import AttemptRow, ComponentRow, DeviceRow, ReleaseRow
from cloud.store.engine import Change
from cloud.store.events import note
from protocol.phases import Outcome, Phase
from protocol.up import AttemptEntry, Entry
from protocol.values import Via

FROM_RESTART = frozenset({Phase.RESTARTING, Phase.PROVING, Phase.COMMITTING, Phase.ROLLING_BACK})
BEFORE_DOWNLOADED = frozenset({Phase.IDLE, Phase.DOWNLOADING, Phase.VERIFYING})


def apply_entry(change: Change, device_id: str, journal_id: str, entry: Entry) -> AttemptRow | None:
    """Bring an attempt up to date with the next entry about it; the first outcome stays."""
    said = entry.attempt
    if said is None:
        return None
    query = select(AttemptRow).where(
        col(AttemptRow.device_id) == device_id,
        col(AttemptRow.journal_id) == journal_id,
        col(AttemptRow.attempt_id) == said.attempt_id,
    )
    row = change.session.exec(query).first()
    if row is None:
        row = _new_attempt(device_id, journal_id, entry, said)
        row.begun_at_ms = change.now_ms
        _give_back(change, row)
        _hold_against(change, row)
        _say(change, f"device.began: {said.component} {said.version}", row)
    if row.outcome is None:
        row.phase = said.phase.value
        row.downloaded = row.downloaded or _was_downloaded(said)
        row.fetched_bytes = max(row.fetched_bytes, said.fetched_bytes)
        row.forced = row.forced or said.forced
        row.detail = said.detail
        if row.taken_at_ms is None and _was_taken(said):
            row.taken_at_ms = change.now_ms
        if said.outcome is not None:
            _end(change, row, entry, said)
    change.session.add(row)
    change.session.flush()
    return row


def is_behind(device: DeviceRow) -> bool:
    """Tell whether entries that were there at the device's last hello have yet to arrive."""
    return device.ack_through + 1 < device.journal_next


def weigh(change: Change, device: DeviceRow, *, as_of_hello: bool = False) -> None:
    """Take back the successes that the device's reported components contradict.

    `as_of_hello` holds them only against what the journal held at the last hello.
    """
    if is_behind(device):
        return
    for component in change.session.exec(select(ComponentRow).where(col(ComponentRow.device_id) == device.id)):
        row = newest_success(change.session, device.id, component.component)
        if row is None or row.digest == component.digest or row.taken_back_at_ms is not None:
            continue
        is_later = row.journal_id == device.journal_id and (row.ended_seq or 0) >= device.journal_next
        if (as_of_hello and is_later) or _explained(change.session, row, component.digest):
            continue
        _take_back(change, row, component.digest, f"it reports {component.version}, another image")


def newest_success(session: Session, device_id: str, component: str) -> AttemptRow | None:
    """Return the newest attempt at a component that ended well, whether or not that was taken back."""
    query = select(AttemptRow).where(
        col(AttemptRow.device_id) == device_id,
        col(AttemptRow.component) == component,
        col(AttemptRow.outcome) == Outcome.SUCCEEDED.value,
        col(AttemptRow.booted_digest) == col(AttemptRow.digest),
    )
    return session.exec(query.order_by(col(AttemptRow.id).desc()).limit(1)).first()


def _new_attempt(device_id: str, journal_id: str, entry: Entry, said: AttemptEntry) -> AttemptRow:
    return AttemptRow(
        device_id=device_id,
        journal_id=journal_id,
        attempt_id=said.attempt_id,
        source_id=said.source_id,
        via=said.via.value,
        component=said.component,
        version=said.version,
        digest=said.digest,
        from_version=said.from_version,
        from_digest=said.from_digest,
        tried_order=said.order,
        phase=said.phase.value,
        started_at_ms=entry.at_ms,
    )


def _hold_against(change: Change, begun: AttemptRow) -> None:
    """Take back the success that the beginning of the next attempt contradicts: it began from another image.

    The state that would have told so may never have come: of states, only the newest waits for a busy server.
    """
    success, was = newest_success(change.session, begun.device_id, begun.component), begun.from_digest
    if success is None or was is None or was == success.digest or success.taken_back_at_ms is not None:
        return
    # What another journal tells late may have been before that success: only one journal is in order.
    if success.journal_id == begun.journal_id and not _explained(change.session, success, was):
        _take_back(change, success, was, f"it began another attempt from {begun.from_version}, another image")


def _take_back(change: Change, success: AttemptRow, contradicted_by: str, why: str) -> None:
    success.taken_back_at_ms, success.contradicted_by = change.now_ms, contradicted_by
    change.session.add(success)
    _tell(change, "device.success_taken_back", success, why)


def _was_downloaded(said: AttemptEntry) -> bool:
    return said.outcome in (Outcome.SUCCEEDED, Outcome.ROLLED_BACK) or said.phase not in BEFORE_DOWNLOADED


def _was_taken(said: AttemptEntry) -> bool:
    """Tell whether the device has gone over to the firmware, or is about to: from here on it may stay silent."""
    return said.outcome in (Outcome.SUCCEEDED, Outcome.ROLLED_BACK) or said.phase in FROM_RESTART


def _end(change: Change, row: AttemptRow, entry: Entry, said: AttemptEntry) -> None:
    row.outcome = said.outcome.value if said.outcome else None
    row.reason = said.reason.value if said.reason else None
    row.booted_digest = said.booted_digest
    row.ended_at_ms, row.ended_seq, row.settled_at_ms = entry.at_ms, entry.seq, change.now_ms
    if said.outcome is Outcome.SUCCEEDED and said.booted_digest != row.digest:
        # A success without its evidence never counts, and is never given back.
        row.taken_back_at_ms, row.detail = change.now_ms, "told as succeeded, but another digest booted"
        _tell(change, "device.success_taken_back", row, row.detail)
    elif said.outcome in _TOLD:
        _tell(change, _TOLD[said.outcome], row, row.detail)


_TOLD = {
    Outcome.SUCCEEDED: "device.updated",
    Outcome.ROLLED_BACK: "device.rolled_back",
    Outcome.FAILED: "device.failed",
}


def _tell(change: Change, kind: str, row: AttemptRow, detail: str) -> None:
    """Note what became of an attempt; what it came of is the device's own word, believed of its own product alone."""
    device = change.session.get_one(DeviceRow, row.device_id)
    release = _release_of(change.session, row, device)
    _say(change, f"{kind}: {row.component} {row.version}", row)
    note(
        *(change, kind, f"device/{device.id}", device.product),
        source=f"release/{release.id}" if release else None,
        component=row.component,
        version=row.version,
        from_version=row.from_version,
        via=row.via,
        source_id=row.source_id,
        group=release.group_name if release else None,
        label=release.label if release else None,
        attempt_id=row.attempt_id,
        reason=row.reason,
        detail=detail,
    )


def _release_of(session: Session, row: AttemptRow, device: DeviceRow) -> ReleaseRow | None:
    release = session.get(ReleaseRow, row.source_id)
    return release if release is not None and release.product == device.product else None


def _say(change: Change, words: str, row: AttemptRow) -> None:
    """Have the log say what became of an attempt, by the ids under which the device's own log says it."""
    release = _release_of(change.session, row, change.session.get_one(DeviceRow, row.device_id))
    change.say(
        words,
        device_id=row.device_id,
        attempt_id=row.attempt_id,
        **({} if row.via == Via.PIN else {f"{row.via}_id": row.source_id}),
        label=f"v{release.label}" if release else None,
        reason=row.reason,
        detail=row.detail or None,
    )


def _explained(session: Session, success: AttemptRow, digest: str) -> bool:
    query = select(AttemptRow.id).where(
        col(AttemptRow.device_id) == success.device_id,
        col(AttemptRow.component) == success.component,
        col(AttemptRow.digest) == digest,
        col(AttemptRow.id) > success.id,
    )
    return session.exec(query.limit(1)).first() is not None


def _give_back(change: Change, explaining: AttemptRow) -> None:
    change.session.execute(
        update(AttemptRow)
        .where(
            col(AttemptRow.device_id) == explaining.device_id,
            col(AttemptRow.component) == explaining.component,
            col(AttemptRow.contradicted_by) == explaining.digest,
        )
        .values(taken_back_at_ms=None, contradicted_by=None)
    )
