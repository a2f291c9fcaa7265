"""Firmware: immutable, signed, and released once its blobs can be served."""

from dataclasses import fields

from fastapi import APIRouter

from cloud.api.access import seen_products
from cloud.api.backend import Backend, CallerDep, Server
from cloud.api.documents import FirmwarePage
from cloud.api.naming import find_firmware, find_product
from cloud.values import FirmwareView, RunningView

router = APIRouter(tags=["firmware"])


@router.get("/firmware")
def list_firmware(
    server: Server, caller: CallerDep, product: str | None = None, component: str | None = None
) -> tuple[FirmwareView, ...]:
    """Return firmware, newest first within its product and component."""
    products = seen_products(caller, product)
    if product is not None:
        find_product(server.store, product)
    found = server.store.catalog.firmwares(product, component)
    return tuple(it for it in found if products is None or it.product in products)


@router.get("/products/{product}/running")
def show_running(server: Server, product: str) -> tuple[RunningView, ...]:
    """Return how many devices run which image of each component."""
    find_product(server.store, product)
    return server.store.metrics.running(product)


@router.get("/firmware/{product}/{component}/{version}")
def show_firmware(server: Server, product: str, component: str, version: str) -> FirmwarePage:
    """Return one firmware."""
    return firmware_page(server, find_firmware(server.store, product, component, version))


def firmware_page(server: Backend, firmware: FirmwareView) -> FirmwarePage:
    """Return a firmware with the address of its page."""
    link = server.link("firmware", firmware.product, firmware.component, firmware.version)
    return FirmwarePage(**{it.name: getattr(firmware, it.name) for it in fields(firmware)}, link=link)
