"""What devices tell: hello, state, presence and the numbered journal of their attempts, applied exactly once.

A device's entries are applied in their order, each together with the number through which all is stored, in one
transaction: what is acknowledged is on the disk, and what is on the disk is never applied again.
"""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud.fleet import AttemptFilter, AttemptView, HelloAnswer, OtaStatus
from cloud.holding import held_until_ms
from cloud.models import AttemptRow, ComponentRow, DeviceRow, EntryRow, OtaRow, ProductRow
from cloud.rollout_models import HealthRow
from cloud.store.attempt_views import attempt_views
from cloud.store.attributes import set_attributes
from cloud.store.devices import next_desired, register
from cloud.store.dynamic_groups import follow_facts
from cloud.store.engine import Change, Database
from cloud.store.evidence import apply_entry, is_behind, weigh
from cloud.store.lookup import device_row
from cloud.store.otas import close, close_overtaken
from cloud.store.turns import follow_turns
from cloud.store.waiting import follow_pending
from protocol.codec import to_plain
from protocol.down import Ack
from protocol.phases import Outcome, Reason
from protocol.up import DeviceState, Hello, Presence, Report
from protocol.values import ComponentState

UNKNOWN_PRODUCT = "unknown_product"
OTHER_PRODUCT = "other_product"
UNKNOWN_DEVICE = "unknown_device"
STALE_HELLO = "stale_hello"


class Journal:
    """Hello, state, presence, reports, attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive_hello(self, device_id: str, hello: Hello, *, open_joining: bool = True) -> HelloAnswer:
        """Store who the device is and how it stands; register it if it is new and joining is open.

        Refusals (nothing stored): `unknown_product`, `other_product` (it is registered as another one),
        `unknown_device` (joining is closed), `stale_hello` (of a session before the current one).
        """
        with self._database.changing() as change:
            row = change.session.get(DeviceRow, device_id)
            if refusal := _refusal(change.session, row, hello, open_joining=open_joining):
                return HelloAnswer(refusal=refusal)
            registered = row is None
            if row is None:
                by = f"device/{device_id}"
                row = register(change, device_id, hello.product, hello.hardware_model, by=by)
            _take_hello(change, row, hello)
            close_overtaken(change, row.product, device_ids=[device_id])
            ack = Ack(journal_id=hello.journal.journal_id, through=row.ack_through)
            desired = next_desired(change, row, hello.state.session)
            return HelloAnswer(ack=ack, desired=desired, registered=registered)

    def receive_state(self, device_id: str, state: DeviceState) -> bool:
        """Store how the device stands; False if it is unknown, or the state is not newer than what is stored."""
        with self._database.changing() as change:
            row = change.session.get(DeviceRow, device_id)
            if row is None or not _is_newer(row, state):
                return False
            if _take_state(change, row, state):
                weigh(change, row)
                follow_facts(change, row)
                close_overtaken(change, row.product, device_ids=[device_id])
            follow_turns(change, row)
            return True

    def receive_presence(self, device_id: str, presence: Presence) -> bool:
        """Store whether the device is connected; False if it is unknown, or this is of an earlier session.

        A later session is opened by its hello alone: the number in a last will, forged or garbled, must not shut out
        the hellos that follow.
        """
        with self._database.changing() as change:
            row = change.session.get(DeviceRow, device_id)
            if row is None or presence.session < row.session:
                return False
            row.online, row.last_seen_at_ms = presence.online, change.now_ms
            change.session.add(row)
            follow_turns(change, row)
            return True

    def receive_report(self, device_id: str, report: Report) -> int | None:
        """Apply the entries that come next and return the number through which all is stored; None if unknown.

        Entries already stored are passed over; after a gap nothing is applied, and the number tells where it begins.
        """
        with self._database.changing() as change:
            row = change.session.get(DeviceRow, device_id)
            if row is None:
                return None
            _follow_journal(change.session, row, report.journal_id)
            was_behind = is_behind(row)
            for entry in report.entries:
                if entry.seq == row.ack_through + 1:
                    attempt = apply_entry(change, device_id, report.journal_id, entry)
                    change.session.add(
                        EntryRow(
                            device_id=device_id,
                            journal_id=report.journal_id,
                            seq=entry.seq,
                            at_ms=entry.at_ms,
                            received_at_ms=change.now_ms,
                            attempt=attempt.id if attempt else None,
                            body=to_plain(entry),
                        )
                    )
                    row.ack_through = entry.seq
                    _close_ota(change, device_id, attempt)
            row.last_seen_at_ms = change.now_ms
            change.session.add(row)
            change.session.flush()
            if was_behind:
                weigh(change, row, as_of_hello=True)
            follow_turns(change, row, as_of_hello=was_behind)
            return row.ack_through

    def attempts(self, which: AttemptFilter) -> tuple[AttemptView, ...]:
        """Return attempts without their steps, newest first."""
        query = select(AttemptRow)
        if which.device_id is not None:
            query = query.where(col(AttemptRow.device_id) == which.device_id)
        if which.source_id is not None:
            query = query.where(col(AttemptRow.source_id) == which.source_id)
        if which.outcome is not None:
            query = query.where(col(AttemptRow.outcome) == which.outcome.value)
        if which.open_only:
            query = query.where(col(AttemptRow.outcome).is_(None))
        if which.product is not None:
            of_product = select(DeviceRow.id).where(col(DeviceRow.product) == which.product)
            query = query.where(col(AttemptRow.device_id).in_(of_product))
        if which.products is not None:
            of_products = select(DeviceRow.id).where(col(DeviceRow.product).in_(which.products))
            query = query.where(col(AttemptRow.device_id).in_(of_products))
        with self._database.reading() as session:
            rows = session.exec(query.order_by(col(AttemptRow.id).desc()).limit(which.limit)).all()
            return attempt_views(session, rows)

    def history(self, device_id: str, *, limit: int = 50) -> tuple[AttemptView, ...]:
        """Return a device's attempts with their steps, newest first; NotFoundError."""
        query = select(AttemptRow).where(col(AttemptRow.device_id) == device_id)
        with self._database.reading() as session:
            device_row(session, device_id)
            rows = session.exec(query.order_by(col(AttemptRow.id).desc()).limit(limit)).all()
            return attempt_views(session, rows, with_steps=True)


