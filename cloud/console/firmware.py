"""Firmware: who signed it, what it needs, and how many devices run it. Images come by the command line: keys do not."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.firmware import list_firmware, show_firmware
from cloud.api.metadata import show_standing
from cloud.api.needs import show_matrix
from cloud.api.products import list_products, show_product
from cloud.api.releases import list_releases
from cloud.console.counts import Counts
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.values import FirmwareView, ProductView, RunningView

A_PAGE: Final = 50

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Who runs a firmware: `devices` its very image, `others` another one that calls itself the same version."""

    devices: int
    others: int


def firmware_path(firmware: FirmwareView) -> str:
    """Return the address of a firmware's page."""
    parts = (firmware.product, firmware.component, firmware.version)
    return "/".join(["/firmware", *(quote(part, safe="") for part in parts)])


@router.get("/firmware")
def show_list(visit: Visit) -> Response:
    """Show firmware, newest first within its product and component."""
    visit.require("list_firmware")
    products = {it.product: it for it in list_products(visit.server, visit.caller)}
    product, component = visit.asked("product"), visit.asked("component")
    found = list_firmware(visit.server, visit.caller, product or None)
    components = sorted({it.component for it in found})
    kept = [it for it in found if component in ("", it.component)]
    begin = int(visit.asked("from")) if visit.asked("from").isdecimal() and len(visit.asked("from")) < 9 else 0
    shown = kept[begin : begin + A_PAGE]
    running = {name: _counted(visit, products[name]) for name in {it.product for it in shown}}
    return visit.page(
        "firmware.html",
        rows=[
            (name, [(it, _running(it, running[it.product])) for it in of])
            for name, of in groupby(shown, lambda it: (it.product, it.component))
        ],
        total=len(kept),
        begin=begin,
        next=begin + A_PAGE if len(kept) > begin + A_PAGE else None,
        product=product,
        component=component,
        products=[("", "every product"), *((it, it) for it in products)],
        components=[("", "every component"), *((it, it) for it in components)],
        labels=_labels(visit),
        path_of=firmware_path,
        list_line=line(
            "firmware",
            "list",
            *(("--product", product) if product else ()),
            *(("--component", component) if component else ()),
        ),
        push_line=line("release", "push", "IMAGE", "--product", product or _only(products)),
    )


@router.get("/firmware/{product}/{component}/{version}")
def show_one(visit: Visit, product: str, component: str, version: str) -> Response:
    """Show one firmware."""
    visit.require("show_firmware", product=product)
    server, caller = visit.server, visit.caller
    firmware = show_firmware(server, product, component, version)
    releases = list_releases(server, caller, product=product, component=component, metrics=False)
    needs = next((it for it in show_matrix(server, product, component) if it.version == version), None)
    counted = _counted(visit, show_product(server, product))
    return visit.page(
        "firmware_one.html",
        firmware=firmware,
        running=_running(firmware, counted),
        needs=needs,
        releases=[it.release for it in releases if it.release.firmware.digest == firmware.digest],
        labels=_labels(visit),
        may_release=visit.may(Role.RELEASE_MANAGER, product) and firmware.published,
        options=("--product", product, "--component", component),
        line=line,
    )


def _only(products: Collection[str]) -> str:
    return next(iter(products)) if len(products) == 1 else "PRODUCT"


def _counted(visit: Visiting, product: ProductView) -> tuple[RunningView, ...] | None:
    counts: Counts = visit.request.app.state.counts
    visit.require("show_running", product=product.product)
    return counts.running(product)


def _running(firmware: FirmwareView, counted: Iterable[RunningView] | None) -> Running | None:
    """Return how many devices run a firmware, None if that is being counted."""
    if counted is None:
        return None
    same = [it for it in counted if (it.component, it.version) == (firmware.component, firmware.version)]
    devices = sum(it.devices for it in same if it.digest == firmware.digest)
    return Running(devices=devices, others=sum(it.devices for it in same) - devices)


def _labels(visit: Visiting) -> dict[str, str]:
    """Return whose the keys are that sign firmware now, by their ids."""
    visit.require("show_standing")
    return {key.keyid: key.label for role in show_standing(visit.server, visit.caller).roles for key in role.keys}
