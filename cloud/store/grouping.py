"""Groups: ranked, filled by hand or by a query over facts, `everyone` always last."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func
from sqlmodel import col, select

from cloud.groups_query import Query
from cloud.models import GroupRow, MembershipRow, ReleaseRow
from cloud.store.audit import audit, decided_of
from cloud.store.dynamic_groups import candidates, check_few_dynamic, fill, found_by, nobody_has
from cloud.store.engine import Database
from cloud.store.errors import ConflictError
from cloud.store.groups import add_member, group_view, insert_at, members_of, number, ranked, regrouped
from cloud.store.lookup import checking, device_row, group_row, product_row
from cloud.store.rollout_checks import check_no_plan_needs
from cloud.store.situations import ids_of
from cloud.values import GroupMatch, GroupTrial, GroupView
from protocol.identity import EVERYONE, check_id


class Grouping:
    """Groups and their members."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_group(
        self, product: str, group: str, *, rank: int | None = None, query: str | None = None, by: str
    ) -> GroupView:
        """Make a group at `rank` (1 decides first; None: after all others but `everyone`), moving later ones back.

        With a `query` (`cloud.groups_query`) its devices are those of which it is true, from now on.
        """
        with checking():
            check_id(group, "group")
        if query is not None:
            Query.parse(query)
        with self._database.changing() as change:
            product_row(change.session, product)
            if change.session.get(GroupRow, (product, group)):
                raise ConflictError(f"product {product} has a group {group} already; nothing was changed")
            order = ranked(change.session, product)
            row = GroupRow(product=product, name=group, rank=0, query=query, created_at_ms=change.now_ms)
            insert_at(change, order, row, len(order) + 1 if rank is None else rank)
            after: dict[str, object] = {"rank": row.rank}
            if query is not None:
                check_few_dynamic(change.session, product)
                after |= {"query": query, "devices": len(fill(change, row)[0])}
            audit(change, by, "group.created", f"group/{product}/{group}", after=after)
            return group_view(change.session, row)

    def set_rank(self, product: str, group: str, rank: int, *, by: str) -> GroupView:
        """Move a group to another rank."""
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"group {EVERYONE} always ranks last; nothing was changed")
            order = [other for other in ranked(change.session, product) if other is not row]
            before = row.rank
            insert_at(change, order, row, rank)
            if row.rank != before:
                audit(change, by, "group.ranked", f"group/{product}/{group}", before=before, after=row.rank)
                regrouped(change, product, members_of(change.session, product, group))
            return group_view(change.session, row)

    def set_query(self, product: str, group: str, query: str, *, by: str) -> GroupView:
        """Choose a dynamic group's devices by another query; ConflictError for a group that is filled by hand."""
        parsed = Query.parse(query)
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if row.query is None:
                raise ConflictError(
                    f"group {group} of {product} has no query: its devices are put in by hand; make another group "
                    "with a query; nothing was changed"
                )
            before, row.query = row.query, parsed.text
            if before != row.query:
                change.session.add(row)
                change.session.flush()
                came, went = fill(change, row)
                audit(
                    change,
                    by,
                    "group.query_changed",
                    f"group/{product}/{group}",
                    before={"query": before},
                    after={"query": row.query, "came": len(came), "went": len(went)},
                )
            return group_view(change.session, row)

    def try_query(self, product: str, query: str, *, limit: int | None = None) -> GroupTrial:
        """Tell which devices a query is true of now, the ids of `limit` of them; changes nothing."""
        parsed = Query.parse(query)
        with self._database.reading() as session:
            product_row(session, product)
            matches, matched = found_by(session, product, parsed, limit)
            return GroupTrial(
                query=parsed.text,
                matches=matches,
                matched=matched,
                devices=session.exec(select(func.count()).select_from(ids_of(product).subquery())).one(),
                follows_versions=parsed.follows_versions,
                nobody_has=nobody_has(session, product, parsed),
            )

    def explain_match(self, product: str, device_id: str, *, group: str | None = None, query: str = "") -> GroupMatch:
        """Tell whether and why a device is in a group, or would be by a query; NotFoundError, ConflictError."""
        with self._database.reading() as session:
            found = group_row(session, product, group).query if group is not None else query
            device = device_row(session, device_id)
            if device.product != product:
                raise ConflictError(f"device {device_id} is of product {device.product}, not of {product}")
            member = group == EVERYONE or (
                group is not None and session.get(MembershipRow, (device_id, group)) is not None
            )
            parsed = Query.parse(found) if found is not None else None
            candidate = candidates(session, product, ids_of(product, device_ids=[device_id]))[device_id]
        return GroupMatch(
            device_id=device_id,
            query=found,
            member=member,
            matches=parsed.matches(candidate) if parsed else None,
            saw=parsed.explain(candidate) if parsed else (),
        )

    def groups(self, product: str | None = None) -> tuple[GroupView, ...]:
        """Return the groups in rank order, `everyone` last, per product."""
        query = select(GroupRow).order_by(col(GroupRow.product), col(GroupRow.rank))
        if product is not None:
            query = query.where(col(GroupRow.product) == product)
        with self._database.reading() as session:
            return tuple(group_view(session, row) for row in session.exec(query))

    def group(self, product: str, group: str) -> GroupView:
        """Return one group; NotFoundError."""
        with self._database.reading() as session:
            return group_view(session, group_row(session, product, group))

    def members(self, product: str, group: str) -> tuple[str, ...]:
        """Return the ids of a group's devices; NotFoundError."""
        with self._database.reading() as session:
            group_row(session, product, group)
            return tuple(members_of(session, product, group))

    def delete_group(self, product: str, group: str, *, by: str) -> None:
        """Delete a group; ConflictError while a release of it is enabled or may be again, and for `everyone`.

        Its disabled releases stay on record, and a new group of that name goes on with their labels.
        """
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"group {EVERYONE} cannot be deleted; nothing was changed")
            enabled = select(func.count()).where(
                col(ReleaseRow.product) == product,
                col(ReleaseRow.group_name) == group,
                col(ReleaseRow.enabled).is_(True),
            )
            if count := change.session.exec(enabled).one():
                raise ConflictError(f"group {group} has {count} enabled releases; disable them first")
            check_no_plan_needs(change.session, product, group)
            members = members_of(change.session, product, group)
            change.session.execute(
                delete(MembershipRow).where(
                    col(MembershipRow.product) == product, col(MembershipRow.group_name) == group
                )
            )
            change.session.delete(row)
            change.session.flush()
            number(change, ranked(change.session, product))
            gone = audit(change, by, "group.deleted", f"group/{product}/{group}", before={"devices": members})
            decided_of(change, gone, members)
            regrouped(change, product, members)

    def add_to_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Put devices into a group and return how many are new; a device of another product refuses them all."""
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"every device is in group {EVERYONE} anyway; nothing was changed")
            _check_filled_by_hand(row)
            new = [each for each in dict.fromkeys(device_ids) if add_member(change, product, group, each)]
            if new:
                decided = audit(change, by, "group.added", f"group/{product}/{group}", after={"devices": new})
                decided_of(change, decided, new)
                regrouped(change, product, new)
            return len(new)

    def remove_from_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Take devices out of a group and return how many were in it."""
        with self._database.changing() as change:
            filled = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"no device can leave group {EVERYONE}; nothing was changed")
            _check_filled_by_hand(filled)
            gone = []
            for device_id in dict.fromkeys(device_ids):
                device_row(change.session, device_id)
                row = change.session.get(MembershipRow, (device_id, group))
                if row is not None and row.product == product:
                    change.session.delete(row)
                    gone.append(device_id)
            if gone:
                change.session.flush()
                decided = audit(change, by, "group.removed", f"group/{product}/{group}", before={"devices": gone})
                decided_of(change, decided, gone)
                regrouped(change, product, gone)
            return len(gone)


def _check_filled_by_hand(row: GroupRow) -> None:
    if row.query is not None:
        raise ConflictError(
            f"the devices of group {row.name} of {row.product} are those of which {row.query} is true: none is put in "
            "or taken out by hand; change the query, or the device's attributes; nothing was changed"
        )