def _refusal(session: Session, row: DeviceRow | None, hello: Hello, *, open_joining: bool) -> str | None:
    if session.get(ProductRow, hello.product) is None:
        return UNKNOWN_PRODUCT
    if row is None:
        return None if open_joining else UNKNOWN_DEVICE
    if row.product != hello.product:
        return OTHER_PRODUCT
    # Sessions are numbered by the device's journal: a journal that was lost starts them again.
    stale = hello.journal.journal_id == row.journal_id and hello.state.session < row.session
    return STALE_HELLO if stale else None


def _take_hello(change: Change, row: DeviceRow, hello: Hello) -> None:
    if hello.journal.journal_id != row.journal_id:
        row.session, row.state_seq = hello.state.session, -1
        _follow_journal(change.session, row, hello.journal.journal_id)
    row.journal_next = hello.journal.next_seq
    row.hardware_model, row.agent_version = hello.hardware_model, hello.agent_version
    set_attributes(change, row, row.noted_attributes | dict(hello.attributes))
    row.encodings = list(hello.encodings)
    row.root_version, row.timezone = hello.root_version, hello.timezone
    row.online, row.last_seen_at_ms = True, change.now_ms
    change.session.add(row)
    change.session.flush()
    if _is_newer(row, hello.state):
        _take_state(change, row, hello.state)
    weigh(change, row, as_of_hello=True)
    follow_facts(change, row)
    follow_turns(change, row, as_of_hello=True)


def _follow_journal(session: Session, row: DeviceRow, journal_id: str) -> None:
    """Go over to the journal that the device writes: from its beginning, or from where this one was left."""
    if row.journal_id != journal_id:
        stored = select(func.max(EntryRow.seq)).where(
            col(EntryRow.device_id) == row.id, col(EntryRow.journal_id) == journal_id
        )
        row.journal_id, row.journal_next = journal_id, 1
        row.ack_through = session.exec(stored).one() or 0


def _is_newer(row: DeviceRow, state: DeviceState) -> bool:
    return (state.session, state.seq) > (row.session, row.state_seq)


def _take_state(change: Change, row: DeviceRow, state: DeviceState) -> bool:
    """Store a state and tell whether the components changed."""
    follow_pending(change, row, state)
    row.session, row.state_seq, row.state = state.session, state.seq, to_plain(state)
    row.has_pending, row.held_until_ms = bool(state.pending), held_until_ms(state.availability)
    row.has_refused = bool(state.refused)
    row.last_seen_at_ms = change.now_ms
    change.session.add(row)
    stored = {
        it.component: it
        for it in change.session.exec(select(ComponentRow).where(col(ComponentRow.device_id) == row.id))
    }
    reported = {it.component: it for it in state.components}
    for component in stored.keys() - reported.keys():
        change.session.delete(stored[component])
    moved = [it for name, it in reported.items() if name not in stored or _as_state(stored[name]) != it]
    for it in moved:
        component_row = stored.get(it.component) or ComponentRow(
            device_id=row.id, component=it.component, version="", build=0, digest=""
        )
        component_row.version, component_row.build, component_row.digest = it.version, it.build, it.digest
        component_row.requires, component_row.data_schema = dict(it.requires), it.data_schema
        change.session.add(component_row)
    _take_health(change, row, state)
    change.session.flush()
    return bool(moved) or stored.keys() != reported.keys()


def _take_health(change: Change, row: DeviceRow, state: DeviceState) -> None:
    query = select(HealthRow).where(col(HealthRow.device_id) == row.id)
    stored = {it.component: it for it in change.session.exec(query)}
    for said in state.health:
        health = stored.get(said.component) or HealthRow(
            device_id=row.id, component=said.component, digest="", reported_at_ms=0
        )
        health.digest, health.crashes, health.gauges = said.digest, said.crashes, dict(said.gauges)
        health.reported_at_ms = change.now_ms
        change.session.add(health)


def _as_state(row: ComponentRow) -> ComponentState:
    return ComponentState(
        component=row.component,
        version=row.version,
        build=row.build,
        digest=row.digest,
        requires=row.requires,
        data_schema=row.data_schema,
    )


_ENDED = {
    Outcome.SUCCEEDED: OtaStatus.SUCCEEDED,
    Outcome.ROLLED_BACK: OtaStatus.ROLLED_BACK,
    Outcome.FAILED: OtaStatus.FAILED,
    Outcome.CANCELLED: OtaStatus.CANCELLED,
}


def _close_ota(change: Change, device_id: str, attempt: AttemptRow | None) -> None:
    """Close the single-device OTA whose attempt has ended."""
    if attempt is None or attempt.outcome is None:
        return
    row = change.session.get(OtaRow, attempt.source_id)
    if row is None or row.device_id != device_id or row.status != OtaStatus.OPEN:
        return
    status = _ENDED[Outcome(attempt.outcome)]
    if status is OtaStatus.SUCCEEDED and attempt.taken_back_at_ms is not None:
        status = OtaStatus.FAILED
    reason = Reason(attempt.reason) if attempt.reason else None
    close(change, row, status, attempt.detail, reason=reason)
