"""Which devices a list shows: a filter as one query, over columns and indexes that are short, however large a fleet is.

The states that devices send are not read: what lists are filtered by is kept beside them. Sets (of a group, of a
version, of an attribute) come from indexes that hold the devices' ids, from the last page's end on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import ColumnElement, Select, func
from sqlalchemy import select as select_columns
from sqlalchemy.orm import Mapped, aliased
from sqlmodel import Session, col

from cloud.device_models import DecidedDeviceRow, DeviceAttributeRow
from cloud.fleet import ANY_REASON, DeviceFilter
from cloud.models import AttemptRow, ComponentRow, DeviceRow, MembershipRow, PinRow
from cloud.store.quiet import went_quiet
from cloud.store.situations import NO_SUCCESS
from protocol.identity import EVERYONE

Ids = Select[str]


def ids_where(which: DeviceFilter, now_ms: int) -> Ids:
    """Return the query for the ids of the devices that a filter lets through, `limit` and order apart."""
    query = select_columns(col(DeviceRow.id)).where(*_conditions(which, now_ms))
    for among in _sets(which):
        query = query.where(col(DeviceRow.id).in_(among))
    return query if which.after is None else query.where(col(DeviceRow.id) > which.after)


def page(session: Session, which: DeviceFilter, now_ms: int) -> list[str]:
    """Return the ids of a page."""
    query = ids_where(which, now_ms).order_by(col(DeviceRow.id)).limit(which.limit)
    return list(session.execute(query).scalars())


def count(session: Session, which: DeviceFilter, now_ms: int) -> int:
    """Return how many devices there are on all pages."""
    conditions = ids_where(replace(which, after=None), now_ms).whereclause
    query = select_columns(func.count()).select_from(DeviceRow)
    found: int = session.execute(query if conditions is None else query.where(conditions)).scalar_one()
    return found


def _conditions(which: DeviceFilter, now_ms: int) -> Iterator[ColumnElement[bool]]:
    """Yield what is asked of a device's own row."""
    if which.product is not None:
        yield col(DeviceRow.product) == which.product
    if which.products is not None:
        yield col(DeviceRow.product).in_(sorted(which.products))
    if which.online is not None:
        yield col(DeviceRow.online).is_(which.online)
    if which.pending is not None:
        yield col(DeviceRow.has_pending).is_(which.pending)
    if which.text is not None:
        yield col(DeviceRow.id).contains(which.text.lower(), autoescape=True)
    if which.hardware_model is not None:
        yield col(DeviceRow.hardware_model) == which.hardware_model
    if which.held is not None:
        held = func.coalesce(col(DeviceRow.held_until_ms), 0)
        yield held > now_ms if which.held else held <= now_ms
    if which.quiet_for_s is not None:
        yield from went_quiet(now_ms - which.quiet_for_s * 1000)
    if which.revoked is not None:
        revoked = col(DeviceRow.revoked_at_ms)
        yield revoked.is_not(None) if which.revoked else revoked.is_(None)
    if which.locked is not None:
        pinned = col(DeviceRow.id).in_(select_columns(col(PinRow.device_id)))
        yield pinned if which.locked else ~pinned


def _sets(which: DeviceFilter) -> Iterator[Ids]:
    """Yield the sets that a device has to be in."""
    if which.group is not None and which.group != EVERYONE:
        yield _from(which, col(MembershipRow.device_id), col(MembershipRow.group_name) == which.group)
    asked = []
    if which.component is not None:
        asked.append(col(ComponentRow.component) == which.component)
    if which.version is not None:
        asked.append(col(ComponentRow.version) == which.version)
    if asked:
        yield _from(which, col(ComponentRow.device_id), *asked)
    for name, value in which.attributes:
        it = DeviceAttributeRow
        yield _from(which, col(it.device_id), col(it.name) == name, col(it.value) == value)
    if which.failed is not None:
        yield _failed(which, which.failed)
    if which.decision is not None:
        decided = DecidedDeviceRow
        yield _from(which, col(decided.device_id), col(decided.number) == which.decision)


def _failed(which: DeviceFilter, reason: str) -> Ids:
    newer = aliased(AttemptRow)
    newest = (
        select_columns(func.max(newer.id))
        .where(col(newer.device_id) == col(AttemptRow.device_id), col(newer.component) == col(AttemptRow.component))
        .scalar_subquery()
    )
    ended = _from(which, col(AttemptRow.device_id), col(AttemptRow.outcome).in_(NO_SUCCESS))
    if reason != ANY_REASON:
        ended = ended.where(col(AttemptRow.reason) == reason)
    return ended.where(col(AttemptRow.id) == newest)


def _from(which: DeviceFilter, device_id: Mapped[str], *conditions: ColumnElement[bool]) -> Ids:
    query = select_columns(device_id).where(*conditions)
    return query if which.after is None else query.where(device_id > which.after)
