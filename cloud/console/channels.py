"""A channel: its releases as cards, newest first, with what became of each and what can be done with it."""

from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import ReleasePage
from cloud.api.products import show_product
from cloud.api.releases import list_releases
from cloud.console.counts import Counts
from cloud.console.lines import line, where
from cloud.console.release_deeds import Deed, channel_path, deeds_of
from cloud.console.visiting import Visit, Visiting, with_query
from cloud.values import ChannelKey, ReleaseMetrics

A_PAGE: Final = 10
FEW_CARDS: Final = 10

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A release, what became of it, and what may be done with it."""

    page: ReleasePage
    metrics: ReleaseMetrics | None
    deeds: tuple[Deed, ...]


@router.get("/products/{product}/{component}/{group}")
def show_channel(visit: Visit, product: str, component: str, group: str) -> Response:
    """Show a channel's releases."""
    return visit.page("channel.html", **_context(visit, ChannelKey(product, group, component)))


@router.get("/products/{product}/{component}/{group}/cards")
def show_cards(visit: Visit, product: str, component: str, group: str) -> Response:
    """Show the cards alone."""
    return visit.page("channel_cards.html", **_context(visit, ChannelKey(product, group, component)))


@router.get("/products/{product}/{component}/{group}/rollback")
def choose_earlier(visit: Visit, product: str, component: str, group: str) -> Response:
    """Show the earlier releases that can be made Live again."""
    visit.require("show_product", product=product)
    key = ChannelKey(product, group, component)
    counts: Counts = visit.request.app.state.counts
    large = counts.is_large(show_product(visit.server, product))
    pages = _pages(visit, key)
    live = next((page for page in pages if page.release.live), None)
    earlier = [
        (page, counts.metrics(page.release, large=large or number >= FEW_CARDS))
        for number, page in enumerate(it for it in pages if not it.release.live)
    ]
    return visit.page("channel_rollback.html", key=key, path_of=channel_path, live=live, earlier=earlier)


def _pages(visit: Visiting, key: ChannelKey) -> tuple[ReleasePage, ...]:
    return list_releases(
        visit.server,
        visit.caller,
        product=key.product,
        group=key.group,
        component=key.component,
        metrics=False,
    )


def _context(visit: Visiting, key: ChannelKey) -> dict[str, Any]:
    visit.require("show_product", product=key.product)
    counts: Counts = visit.request.app.state.counts
    product = show_product(visit.server, key.product)
    pages = _pages(visit, key)
    before = visit.asked("before")
    rest = [page for page in pages if not before.isdecimal() or page.release.label < int(before)]
    shown = rest[:A_PAGE]
    large = counts.is_large(product)
    more = str(shown[-1].release.label) if len(rest) > A_PAGE else ""
    path = channel_path(key)
    return {
        "key": key,
        "product": product,
        "live": next((page for page in pages if page.release.live), None),
        "total": len(pages),
        "shown_path": with_query(f"{path}/cards", before=before),
        "first": path if before else "",
        "next": with_query(path, before=more) if more else "",
        "list_line": line("release", "list", *where(key)),
        "push_line": line("release", "push", "VERSION", *where(key)),
        "may_release": visit.may(Role.RELEASE_MANAGER, key.product),
        "channel": path,
        "cards": [
            Card(
                page=page,
                metrics=counts.metrics(page.release, large=large),
                deeds=deeds_of(page.release, page.rollout, lambda role: visit.may(role, key.product), visit.name),
            )
            for page in shown
        ],
    }
