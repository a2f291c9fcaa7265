"""Members of dynamic groups: derived from what devices are, in the transaction that changes it.

A group's query is asked of one device when that device's facts change, and of the product's whole fleet when the group
is made or its query changes. What came out is kept as memberships, so whoever reads groups need not know of queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, insert
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.groups_query import Candidate, Query
from cloud.models import ComponentRow, DeviceRow, FirmwareRow, GroupRow, MembershipRow
from cloud.store.engine import Change
from cloud.store.errors import ConflictError
from cloud.store.groups import members_of, regrouped
from cloud.store.lookup import batches
from cloud.store.query_conditions import condition
from cloud.store.situations import DeviceIds, ids_of
from protocol.identity import Installed
from protocol.values import MAX_GROUPS

MAX_MEMBERSHIPS = MAX_GROUPS - 1
"""Of one device, `everyone` apart: what a message can name."""
MAX_DYNAMIC = 200
"""Dynamic groups of one product: each is asked whenever a device says hello."""


def follow_facts(change: Change, row: DeviceRow) -> bool:
    """Bring one device's dynamic groups up to date with its facts, have it told, and tell whether they changed.

    One that would be in more groups than a message can name is left out of those that rank last.
    """
    dynamic = _dynamic(change.session, row.product)
    if not dynamic:
        return False
    change.session.flush()
    device = candidates(change.session, row.product, ids_of(row.product, device_ids=[row.id]))[row.id]
    held = change.session.exec(select(MembershipRow.group_name).where(col(MembershipRow.device_id) == row.id)).all()
    before = {group.name for group in dynamic if group.name in held}
    room = MAX_MEMBERSHIPS - (len(held) - len(before))
    matches = [group.name for group in dynamic if Query.parse(group.query or "").matches(device)]
    after = set(matches[: max(room, 0)])
    _leave(change, [row.id], sorted(before - after))
    _join(change, row.product, [(row.id, name) for name in sorted(after - before)])
    if before != after:
        regrouped(change, row.product, [row.id])
    return before != after


def fill(change: Change, group: GroupRow) -> tuple[list[str], list[str]]:
    """Bring a dynamic group's members up to date with its query; return who came and who went, having them told.

    A device that is in as many groups as a message can name does not come.
    """
    query = Query.parse(group.query or "")
    devices = candidates(change.session, group.product, ids_of(group.product), with_components=bool(query.components))
    before = set(members_of(change.session, group.product, group.name))
    after = set(matching(query, devices)) - (_full(change.session, group.product) - before)
    came, went = sorted(after - before), sorted(before - after)
    _leave(change, went, [group.name])
    _join(change, group.product, [(device_id, group.name) for device_id in came])
    regrouped(change, group.product, sorted({*came, *went}))
    return came, went


def matching(query: Query, devices: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Return the ids of the devices of which a query is true."""
    return tuple(sorted(device_id for device_id, device in devices.items() if query.matches(device)))


def found_by(session: Session, product: str, query: Query, limit: int | None) -> tuple[tuple[str, ...], int]:
    """Return the ids of the devices of which a query is true, the first `limit` of them, and how many there are."""
    true_of = condition(session, product, query.expression)
    if true_of is None:
        devices = candidates(session, product, ids_of(product), with_components=bool(query.components))
        found = matching(query, devices)
        return found[:limit], len(found)
    ids = select_columns(col(DeviceRow.id)).where(col(DeviceRow.product) == product, true_of)
    some = tuple(sorted(session.execute(ids.order_by(col(DeviceRow.id)).limit(limit)).scalars()))
    if limit is None or len(some) < limit:
        return some, len(some)
    return some, session.execute(select_columns(func.count()).select_from(ids.subquery())).scalar_one()


def nobody_has(session: Session, product: str, query: Query) -> tuple[str, ...]:
    """Return the components that a query looks at and that neither a device nor a firmware of the product has."""
    unknown = []
    for name in sorted(query.components):
        installed = (
            select(ComponentRow.device_id)
            .join(DeviceRow, col(DeviceRow.id) == col(ComponentRow.device_id))
            .where(col(ComponentRow.component) == name, col(DeviceRow.product) == product)
        )
        made = select(FirmwareRow.id).where(col(FirmwareRow.product) == product, col(FirmwareRow.component) == name)
        if session.exec(installed.limit(1)).first() is None and session.exec(made.limit(1)).first() is None:
            unknown.append(name)
    return tuple(unknown)


def candidates(session: Session, product: str, ids: DeviceIds, *, with_components: bool = True) -> dict[str, Candidate]:
    """Return a product's devices as queries see them; without components for a query that looks at none."""
    components: dict[str, dict[str, Installed]] = defaultdict(dict)
    installed = select_columns(
        col(ComponentRow.device_id), col(ComponentRow.component), col(ComponentRow.version), col(ComponentRow.build)
    ).where(col(ComponentRow.device_id).in_(ids))
    for device_id, component, version, build in session.execute(installed) if with_components else ():
        components[device_id][component] = Installed(version=version, build=build)
    devices = select_columns(
        col(DeviceRow.id),
        col(DeviceRow.hardware_model),
        col(DeviceRow.agent_version),
        col(DeviceRow.timezone),
        col(DeviceRow.attributes),
    ).where(col(DeviceRow.product) == product, col(DeviceRow.id).in_(ids))
    return {
        device_id: Candidate(
            device_id=device_id,
            hardware_model=model,
            agent_version=agent_version,
            timezone=timezone,
            attributes=attributes,
            components=components.get(device_id, {}),
        )
        for device_id, model, agent_version, timezone, attributes in session.execute(devices)
    }


def check_few_dynamic(session: Session, product: str) -> None:
    """Raise ConflictError if the product has more dynamic groups than there may be."""
    if len(_dynamic(session, product)) > MAX_DYNAMIC:
        raise ConflictError(
            f"product {product} has {MAX_DYNAMIC} groups with a query, the most there can be; nothing was changed"
        )


def _dynamic(session: Session, product: str) -> list[GroupRow]:
    query = select(GroupRow).where(col(GroupRow.product) == product, col(GroupRow.query).is_not(None))
    return list(session.exec(query.order_by(col(GroupRow.rank))))


def _full(session: Session, product: str) -> set[str]:
    query = select(MembershipRow.device_id).where(col(MembershipRow.product) == product)
    query = query.group_by(col(MembershipRow.device_id)).having(func.count() >= MAX_MEMBERSHIPS)
    return set(session.exec(query))


def _join(change: Change, product: str, pairs: Sequence[tuple[str, str]]) -> None:
    for some in batches(pairs):
        rows = [{"device_id": device_id, "group_name": name, "product": product} for device_id, name in some]
        change.session.execute(insert(MembershipRow), rows)


def _leave(change: Change, device_ids: Sequence[str], groups: Sequence[str]) -> None:
    for some in batches(device_ids) if groups else ():
        gone = delete(MembershipRow).where(
            col(MembershipRow.device_id).in_(some), col(MembershipRow.group_name).in_(groups)
        )
        change.session.execute(gone)
