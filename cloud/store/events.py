"""What happened, noted in the transaction in which it did: for timelines, and for webhooks.

A note that a webhook is to be told of leaves its delivery in the same transaction: neither comes without the other.
Numbers only rise, also over what was pruned. What is old goes in batches, but nothing that is still to be delivered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import delete, func, or_
from sqlmodel import Session, col, select

from cloud.event_models import DeliveryRow, EventRow, WebhookRow
from cloud.happenings import EventView, Moment, timeline
from cloud.store.audit import audited
from cloud.store.engine import Change, Database

PRUNE_BATCH: Final = 2000
"""How many events go in one transaction: nobody who writes waits long for it."""
TROUBLES: Final = ("device.rolled_back", "device.failed", "device.success_taken_back")
"""What a release's timeline tells of single devices."""
_LISTENING: Final = "fleetlift_webhooks"


class Events:
    """What happened, by number."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, subject: str, *, after: int | None = None, limit: int = 200) -> tuple[EventView, ...]:
        """Return a subject's events by number: those after one, or the newest; of a release, its devices' troubles too.

        `subject` is `release/ID`, `device/ID`, `product/ID`.
        """
        with self._database.reading() as session:
            return _of(session, subject, after, limit)

    def timeline(
        self, subject: str, *, after: tuple[int, int] | None = None, limit: int = 200
    ) -> tuple[tuple[Moment, ...], tuple[int, int]]:
        """Return a subject's events and audited decisions, oldest first, and where they end: what `after` may be next.

        Without `after` they are the newest. Both are read at one moment: what was both noted and audited is one line.
        """
        after_event, after_audit = after or (None, None)
        with self._database.reading() as session:
            events = _of(session, subject, after_event, limit)
            decisions = audited(session, subject, after_audit, limit)
        ends = (
            events[-1].number if events else after_event or 0,
            decisions[-1].number if decisions else after_audit or 0,
        )
        moments = timeline(subject, events, decisions)
        return (moments if after else moments[-limit:]), ends

    def after(
        self,
        number: int,
        *,
        product: str | None = None,
        products: frozenset[str] | None = None,
        kinds: Sequence[str] = (),
        limit: int = 200,
    ) -> tuple[EventView, ...]:
        """Return events by number, those after `number`; of a product, of some products, of some kinds."""
        query = select(EventRow).where(col(EventRow.number) > number).order_by(col(EventRow.number)).limit(limit)
        if product is not None:
            query = query.where(col(EventRow.product) == product)
        if products is not None:
            query = query.where(col(EventRow.product).in_(products))
        if kinds:
            query = query.where(col(EventRow.kind).in_(kinds))
        with self._database.reading() as session:
            return tuple(event_view(row) for row in session.exec(query))

    def prune(self, *, max_rows: int, max_age_ms: int) -> int:
        """Forget one batch of what is beyond the newest `max_rows` or older than `max_age_ms`; return how many went.

        What a webhook has yet to take stays, and so does the newest event: from it the next one has its number.
        """
        with self._database.changing() as change:
            last = change.session.exec(select(func.max(EventRow.number))).one() or 0
            waiting = select(DeliveryRow.event).where(col(DeliveryRow.due_at_ms).is_not(None))
            oldest = (
                select(EventRow.number, EventRow.at_ms)
                .where(col(EventRow.number) < last, col(EventRow.number).not_in(waiting))
                .order_by(col(EventRow.number))
                .limit(PRUNE_BATCH)
            )
            before_ms = change.now_ms - max_age_ms
            gone = [
                number
                for number, at_ms in change.session.exec(oldest)
                if number is not None and (number <= last - max_rows or at_ms < before_ms)
            ]
            if gone:
                _forget(change, gone)
            return len(gone)


def note(change: Change, kind: str, subject: str, product: str, *, source: str | None = None, **data: Any) -> None:
    """Note that something happened to `subject` (`release/ID`, `device/ID`, `product/ID`); `data` is JSON values.

    `source` is the release (`release/ID`) that it came of, whose timeline tells it if it is a device's trouble.
    """
    row = EventRow(at_ms=change.now_ms, kind=kind, product=product, subject=subject, source=source, data=data)
    change.session.add(row)
    hearing = [it.name for it in _listening(change.session) if it.product in (None, product) and hears(it.kinds, kind)]
    if hearing:
        deliver(change, row, hearing)


def deliver(change: Change, row: EventRow, webhooks: Iterable[str]) -> None:
    """Have webhooks told of an event, within the transaction that notes it."""
    change.session.flush()
    for name in webhooks:
        change.session.add(DeliveryRow(webhook=name, event=row.number or 0, due_at_ms=change.now_ms))


def hears(kinds: Sequence[str], kind: str) -> bool:
    """Tell whether a webhook of these kinds is told of one: none stands for all, `device.*` for all of devices."""
    return not kinds or any(kind == it or (it.endswith(".*") and kind.startswith(it[:-1])) for it in kinds)


def _listening(session: Session) -> Sequence[WebhookRow]:
    """Return the enabled webhooks, looked up once in a transaction."""
    if _LISTENING not in session.info:
        session.info[_LISTENING] = session.exec(select(WebhookRow).where(col(WebhookRow.enabled).is_(True))).all()
    found: Sequence[WebhookRow] = session.info[_LISTENING]
    return found


def _forget(change: Change, numbers: Sequence[int]) -> None:
    for start in range(0, len(numbers), 500):
        some = numbers[start : start + 500]
        change.session.execute(delete(DeliveryRow).where(col(DeliveryRow.event).in_(some)))
        change.session.execute(delete(EventRow).where(col(EventRow.number).in_(some)))


def _of(session: Session, subject: str, after: int | None, limit: int) -> tuple[EventView, ...]:
    troubles = (col(EventRow.source) == subject) & col(EventRow.kind).in_(TROUBLES)
    query = select(EventRow).where(or_(col(EventRow.subject) == subject, troubles)).limit(limit)
    if after is None:
        newest = session.exec(query.order_by(col(EventRow.number).desc())).all()
        return tuple(event_view(row) for row in reversed(newest))
    return tuple(
        event_view(row)
        for row in session.exec(query.where(col(EventRow.number) > after).order_by(col(EventRow.number)))
    )


def event_view(row: EventRow) -> EventView:
    """Return an event as others see it."""
    return EventView(
        number=row.number or 0,
        at_ms=row.at_ms,
        kind=row.kind,
        product=row.product,
        subject=row.subject,
        source=row.source,
        data=row.data,
    )
