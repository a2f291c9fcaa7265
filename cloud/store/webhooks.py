"""Webhooks and their deliveries: an outbox of what happened, from which nothing goes before it was taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from sqlalchemy import delete, func, update
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.event_models import DeliveryRow, EventRow, WebhookRow
from cloud.store.audit import audit
from cloud.store.engine import Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.events import deliver, event_view
from cloud.store.lookup import product_row
from cloud.webhooks.values import DeliveryState, DeliveryView, Due, Tried, WebhookDraft, WebhookView

MAX_WEBHOOKS: Final = 100
TOO_OLD: Final = "given up: it was not taken in time"


class Webhooks:
    """Who is told of what happens, and what they took."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, draft: WebhookDraft, *, by: str) -> WebhookView:
        """Add a webhook, to be told of what happens from now on; ConflictError if there is one of that name."""
        with self._database.changing() as change:
            if change.session.get(WebhookRow, draft.name) is not None:
                raise ConflictError(f"there is a webhook {draft.name} already; nothing was changed")
            if len(change.session.exec(select(WebhookRow.name)).all()) >= MAX_WEBHOOKS:
                raise ConflictError(f"there are {MAX_WEBHOOKS} webhooks, and no more can be; nothing was changed")
            if draft.product is not None:
                product_row(change.session, draft.product)
            row = WebhookRow(
                name=draft.name,
                url=draft.url,
                product=draft.product,
                kinds=list(draft.kinds),
                allow_plain=draft.allow_plain,
                allow_private=draft.allow_private,
                created_at_ms=change.now_ms,
                created_by=by,
            )
            change.session.add(row)
            audit(change, by, "webhook.added", f"webhook/{draft.name}", after=draft)
            return _view(row, {})

    def webhooks(self) -> tuple[WebhookView, ...]:
        """Return all webhooks, by name."""
        with self._database.reading() as session:
            counts = _counts(session)
            rows = session.exec(select(WebhookRow).order_by(col(WebhookRow.name)))
            return tuple(_view(row, counts[row.name]) for row in rows)

    def webhook(self, name: str) -> WebhookView:
        """Return one webhook; NotFoundError."""
        with self._database.reading() as session:
            return _view(_row(session, name), _counts(session)[name])

    def set_enabled(self, name: str, *, enabled: bool, by: str) -> WebhookView:
        """Enable or disable a webhook. What happens while it is disabled it is never told; what waited goes on."""
        with self._database.changing() as change:
            row = _row(change.session, name)
            if row.enabled != enabled:
                row.enabled, row.failing_since_ms = enabled, None
                row.why_disabled = "" if enabled else f"disabled by {by}"
                change.session.add(row)
                if enabled:
                    again = update(DeliveryRow).where(
                        col(DeliveryRow.webhook) == name, col(DeliveryRow.due_at_ms).is_not(None)
                    )
                    change.session.execute(again.values(due_at_ms=change.now_ms))
                word = "enabled" if enabled else "disabled"
                audit(change, by, f"webhook.{word}", f"webhook/{name}")
            return _view(row, _counts(change.session)[name])

    def remove(self, name: str, *, by: str) -> None:
        """Remove a webhook, and what it was told and was to be told; NotFoundError."""
        with self._database.changing() as change:
            row = _row(change.session, name)
            change.session.execute(delete(DeliveryRow).where(col(DeliveryRow.webhook) == name))
            change.session.delete(row)
            audit(change, by, "webhook.removed", f"webhook/{name}", before={"url": row.url})

    def test(self, name: str, *, by: str) -> DeliveryView:
        """Have one webhook told of a `webhook.test`, whatever kinds it chose; ConflictError if it is disabled."""
        with self._database.changing() as change:
            row = _row(change.session, name)
            if not row.enabled:
                raise ConflictError(f"webhook {name} is disabled ({row.why_disabled}); enable it first")
            event = EventRow(
                at_ms=change.now_ms,
                kind="webhook.test",
                product=row.product or "",
                subject=f"webhook/{name}",
                data={"by": by},
            )
            change.session.add(event)
            deliver(change, event, [name])
            change.session.flush()
            audit(change, by, "webhook.tested", f"webhook/{name}")
            return _delivery(change.session.get_one(DeliveryRow, (name, event.number)), event)

    def delivery(self, name: str, event: int) -> DeliveryView:
        """Return one delivery; NotFoundError."""
        with self._database.reading() as session:
            row = session.get(DeliveryRow, (name, event))
            if row is None:
                raise NotFoundError(f"webhook {name!r:.80} was never to be told of event {event}")
            return _delivery(row, session.get_one(EventRow, event))

    def deliveries(self, name: str, *, limit: int = 20) -> tuple[DeliveryView, ...]:
        """Return a webhook's deliveries, newest event first; NotFoundError."""
        query = (
            select(DeliveryRow, EventRow)
            .join(EventRow, col(EventRow.number) == col(DeliveryRow.event))
            .where(col(DeliveryRow.webhook) == name)
            .order_by(col(DeliveryRow.event).desc())
            .limit(limit)
        )
        with self._database.reading() as session:
            _row(session, name)
            return tuple(_delivery(row, event) for row, event in session.exec(query))

    # For who delivers

    def due(self, *, skip: Collection[str], limit: int) -> tuple[tuple[WebhookView, tuple[Due, ...]], ...]:
        """Return what is to be delivered now, per enabled webhook that is not skipped, oldest events first."""
        found = []
        with self._database.reading() as session:
            now_ms = self._database.now_ms()
            for hook in session.exec(select(WebhookRow).where(col(WebhookRow.enabled).is_(True))).all():
                if hook.name in skip:
                    continue
                query = (
                    select(DeliveryRow, EventRow)
                    .join(EventRow, col(EventRow.number) == col(DeliveryRow.event))
                    .where(col(DeliveryRow.webhook) == hook.name, col(DeliveryRow.due_at_ms) <= now_ms)
                    .order_by(col(DeliveryRow.event))
                    .limit(limit)
                )
                if due := tuple(Due(event=event_view(it), tries=row.tries) for row, it in session.exec(query)):
                    found.append((_view(hook, {}), due))
        return tuple(found)

    def settle(self, name: str, tried: Iterable[Tried]) -> WebhookView | None:
        """Record what tries came to; return the webhook as it is then, or None if it was removed meanwhile."""
        with self._database.changing() as change:
            hook = change.session.get(WebhookRow, name)
            if hook is None:
                return None
            for one in tried:
                row = change.session.get(DeliveryRow, (name, one.event))
                if row is None or row.delivered_at_ms is not None:
                    continue
                row.tries, row.answer = row.tries + 1, one.answer
                row.due_at_ms = None if one.taken else one.due_at_ms
                row.delivered_at_ms = change.now_ms if one.taken else None
                hook.failing_since_ms = None if one.taken else hook.failing_since_ms or change.now_ms
                change.session.add(row)
            change.session.add(hook)
            return _view(hook, {})

    def give_way(self, name: str, why: str) -> None:
        """Disable a webhook that takes nothing any more, by the server's own decision."""
        with self._database.changing() as change:
            hook = change.session.get(WebhookRow, name)
            if hook is not None and hook.enabled:
                hook.enabled, hook.why_disabled = False, why
                change.session.add(hook)
                audit(change, "server", "webhook.disabled", f"webhook/{name}", after={"why": why})

    def give_up(self, *, older_than_ms: int) -> None:
        """Give up what waits of events that are older: of webhooks that are disabled nobody else does."""
        with self._database.changing() as change:
            before_ms = change.now_ms - older_than_ms
            of_old = select(EventRow.number).where(
                col(EventRow.number) == col(DeliveryRow.event), col(EventRow.at_ms) < before_ms
            )
            waiting = update(DeliveryRow).where(col(DeliveryRow.due_at_ms).is_not(None), of_old.exists())
            change.session.execute(waiting.values(due_at_ms=None, answer=TOO_OLD))


