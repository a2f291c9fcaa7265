"""Groups: ranked, filled by hand or by a query, `everyone` always last."""

from http import HTTPStatus

from fastapi import APIRouter

from cloud.access.roles import Role
from cloud.api.access import permit, seen_products
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import (
    GroupChange,
    GroupPage,
    MembersChange,
    MembersChanged,
    NewGroup,
    QueryTrial,
    TrialPage,
)
from cloud.api.naming import check_filter, find_device, find_group, find_product
from cloud.values import GroupMatch, GroupView

router = APIRouter(tags=["groups"])


@router.get("/groups")
def list_groups(server: Server, caller: CallerDep, product: str | None = None) -> tuple[GroupView, ...]:
    """Return groups in rank order, per product."""
    products = seen_products(caller, product)
    check_filter(server.store, product=product)
    return tuple(it for it in server.store.catalog.groups(product) if products is None or it.product in products)


@router.post("/groups", status_code=HTTPStatus.CREATED)
def create_group(server: Server, actor: Actor, body: NewGroup) -> GroupView:
    """Make a group."""
    find_product(server.store, body.product)
    return server.store.catalog.create_group(body.product, body.group, rank=body.rank, query=body.query, by=actor)


@router.get("/groups/{product}/{group}")
def show_group(server: Server, product: str, group: str, members: bool = True) -> GroupPage:
    """Return one group and its devices; without `members` how many they are, for a list of devices tells which."""
    view = find_group(server.store, product, group)
    return GroupPage(group=view, members=server.store.catalog.members(product, group) if members else ())


@router.patch("/groups/{product}/{group}")
def change_group(server: Server, actor: Actor, product: str, group: str, body: GroupChange) -> GroupView:
    """Move a group to another rank, or choose its devices by another query."""
    view = find_group(server.store, product, group)
    if body.query is not None:
        view = server.store.catalog.set_query(product, group, body.query, by=actor)
    if body.rank is not None:
        view = server.store.catalog.set_rank(product, group, body.rank, by=actor)
    return view


@router.post("/groups/{product}/trial")
def try_query(server: Server, caller: CallerDep, product: str, body: QueryTrial) -> TrialPage:
    """Tell which devices a query is true of now; changes nothing."""
    find_product(server.store, product)
    device = None
    if body.device_id is not None:
        permit(server, caller, Role.VIEWER, body.device_id)
        find_device(server.store, body.device_id)
        device = server.store.catalog.explain_match(product, body.device_id, query=body.query)
    return TrialPage(trial=server.store.catalog.try_query(product, body.query, limit=body.limit), device=device)


@router.get("/groups/{product}/{group}/devices/{device_id}")
def explain_match(server: Server, caller: CallerDep, product: str, group: str, device_id: str) -> GroupMatch:
    """Tell whether a device is in a group, and what its query saw of it."""
    find_group(server.store, product, group)
    permit(server, caller, Role.VIEWER, device_id)
    find_device(server.store, device_id)
    return server.store.catalog.explain_match(product, device_id, group=group)


@router.delete("/groups/{product}/{group}", status_code=HTTPStatus.NO_CONTENT)
def delete_group(server: Server, actor: Actor, product: str, group: str) -> None:
    """Delete a group that has no enabled release."""
    find_group(server.store, product, group)
    server.store.catalog.delete_group(product, group, by=actor)


@router.post("/groups/{product}/{group}/members")
def change_members(server: Server, caller: CallerDep, product: str, group: str, body: MembersChange) -> MembersChanged:
    """Put devices into a group and take others out of it."""
    find_group(server.store, product, group)
    for device_id in () if caller.products is None else dict.fromkeys([*body.add, *body.remove]):
        permit(server, caller, Role.OPERATOR, device_id)
    catalog = server.store.catalog
    added = catalog.add_to_group(product, group, body.add, by=caller.name) if body.add else 0
    removed = catalog.remove_from_group(product, group, body.remove, by=caller.name) if body.remove else 0
    return MembersChanged(added=added, removed=removed)
