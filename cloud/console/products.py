"""Products: what runs on which channel of one, and how a whole product is updated."""

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from fastapi import APIRouter, Request, Response

from cloud.access.roles import Role
from cloud.api.documents import ProductChange, ReleasePage
from cloud.api.firmware import list_firmware
from cloud.api.fleet import metadata_due
from cloud.api.groups import list_groups
from cloud.api.needs import show_matrix
from cloud.api.products import change_product, list_products, show_product
from cloud.api.releases import list_releases
from cloud.console.counts import Counts
from cloud.console.forms import Form, RefusedError
from cloud.console.lines import line
from cloud.console.release_deeds import channel_path
from cloud.console.visiting import Visit, Visiting
from cloud.values import MAX_APPROVALS, ChannelKey, FirmwareView, ProductView, ReleaseMetrics
from protocol.selection import BASE

FEW_CHANNELS: Final = 8
"""Of which what became of the Live releases is counted while somebody waits."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel with its releases; `live` is the one that counts, `metrics` what became of that."""

    key: ChannelKey
    releases: int
    live: ReleasePage | None
    newest: ReleasePage
    metrics: ReleaseMetrics | None

    @property
    def path(self) -> str:
        """The address of its page."""
        return channel_path(self.key)


@router.get("/products")
def show_products(visit: Visit) -> Response:
    """Show the kinds of devices."""
    visit.require("list_products")
    products = list_products(visit.server, visit.caller)
    live: dict[str, list[ReleasePage]] = {}
    for page in list_releases(visit.server, visit.caller, enabled=True, metrics=False):
        if page.release.live:
            live.setdefault(page.release.channel.product, []).append(page)
    return visit.page("products.html", products=products, live=live)


@router.get("/products/{product}")
def show_one(visit: Visit, product: str) -> Response:
    """Show a product's channels, and what there is to release."""
    visit.require("show_product", product=product)
    server, caller = visit.server, visit.caller
    shown = show_product(server, product)
    firmware = list_firmware(server, caller, product=product)
    return visit.page(
        "product.html",
        product=shown,
        channels=_channels(visit, shown),
        group_options=[(it.group, it.group) for it in list_groups(server, caller, product=product)],
        newest=(newest := _newest(firmware)),
        newest_options=[(it.component, it.component) for it in newest],
        list_line=line("release", "list", "--product", product),
        policy=policy_words(shown),
        metadata=metadata_due(server, caller, product),
        BASE=BASE,
    )


@router.get("/products/{product}/channels")
def show_channels(visit: Visit, product: str) -> Response:
    """Show the table of channels alone."""
    visit.require("show_product", product=product)
    shown = show_product(visit.server, product)
    return visit.page("product_channels.html", product=shown, channels=_channels(visit, shown))


@router.get("/products/{product}/release")
def choose_channel(visit: Visit, product: str) -> Response:
    """Lead to the form of the channel that was chosen."""
    visit.require("show_product", product=product)
    key = ChannelKey(product, visit.asked("group", "everyone"), visit.asked("component", "app"))
    version = visit.asked("version")
    return visit.go(channel_path(key, "release") + (f"?version={version}" if version else ""))


@router.get("/products/{product}/needs")
def show_needs(visit: Visit, product: str) -> Response:
    """Show what each firmware of a product needs, and what does not work with it."""
    visit.require("show_matrix", product=product)
    component = visit.asked("component") or None
    return visit.page(
        "product_needs.html",
        product=show_product(visit.server, product),
        rows=show_matrix(visit.server, product, component),
        needs_line=line("firmware", "matrix", "--product", product),
    )


@router.get("/products/{product}/capabilities")
def show_capabilities(visit: Visit, product: str) -> Response:
    """Show how a whole product is updated, and let it be changed."""
    visit.require("show_product", product=product)
    shown = show_product(visit.server, product)
    newest: dict[str, int] = {}
    for firmware in list_firmware(visit.server, visit.caller, product=product):
        newest[firmware.component] = max(newest.get(firmware.component, 0), firmware.seq)
    return visit.page(
        "product_capabilities.html",
        product=shown,
        newest=newest,
        policy=policy_words(shown),
        BASE=BASE,
        MAX_APPROVALS=MAX_APPROVALS,
        set_line=lambda *words: line("product", "set", product, *words),
        line=line,
        may_change=visit.may(Role.ADMIN, product),
    )


@router.post("/products/{product}/capabilities")
def set_capabilities(request: Request, visit: Visit, product: str) -> Response:
    """Change one of: updates on or off, distribution, approvals."""
    form = visit.form
    if form.text("ota"):
        words = ("--ota", "on") if form.text("ota") == "on" else ("--ota", "off", "--yes")
    elif form.text("distribution"):
        words = ("--distribution", form.text("distribution"))
    else:
        words = ("--approvals", form.text("approvals"))
    return visit.act(
        "change_product",
        lambda: change_product(visit.server, visit.name, product, _change(form)),
        to=request.url.path,
        said=lambda found: f"{product}: {policy_words(found)}.",
        cli=line("product", "set", product, *words),
        product=product,
    )


def _change(form: Form) -> ProductChange:
    ota, distribution, approvals = form.text("ota"), form.text("distribution"), form.number("approvals")
    is_known = ota in ("", "on", "off") and distribution in ("", "hybrid", "base-only")
    if not is_known or (not ota and not distribution and approvals is None):
        raise RefusedError("The page did not say what is to be changed. Nothing was changed; load it again.")
    return ProductChange(
        ota_enabled=ota == "on" if ota else None,
        base_only=distribution == "base-only" if distribution else None,
        approvals=approvals,
    )


def policy_words(product: ProductView) -> str:
    """Return how a product is updated, as a sentence's end."""
    if not product.ota_enabled:
        return "updates are off, nothing moves"
    scope = f"updates are on, of {BASE} alone" if product.base_only else "updates are on, of every component"
    count = product.approvals
    return scope + (f"; a release needs {count} approval{'s' if count > 1 else ''}" if count else "")


def _channels(visit: Visiting, product: ProductView) -> list[Channel]:
    counts: Counts = visit.request.app.state.counts
    pages = list_releases(visit.server, visit.caller, product=product.product, metrics=False)
    found = [(key, list(of)) for key, of in groupby(pages, lambda page: page.release.channel)]
    large = counts.is_large(product) or len(found) > FEW_CHANNELS
    channels = []
    for key, of in found:
        live = next((page for page in of if page.release.live), None)
        metrics = counts.metrics(live.release, large=large) if live else None
        channels.append(Channel(key=key, releases=len(of), live=live, newest=of[0], metrics=metrics))
    return sorted(channels, key=lambda it: (it.key.component, it.key.group == "everyone", it.key.group))


def _newest(firmware: tuple[FirmwareView, ...]) -> list[FirmwareView]:
    """Return the newest published firmware of each component."""
    found: dict[str, FirmwareView] = {}
    for item in firmware:
        if item.published:
            found.setdefault(item.component, item)
    return list(found.values())