def _row(session: Session, name: str) -> WebhookRow:
    row = session.get(WebhookRow, name)
    if row is None:
        known = ", ".join(session.exec(select(WebhookRow.name).order_by(col(WebhookRow.name)).limit(10)))
        raise NotFoundError(f"there is no webhook {name!r:.80} ({f'there are {known}' if known else 'nor any other'})")
    return row


def _counts(session: Session) -> Mapping[str, Mapping[DeliveryState, int]]:
    waits, taken = col(DeliveryRow.due_at_ms).is_not(None), col(DeliveryRow.delivered_at_ms).is_not(None)
    query = select_columns(col(DeliveryRow.webhook), waits, taken, func.count()).group_by(
        col(DeliveryRow.webhook), waits, taken
    )
    found: dict[str, dict[DeliveryState, int]] = defaultdict(dict)
    for name, is_waiting, is_taken, count in session.execute(query):
        found[name][_state(waiting=is_waiting, taken=is_taken)] = count
    return found


def _state(*, waiting: bool, taken: bool) -> DeliveryState:
    if taken:
        return DeliveryState.DELIVERED
    return DeliveryState.PENDING if waiting else DeliveryState.GIVEN_UP


def _view(row: WebhookRow, counts: Mapping[DeliveryState, int]) -> WebhookView:
    return WebhookView(
        name=row.name,
        url=row.url,
        product=row.product,
        kinds=tuple(row.kinds),
        allow_plain=row.allow_plain,
        allow_private=row.allow_private,
        enabled=row.enabled,
        why_disabled=row.why_disabled,
        failing_since_ms=row.failing_since_ms,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        pending=counts.get(DeliveryState.PENDING, 0),
        delivered=counts.get(DeliveryState.DELIVERED, 0),
        given_up=counts.get(DeliveryState.GIVEN_UP, 0),
    )


def _delivery(row: DeliveryRow, event: EventRow) -> DeliveryView:
    return DeliveryView(
        webhook=row.webhook,
        event=event_view(event),
        state=_state(waiting=row.due_at_ms is not None, taken=row.delivered_at_ms is not None),
        tries=row.tries,
        due_at_ms=row.due_at_ms,
        delivered_at_ms=row.delivered_at_ms,
        answer=row.answer,
    )
