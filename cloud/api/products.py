"""Products, and the signed metadata that vouches for their firmware."""

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Request

from cloud.api.access import may_see
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import FirmwarePage, NewProduct, ProductChange
from cloud.api.firmware import firmware_page
from cloud.api.naming import find_product
from cloud.values import ProductView

router = APIRouter(tags=["products"])


@router.get("/products")
def list_products(server: Server, caller: CallerDep) -> tuple[ProductView, ...]:
    """Return products by id."""
    return tuple(it for it in server.store.catalog.products() if may_see(caller, it.product))


@router.post("/products", status_code=HTTPStatus.CREATED)
def create_product(server: Server, actor: Actor, body: NewProduct) -> ProductView:
    """Make a product, with the signed metadata that delegates to it."""
    return server.intake.create_product(
        body.product, body.hardware_models, body.targets.encode(), body.role.encode(), by=actor
    )


@router.get("/products/{product}")
def show_product(server: Server, product: str) -> ProductView:
    """Return one product."""
    return find_product(server.store, product)


@router.patch("/products/{product}")
def change_product(server: Server, actor: Actor, product: str, body: ProductChange) -> ProductView:
    """Change how a whole product is updated: at all, by its base alone, with how many approvals."""
    find_product(server.store, product)
    return server.store.catalog.set_policy(product, **body.model_dump(), by=actor)


@router.post(
    "/products/{product}/role",
    status_code=HTTPStatus.CREATED,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def publish_role(server: Server, actor: Actor, product: str, request: Request) -> tuple[FirmwarePage, ...]:
    """Take a product's newly signed role, the exact bytes that were signed; return the firmware that is new in it."""
    role = await request.body()
    await asyncio.to_thread(find_product, server.store, product)
    published = await asyncio.to_thread(server.intake.publish_role, product, role, by=actor)
    return tuple(firmware_page(server, it) for it in published)
