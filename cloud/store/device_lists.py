"""Which devices a list shows: a filter as one query, over columns and indexes that are short, however large a fleet is.

The states that devices send are not read: what lists are filtered by is kept beside them. Sets (of a group, of a
version, of an attribute) come from indexes that hold the devices' ids, from the last page's end on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from sqlalchemy import ColumnElement, Select, func
from sqlalchemy import select as select_columns
from sqlalchemy.orm import Mapped, aliased
from sqlmodel import Session, col

from cloud.attention import BLOCKING, EXPIRES_SOON_MS, HELD_LONG_MS, HOLDING, Trouble
from cloud.device_models import DecidedDeviceRow, DeviceAttributeRow, DevicePendingRow
from cloud.fleet import ANY_REASON, NO_REASON, CertificateStanding, DeviceFilter
from cloud.models import AttemptRow, CertificateRow, ComponentRow, DeviceRow, MembershipRow, PinRow
from cloud.rollout_models import TurnRequestRow
from cloud.store.quiet import went_quiet
from cloud.store.situations import NO_SUCCESS
from protocol.identity import EVERYONE
from protocol.phases import Outcome

Ids = Select[str]


def ids_where(which: DeviceFilter, now_ms: int) -> Ids:
    """Return the query for the ids of the devices that a filter lets through, `limit` and order apart."""
    query = select_columns(col(DeviceRow.id)).where(*_conditions(which, now_ms))
    for among in (*_sets(which), *_in_trouble(which, now_ms), *_certified(which, now_ms)):
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
    if which.among is not None:
        yield col(DeviceRow.id).in_(which.among)
    yield from _how_it_stands(which, now_ms)


def _how_it_stands(which: DeviceFilter, now_ms: int) -> Iterator[ColumnElement[bool]]:
    """Yield what is asked of how it stands, and of what was decided for it."""
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
    if which.refused is not None:
        yield col(DeviceRow.has_refused).is_(which.refused)
    if which.trouble is not None:
        yield col(DeviceRow.revoked_at_ms).is_(None)
    if which.certificate is CertificateStanding.NONE:
        yield col(DeviceRow.id).not_in(select_columns(col(CertificateRow.device_id)).where(_PRESENT))


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

    if which.waits is not None:
        yield _from(which, col(DevicePendingRow.device_id), col(DevicePendingRow.why) == which.waits.value)


def _in_trouble(which: DeviceFilter, now_ms: int) -> Iterator[Ids]:
    """Yield the set of those that need somebody, as `cloud.store.attention` counts them; revoked ones do not."""
    pending, attempt = DevicePendingRow, AttemptRow
    match which.trouble:
        case Trouble.TAKEN_BACK:
            yield _from(which, col(attempt.device_id), col(attempt.taken_back_at_ms).is_not(None), newest())
        case Trouble.FAILED | Trouble.ROLLED_BACK:
            outcome = Outcome.FAILED if which.trouble is Trouble.FAILED else Outcome.ROLLED_BACK
            yield _from(which, col(attempt.device_id), col(attempt.outcome) == outcome.value, newest())
        case Trouble.CERTIFICATE:
            certificate = CertificateRow
            ends = (col(certificate.not_after_ms) < now_ms + EXPIRES_SOON_MS, col(certificate.revoked_at_ms).is_(None))
            yield _from(which, col(certificate.device_id), _PRESENT, *ends)
        case Trouble.BLOCKED:
            yield _from(which, col(pending.device_id), col(pending.why).in_(sorted(BLOCKING)))
        case Trouble.HELD:
            long = (col(pending.why).in_(sorted(HOLDING)), col(pending.decided_at_ms) <= now_ms - HELD_LONG_MS)
            yield _from(which, col(pending.device_id), *long)
        case Trouble.TURN:
            yield _from(which, col(TurnRequestRow.device_id))


_PRESENT: Final = col(CertificateRow.superseded_at_ms).is_(None)


def _certified(which: DeviceFilter, now_ms: int) -> Iterator[Ids]:
    """Yield the set of those whose newest certificate stands as is asked."""
    end, revoked = col(CertificateRow.not_after_ms), col(CertificateRow.revoked_at_ms)
    soon_ms = now_ms + EXPIRES_SOON_MS
    conditions = {
        CertificateStanding.REVOKED: (revoked.is_not(None),),
        CertificateStanding.GOOD: (revoked.is_(None), end >= soon_ms),
        CertificateStanding.EXPIRES_SOON: (revoked.is_(None), end < soon_ms, end > now_ms),
        CertificateStanding.EXPIRED: (revoked.is_(None), end <= now_ms),
    }
    if which.certificate in conditions:
        yield _from(which, col(CertificateRow.device_id), _PRESENT, *conditions[which.certificate])


def _failed(which: DeviceFilter, reason: str) -> Ids:
    ended = _from(which, col(AttemptRow.device_id), col(AttemptRow.outcome).in_(NO_SUCCESS))
    if reason == NO_REASON:
        ended = ended.where(col(AttemptRow.reason).is_(None))
    elif reason != ANY_REASON:
        ended = ended.where(col(AttemptRow.reason) == reason)
    return ended.where(newest())


def newest() -> ColumnElement[bool]:
    """Return the condition for an attempt to be the newest of its device at its component."""
    newer = aliased(AttemptRow)
    same = (col(newer.device_id) == col(AttemptRow.device_id), col(newer.component) == col(AttemptRow.component))
    return col(AttemptRow.id) == select_columns(func.max(newer.id)).where(*same).scalar_subquery()


def _from(which: DeviceFilter, device_id: Mapped[str], *conditions: ColumnElement[bool]) -> Ids:
    query = select_columns(device_id).where(*conditions)
    return query if which.after is None else query.where(device_id > which.after)
