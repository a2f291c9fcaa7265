"""A product's groups: their order, their members, and what follows when either changes; inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud.models import DeviceRow, GroupRow, MembershipRow
from cloud.store.engine import Change
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.lookup import batches, device_row, group_row
from cloud.store.otas import close_overtaken, tell
from cloud.store.situations import ids_of
from cloud.values import GroupView
from protocol.identity import EVERYONE
from protocol.values import MAX_GROUPS


def add_to_groups(change: Change, product: str, device_id: str, groups: Sequence[str]) -> None:
    """Put one new device into its groups, within somebody else's transaction."""
    for group in dict.fromkeys(groups):
        row = group_row(change.session, product, group)
        if row.query is not None:
            raise ConflictError(
                f"the devices of group {group} of {product} follow from what they are ({row.query}): none is put in by "
                "hand; nothing was changed"
            )
        if group != EVERYONE:
            add_member(change, product, group, device_id)


def add_member(change: Change, product: str, group: str, device_id: str) -> bool:
    """Put a device into a group and tell whether it is new there; raises NotFoundError and ConflictError."""
    device = device_row(change.session, device_id)
    if device.product != product:
        raise ConflictError(
            f"device {device_id} is of product {device.product}, and group {group} of {product}; nothing was changed"
        )
    mine = change.session.exec(select(MembershipRow.group_name).where(col(MembershipRow.device_id) == device_id)).all()
    if group in mine:
        return False
    if len(mine) >= MAX_GROUPS - 1:
        raise ConflictError(f"device {device_id} is in {len(mine)} groups, the most there can be; nothing was changed")
    change.session.add(MembershipRow(device_id=device_id, group_name=group, product=product))
    change.session.flush()
    return True


def ranked(session: Session, product: str) -> list[GroupRow]:
    """Return a product's groups by rank, `everyone` apart."""
    query = select(GroupRow).where(col(GroupRow.product) == product, col(GroupRow.name) != EVERYONE)
    return list(session.exec(query.order_by(col(GroupRow.rank))))


def insert_at(change: Change, order: list[GroupRow], row: GroupRow, rank: int) -> None:
    """Put a group at a rank, moving those from there on back; raises InvalidError."""
    if not 1 <= rank <= len(order) + 1:
        raise InvalidError(f"a rank is a number from 1 to {len(order) + 1} here, not {rank}; nothing was changed")
    order.insert(rank - 1, row)
    number(change, order)


def number(change: Change, order: Sequence[GroupRow]) -> None:
    """Store the order of groups as their ranks."""
    for rank, row in enumerate(order, start=1):
        row.rank = rank
        change.session.add(row)
    change.session.flush()


def members_of(session: Session, product: str, group: str) -> list[str]:
    """Return the ids of a group's devices."""
    return sorted(session.exec(ids_of(product, group=group)))


def regrouped(change: Change, product: str, device_ids: Sequence[str]) -> None:
    """Follow up on devices whose groups or their ranks changed."""
    for some in batches(device_ids):
        close_overtaken(change, product, device_ids=some)
    tell(change, device_ids)


def group_view(session: Session, row: GroupRow) -> GroupView:
    """Return a group as others see it."""
    of, members = (col(DeviceRow.product), ()) if row.name == EVERYONE else (col(MembershipRow.product), (row.name,))
    devices = select(func.count()).where(of == row.product, *(col(MembershipRow.group_name) == it for it in members))
    return GroupView(
        product=row.product,
        group=row.name,
        rank=row.rank if row.name != EVERYONE else len(ranked(session, row.product)) + 1,
        devices=session.exec(devices).one(),
        created_at_ms=row.created_at_ms,
        query=row.query,
    )
