"""Groups: ranked, static, `everyone` always last."""

from http import HTTPStatus

from fastapi import APIRouter

from cloud.api.backend import Actor, Server
from cloud.api.documents import GroupChange, GroupPage, MembersChange, MembersChanged, NewGroup
from cloud.api.naming import check_filter, find_group, find_product
from cloud.values import GroupView

router = APIRouter(tags=["groups"])


@router.get("/groups")
def list_groups(server: Server, product: str | None = None) -> tuple[GroupView, ...]:
    """Return groups in rank order, per product."""
    check_filter(server.store, product=product)
    return server.store.catalog.groups(product)


@router.post("/groups", status_code=HTTPStatus.CREATED)
def create_group(server: Server, actor: Actor, body: NewGroup) -> GroupView:
    """Make a group."""
    find_product(server.store, body.product)
    return server.store.catalog.create_group(body.product, body.group, rank=body.rank, by=actor)


@router.get("/groups/{product}/{group}")
def show_group(server: Server, product: str, group: str) -> GroupPage:
    """Return one group and its devices."""
    view = find_group(server.store, product, group)
    return GroupPage(group=view, members=server.store.catalog.members(product, group))


@router.patch("/groups/{product}/{group}")
def change_group(server: Server, actor: Actor, product: str, group: str, body: GroupChange) -> GroupView:
    """Move a group to another rank."""
    find_group(server.store, product, group)
    return server.store.catalog.set_rank(product, group, body.rank, by=actor)


@router.delete("/groups/{product}/{group}", status_code=HTTPStatus.NO_CONTENT)
def delete_group(server: Server, actor: Actor, product: str, group: str) -> None:
    """Delete a group that has no enabled release."""
    find_group(server.store, product, group)
    server.store.catalog.delete_group(product, group, by=actor)


@router.post("/groups/{product}/{group}/members")
def change_members(server: Server, actor: Actor, product: str, group: str, body: MembersChange) -> MembersChanged:
    """Put devices into a group and take others out of it."""
    find_group(server.store, product, group)
    catalog = server.store.catalog
    added = catalog.add_to_group(product, group, body.add, by=actor) if body.add else 0
    removed = catalog.remove_from_group(product, group, body.remove, by=actor) if body.remove else 0
    return MembersChanged(added=added, removed=removed)
