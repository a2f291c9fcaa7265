"""Which devices need somebody, counted by the database: one query for each trouble, however large the fleet is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from cloud.attention import (
    BLOCKING,
    EXPIRES_SOON_MS,
    HELD_LONG_MS,
    HOLDING,
    MAX_NAMED,
    DeviceInNeed,
    Need,
    Trouble,
)
from cloud.device_models import DevicePendingRow
from cloud.models import AttemptRow, CertificateRow, DeviceRow
from cloud.progress import CONTRADICTED
from cloud.rollout_models import TurnRequestRow
from cloud.store.device_lists import newest
from cloud.store.engine import Database
from cloud.store.lookup import batches
from cloud.store.quiet import went_quiet
from cloud.store.situations import NO_SUCCESS
from protocol.phases import Outcome, Reason

_TROUBLES: Final = {Outcome.FAILED.value: Trouble.FAILED, Outcome.ROLLED_BACK.value: Trouble.ROLLED_BACK}
_NOT_REVOKED: Final = col(DeviceRow.revoked_at_ms).is_(None)
_WHO: Final[Sequence[ColumnElement[Any]]] = (
    col(DeviceRow.product).label("product"),
    col(DeviceRow.id).label("device_id"),
)


class Attention:
    """Which devices need somebody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def needs(self, *, quiet_after_ms: int) -> tuple[Need, ...]:
        """Return what devices have, by trouble and product; what is known of them outside of the store is not in it."""
        now_ms = self._database.now_ms()
        with self._database.reading() as session:
            found = [
                *_taken_back(session),
                *_unsuccessful(session),
                *_expiring(session, now_ms),
                *_pending(session, now_ms),
                *_quiet(session, now_ms - quiet_after_ms),
                *_turns(session),
            ]
        order = list(Trouble)
        return tuple(sorted(found, key=lambda it: (order.index(it.trouble), it.product)))

    def failures(self) -> Mapping[str, Mapping[str, int]]:
        """Return per product how many devices' newest attempts at some component did not succeed, by reason."""
        device, reason = col(DeviceRow.product), func.coalesce(col(AttemptRow.reason), "")
        query = (
            select_columns(device, reason, func.count(func.distinct(col(AttemptRow.device_id))))
            .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
            .where(*_not_succeeded(), _NOT_REVOKED)
            .group_by(device, reason)
        )
        found: dict[str, dict[str, int]] = defaultdict(dict)
        with self._database.reading() as session:
            for product, why, count in session.execute(query):
                found[product][why] = count
        return found

    def failed(self) -> Mapping[str, int]:
        """Return per product how many devices those are: one may be there for two reasons."""
        product = col(DeviceRow.product)
        query = (
            select_columns(product, func.count(func.distinct(col(AttemptRow.device_id))))
            .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
            .where(*_not_succeeded(), _NOT_REVOKED)
            .group_by(product)
        )
        with self._database.reading() as session:
            return {name: count for name, count in session.execute(query)}  # noqa: C416 - rows are no pairs to mypy

    def products_of(self, device_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the products of those of the devices that are known."""
        found: dict[str, str] = {}
        with self._database.reading() as session:
            for some in batches(device_ids):
                query = select_columns(col(DeviceRow.id), col(DeviceRow.product)).where(col(DeviceRow.id).in_(some))
                found |= {it.id: it.product for it in session.execute(query)}
        return found


def _not_succeeded() -> tuple[ColumnElement[bool], ...]:
    return col(AttemptRow.outcome).in_(NO_SUCCESS), newest()


def _taken_back(session: Session) -> list[Need]:
    at = col(AttemptRow.taken_back_at_ms)
    of_device = (
        select_columns(func.max(AttemptRow.id).label("id"))
        .where(at.is_not(None), newest())
        .group_by(col(AttemptRow.device_id))
        .subquery()
    )
    query = (
        select_columns(*_WHO, at.label("at_ms"), col(AttemptRow.component), col(AttemptRow.version))
        .join(of_device, of_device.c.id == col(AttemptRow.id))
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(_NOT_REVOKED)
    )
    rows = _named(session, query, newest_first=True)
    return _needs(Trouble.TAKEN_BACK, rows, lambda it: f"{it.component} {it.version}: {CONTRADICTED}")


def _unsuccessful(session: Session) -> list[Need]:
    of_device = (
        select_columns(func.max(AttemptRow.id).label("id"))
        .where(*_not_succeeded())
        .group_by(col(AttemptRow.device_id), col(AttemptRow.outcome))
        .subquery()
    )
    at = func.coalesce(col(AttemptRow.settled_at_ms), col(AttemptRow.ended_at_ms), col(AttemptRow.started_at_ms))
    it = AttemptRow
    query = (
        select_columns(
            *(*_WHO, at.label("at_ms"), col(it.outcome), col(it.component), col(it.version), col(it.reason)),
            col(it.detail),
        )
        .join(of_device, of_device.c.id == col(AttemptRow.id))
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(_NOT_REVOKED)
    )
    found = []
    for outcome, trouble in _TROUBLES.items():
        rows = _named(session, query.where(col(AttemptRow.outcome) == outcome), newest_first=True)
        found += _needs(trouble, rows, _why)
    return found


def _why(row: Any) -> str:
    reason = Reason(row.reason).value.replace("_", " ") if row.reason else "no reason was told"
    detail = f" ({row.detail})" if row.detail else ""
    return f"{row.component} {row.version}: {reason}{detail}"


def _expiring(session: Session, now_ms: int) -> list[Need]:
    end = col(CertificateRow.not_after_ms)
    query = (
        select_columns(*_WHO, end.label("at_ms"))
        .join(DeviceRow, col(DeviceRow.id) == col(CertificateRow.device_id))
        .where(
            end < now_ms + EXPIRES_SOON_MS,
            col(CertificateRow.superseded_at_ms).is_(None),
            col(CertificateRow.revoked_at_ms).is_(None),
            _NOT_REVOKED,
        )
    )
    rows = _named(session, query, newest_first=False)
    return _needs(
        Trouble.CERTIFICATE, rows, lambda it: "has expired" if it.at_ms <= now_ms else "expires, and is not renewed"
    )


def _quiet(session: Session, before_ms: int) -> list[Need]:
    query = select_columns(*_WHO, col(DeviceRow.last_seen_at_ms).label("at_ms")).where(*went_quiet(before_ms))
    return _needs(Trouble.QUIET, _named(session, query, newest_first=True), lambda _: "away")


def _turns(session: Session) -> list[Need]:
    number = col(TurnRequestRow.number)
    query = (
        select_columns(*_WHO, number.label("at_ms"))
        .join(DeviceRow, col(DeviceRow.id) == col(TurnRequestRow.device_id))
        .where(_NOT_REVOKED)
    )
    found = _needs(Trouble.TURN, _named(session, query, newest_first=False), lambda _: "another member is first")
    return [_without_times(need) for need in found]


def _without_times(need: Need) -> Need:
    """Return a need whose devices stand in the order of a number that is no time."""
    devices = tuple(
        DeviceInNeed(device_id=it.device_id, product=it.product, at_ms=None, detail=it.detail) for it in need.devices
    )
    return Need(trouble=need.trouble, product=need.product, count=need.count, devices=devices)


def _pending(session: Session, now_ms: int) -> list[Need]:
    """Return who is blocked, and who is held back for long: for each device the first thing of either kind."""
    of = DevicePendingRow
    long = col(of.decided_at_ms) <= now_ms - HELD_LONG_MS
    found = []
    for trouble, kinds, more in ((Trouble.BLOCKED, BLOCKING, ()), (Trouble.HELD, HOLDING, (long,))):
        first = (
            select_columns(col(of.device_id), func.min(of.place).label("place"))
            .where(col(of.why).in_(sorted(kinds)), *more)
            .group_by(col(of.device_id))
            .subquery()
        )
        query = (
            select_columns(
                *(*_WHO, col(of.decided_at_ms).label("at_ms"), col(of.component), col(of.version), col(of.why)),
                col(of.detail),
            )
            .join(first, (first.c.device_id == col(of.device_id)) & (first.c.place == col(of.place)))
            .join(DeviceRow, col(DeviceRow.id) == col(of.device_id))
            .where(_NOT_REVOKED)
        )
        found += _needs(trouble, _named(session, query, newest_first=False), _why_waiting)
    return found


def _why_waiting(row: Any) -> str:
    return f"{row.component} {row.version}: {row.detail or row.why.replace('_', ' ')}"


# Counting all, naming some


def _named(session: Session, query: Select[Any], *, newest_first: bool) -> list[Any]:
    """Return the first rows of each product by `at_ms`, each with `total`, how many the product has in all."""
    all_ = query.subquery()
    at = all_.c.at_ms.desc() if newest_first else all_.c.at_ms
    place = func.row_number().over(partition_by=all_.c.product, order_by=(at, all_.c.device_id))
    total = func.count().over(partition_by=all_.c.product)
    ranked = select_columns(all_, place.label("place"), total.label("total")).subquery()
    return list(session.execute(select_columns(ranked).where(ranked.c.place <= MAX_NAMED).order_by(ranked.c.place)))


def _needs(trouble: Trouble, rows: Iterable[Any], detail: Any) -> list[Need]:
    by_product: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_product[row.product].append(row)
    return [
        Need(
            trouble=trouble,
            product=product,
            count=some[0].total,
            devices=tuple(
                DeviceInNeed(device_id=it.device_id, product=product, at_ms=it.at_ms, detail=detail(it)) for it in some
            ),
        )
        for product, some in by_product.items()
    ]
