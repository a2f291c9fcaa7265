"""The overview: the fleet by version over time, what runs, what fails, who needs somebody; and the first steps."""

import time
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from cloud.api.documents import ReleasePage, ReleaseProgress
from cloud.api.fleet import (
    AttentionPage,
    FleetPage,
    ProductCount,
    VersionCount,
    attention_of,
    fleet_of,
    metadata_due,
    show_fleet_history,
)
from cloud.api.products import list_products
from cloud.api.releases import list_releases
from cloud.attention import AT, DAY_MS, Need, Trouble
from cloud.console.counts import Counts
from cloud.console.first_steps import Step, steps_of
from cloud.console.lines import line
from cloud.console.plotting import lines_of, lines_of_all
from cloud.console.release_deeds import channel_path
from cloud.console.visiting import Visit, Visiting, with_query
from cloud.fleet import ANY_REASON, NO_REASON
from cloud.progress import Verdict, may_go_on
from cloud.sparing import MANY
from cloud.surveying import Surveying
from cloud.values import ProductView

NAMED: Final = 5
"""Devices that are named for each trouble."""
COUNTED: Final = 12
"""Releases whose devices are counted for this page."""
POINTS: Final = 300
SPANS: Final = (
    (1, "a day"),
    (7, "a week"),
    (30, "a month"),
    (90, "three months"),
    (365, "a year"),
    (3650, "ten years"),
)
USUAL_DAYS: Final = 30
EVERYTHING: Final = "-"
"""Instead of a component: the devices as such."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plotted:
    """What the plot shows, and what else it could."""

    product: str
    component: str
    days: int
    components: tuple[str, ...]
    products: tuple[str, ...]

    @property
    def address(self) -> str:
        """Where its lines are."""
        return with_query("/plots/versions", product=self.product, component=self.component, days=self.days)

    @property
    def line(self) -> str:
        """The command that tells the same."""
        component = () if self.component == EVERYTHING else ("--component", self.component)
        return line("status", "--product", self.product, *component, "--over", f"{self.days}d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A release that goes on, and how far it is; None while that is being counted."""

    page: ReleasePage
    progress: ReleaseProgress | None

    @property
    def channel(self) -> str:
        """Where its channel's page is."""
        return channel_path(self.page.release.channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one page is made of; `fleet` and `attention` are None while a large fleet is counted for the first time."""

    visit: Visiting
    products: tuple[ProductView, ...]
    fleet: FleetPage | None
    attention: AttentionPage | None

    @classmethod
    def at(cls, visit: Visiting) -> "Look":
        """Look at the fleet."""
        surveying: Surveying = visit.request.app.state.surveying
        survey, products = surveying.glance(), list_products(visit.server, visit.caller)
        if survey is None:
            return cls(visit=visit, products=products, fleet=None, attention=None)
        fleet, attention = fleet_of(survey, visit.caller.products), attention_of(survey, visit.caller, limit=NAMED)
        return cls(visit=visit, products=products, fleet=fleet, attention=attention)

    @property
    def counted(self) -> tuple[ProductCount, ...]:
        """The numbers of each product."""
        return self.fleet.products if self.fleet else ()


@router.get("/")
def show_overview(visit: Visit) -> Response:
    """Show how the fleet is."""
    visit.require("show_fleet")
    look = Look.at(visit)
    plot = _plotted(look)
    return visit.page(
        "overview.html",
        **_numbers(look),
        **_lists(look),
        steps=_steps_of(look),
        steps_path=_steps_path(look),
        plot=plot,
        versions=_versions(look, plot),
        spans=SPANS,
        EVERYTHING=EVERYTHING,
    )


@router.get("/overview/numbers")
def show_numbers(visit: Visit) -> Response:
    """Show the line of numbers alone."""
    visit.require("show_fleet")
    return visit.page("overview_numbers.html", **_numbers(Look.at(visit)))


@router.get("/overview/lists")
def show_lists(visit: Visit) -> Response:
    """Show who needs somebody, what runs and what fails alone."""
    visit.require("list_attention")
    return visit.page("overview_lists.html", **_lists(Look.at(visit)))


@router.get("/overview/steps")
def show_steps(visit: Visit) -> Response:
    """Show the first steps alone."""
    visit.require("show_fleet")
    look = Look.at(visit)
    if visit.asked("empty") and any(product.devices for product in look.products):
        return Response(headers={"HX-Refresh": "true"})  # the page was made for a fleet without a device
    return visit.page("overview_steps.html", steps=_steps_of(look), steps_path=_steps_path(look))


@router.get("/plots/versions")
def plot_versions(visit: Visit) -> Response:
    """Return the plot's lines: the samples there are, and what was counted last."""
    visit.require("show_fleet_history")
    look = Look.at(visit)
    plot = _plotted(look)
    if plot is None:
        return JSONResponse({"series": [], "unit": "devices"})
    component = "" if plot.component == EVERYTHING else plot.component
    now_ms = look.fleet.counted_at_ms if look.fleet else int(time.time() * 1000)
    since_ms = max(0, now_ms - plot.days * DAY_MS)
    page = show_fleet_history(visit.server, visit.caller, plot.product, component, since_ms, POINTS)
    counted = next((it for it in look.counted if it.product == plot.product), None)
    if component:
        now = {it.version: it.devices for it in _versions(look, plot)} if counted else None
        lines = lines_of(page.series, now, now_ms)
    else:
        lines = lines_of_all(page.series, counted, now_ms)
    return JSONResponse({"series": lines, "unit": "devices"}, headers={"Cache-Control": "no-store"})


def _numbers(look: Look) -> dict[str, Any]:
    counted = look.counted
    return {
        "fleet": look.fleet,
        "devices": sum(it.devices for it in counted),
        "online": sum(it.online for it in counted),
        "quiet": sum(it.quiet for it in counted),
        "failed": sum(it.failed for it in counted),
        "quiet_for_s": look.visit.server.settings.devices.quiet_after_hours * 3600,
        "there": {
            "devices": "/devices",
            "online": "/devices?online=true",
            "failed": with_query("/devices", failed=ANY_REASON, revoked="false"),
            "quiet": with_query("/devices", trouble=Trouble.QUIET.value),
        },
    }


def _lists(look: Look) -> dict[str, Any]:
    running, more = _running(look.visit, look.products)
    causes: dict[str, int] = {}
    for product in look.counted:
        for reason, count in product.failures.items():
            causes[reason] = causes.get(reason, 0) + count
    return {
        "needs": _by_trouble(look),
        "metadata": metadata_due(look.visit.server, look.visit.caller),
        "is_counted": look.fleet is not None,
        "counted_at_ms": look.fleet.counted_at_ms if look.fleet else None,
        "is_large": sum(product.devices for product in look.products) >= MANY,
        "running": running,
        "running_more": more,
        "causes": sorted(causes.items(), key=lambda it: (-it[1], it[0])),
        "causes_total": sum(causes.values()),
        "NONE": NO_REASON,
        "status_line": line("status"),
        "at": AT,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """One trouble of all products: how many have it, some of them, and how many are devices that there are."""

    trouble: Trouble
    count: int
    known: int
    needs: tuple[Need, ...]

    @property
    def everyone(self) -> str:
        """Where those devices are listed."""
        return with_query("/devices", trouble=self.trouble.value)


def _by_trouble(look: Look) -> tuple[Needed, ...]:
    needs = look.attention.needs if look.attention else ()
    found = []
    for trouble in Trouble:
        some = tuple(need for need in needs if need.trouble is trouble)
        if some:
            known = sum(need.count for need in some if need.product)
            count = sum(need.count for need in some)
            found.append(Needed(trouble=trouble, count=count, known=known, needs=some))
    return tuple(found)


def _running(visit: Visiting, products: tuple[ProductView, ...]) -> tuple[list[Running], int]:
    """Return the releases that go on, the newest first, and how many more there are."""
    counts: Counts = visit.request.app.state.counts
    large = {product.product: Counts.is_large(product) for product in products}
    pages = [
        page
        for page in list_releases(visit.server, visit.caller, enabled=True, metrics=False)
        if may_go_on(enabled=True, live=page.release.live, status=page.rollout.status if page.rollout else None)
    ]
    pages.sort(key=lambda page: -page.release.created_at_ms)
    found = []
    for page in pages[:COUNTED]:
        progress = counts.progress(page.release, large=large.get(page.release.channel.product, True))
        if page.rollout is None and progress is not None and progress.verdict is not Verdict.OPEN:
            continue  # each of its devices has settled
        found.append(Running(page=page, progress=progress))
    return found, max(0, len(pages) - COUNTED)


def _plotted(look: Look) -> Plotted | None:
    """Return what the address asks the plot to show, or else what most devices are of; None without a device."""
    asked, devices = look.visit.asked, {it.product: it.devices for it in look.products if it.devices}
    product = asked("product") or max(devices, key=lambda name: devices[name], default="")
    if product not in devices:
        return None
    counted = next((it for it in look.counted if it.product == product), None)
    if counted is not None:
        components = tuple(dict.fromkeys(it.component for it in counted.versions))
    else:  # it is being counted
        components = show_fleet_history(look.visit.server, look.visit.caller, product, points=2).components
    component = asked("component")
    if component not in (*components, EVERYTHING):
        component = components[0] if components else EVERYTHING
    days = int(asked("days")) if asked("days") in {str(number) for number, _ in SPANS} else USUAL_DAYS
    return Plotted(
        product=product, component=component, days=days, components=components, products=tuple(sorted(devices))
    )


def _versions(look: Look, plot: Plotted | None) -> tuple[VersionCount, ...]:
    found = (it for it in look.counted if plot and it.product == plot.product)
    return tuple(it for product in found for it in product.versions if plot and it.component == plot.component)


def _steps_of(look: Look) -> tuple[Step, ...]:
    """Return what is to be done first; nothing once all of it is, and of a fleet so large that it is being counted."""
    if look.fleet is None:
        return ()
    releases = list_releases(look.visit.server, look.visit.caller, metrics=False) if look.products else ()
    released = frozenset(it.release.firmware.version for it in releases)
    running = frozenset(it.version for product in look.counted for it in product.versions)
    return steps_of(look.products, released=released, running=running)


def _steps_path(look: Look) -> str:
    return with_query("/overview/steps", empty="" if any(it.devices for it in look.products) else "yes")
