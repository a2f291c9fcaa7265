"""Which devices need somebody, counted by the database: one query for each trouble, however large the fleet is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Text, cast, func
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
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
from cloud.models import AttemptRow, CertificateRow, DeviceRow, OtaRow, ReleaseRow
from cloud.progress import CONTRADICTED
from cloud.rollout_models import TurnRequestRow
from cloud.store.engine import Database
from cloud.store.lookup import batches
from cloud.store.quiet import went_quiet
from cloud.store.situations import NO_SUCCESS
from protocol.phases import Outcome, Reason, Wait

MAX_TEXTS: Final = 200
"""Different things that devices say of what waits, by which some of them are found."""
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

    def products_of(self, device_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the products of those of the devices that are known."""
        found: dict[str, str] = {}
        with self._database.reading() as session:
            for some in batches(device_ids):
                query = select_columns(col(DeviceRow.id), col(DeviceRow.product)).where(col(DeviceRow.id).in_(some))
                found |= {it.id: it.product for it in session.execute(query)}
        return found


def _newest() -> ColumnElement[bool]:
    """Return the condition for an attempt to be the newest of its device at its component."""
    newer = aliased(AttemptRow)
    same = (col(newer.device_id) == col(AttemptRow.device_id), col(newer.component) == col(AttemptRow.component))
    return col(AttemptRow.id) == select_columns(func.max(newer.id)).where(*same).scalar_subquery()


def _not_succeeded() -> tuple[ColumnElement[bool], ...]:
    return col(AttemptRow.outcome).in_(NO_SUCCESS), _newest()


def _taken_back(session: Session) -> list[Need]:
    at = col(AttemptRow.taken_back_at_ms)
    query = (
        select_columns(*_WHO, at.label("at_ms"), col(AttemptRow.component), col(AttemptRow.version))
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(at.is_not(None), _newest(), _NOT_REVOKED)
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


# What waits on devices: they say it in words, of which there are few


@dataclass(frozen=True, slots=True)
class _Said:
    """What many devices say in the same words of something that waits: a trouble, since when, and in short."""

    trouble: Trouble
    at_ms: int | None
    detail: str


def _pending(session: Session, now_ms: int) -> list[Need]:
    text = cast(col(DeviceRow.state)["pending"], Text)
    waits = (col(DeviceRow.has_pending).is_(True), _NOT_REVOKED)
    query = (
        select_columns(col(DeviceRow.product), text, func.count()).where(*waits).group_by(col(DeviceRow.product), text)
    )
    groups = [(product, said, count) for product, said, count in session.execute(query) if said]
    parsed = {said: json.loads(said) for _, said, _ in groups}
    decided = _decided_at(session, {it["source_id"] for items in parsed.values() for it in items})
    meant = {said: list(_troubles(items, decided, now_ms)) for said, items in parsed.items()}
    counts: dict[tuple[Trouble, str], int] = defaultdict(int)
    texts: dict[tuple[Trouble, str], dict[str, _Said]] = defaultdict(dict)
    for product, said, count in sorted(groups, key=lambda it: -it[2]):
        for trouble in {it.trouble for it in meant[said]}:
            counts[trouble, product] += count
            if len(texts[trouble, product]) < MAX_TEXTS:
                texts[trouble, product][said] = next(it for it in meant[said] if it.trouble is trouble)
    found = []
    for (trouble, product), some in texts.items():
        named = (
            select_columns(col(DeviceRow.id), text)
            .where(*waits, col(DeviceRow.product) == product, text.in_(list(some)))
            .order_by(col(DeviceRow.id))
            .limit(MAX_NAMED)
        )
        devices = tuple(
            DeviceInNeed(device_id=device_id, product=product, at_ms=some[said].at_ms, detail=some[said].detail)
            for device_id, said in session.execute(named)
        )
        found.append(Need(trouble=trouble, product=product, count=counts[trouble, product], devices=devices))
    return found


def _troubles(items: Iterable[Mapping[str, Any]], decided: Mapping[str, int], now_ms: int) -> Iterable[_Said]:
    for it in items:
        why, at_ms = Wait(it["why"]), decided.get(it["source_id"])
        words = it.get("detail") or why.value.replace("_", " ")
        detail = f"{it['component']} {it['version']}: {words}"
        if why in BLOCKING:
            yield _Said(Trouble.BLOCKED, at_ms, detail)
        elif why in HOLDING and at_ms is not None and at_ms <= now_ms - HELD_LONG_MS:
            yield _Said(Trouble.HELD, at_ms, detail)


def _decided_at(session: Session, sources: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in batches(sorted(sources)):
        for row in (ReleaseRow, OtaRow):
            query = select_columns(col(row.id), col(row.created_at_ms)).where(col(row.id).in_(some))
            found |= {it.id: it.created_at_ms for it in session.execute(query)}
    return found


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
