"""The overview: the fleet by version over time, what runs, what fails, who needs somebody; and the first steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from cloud.api.documents import ReleasePage, ReleaseProgress
from cloud.api.fleet import AttentionPage, FleetPage, attention_of, fleet_of, show_fleet_history
from cloud.api.products import list_products
from cloud.api.releases import list_releases
from cloud.attention import DAY_MS, Need, Trouble
from cloud.console.counts import Counts
from cloud.console.lines import line
from cloud.console.release_deeds import channel_path
from cloud.console.visiting import Visit, Visiting, with_query
from cloud.fleet import ANY_REASON
from cloud.progress import Verdict, may_go_on
from cloud.store.samples import HistorySeries
from cloud.surveying import Surveying
from cloud.values import ProductView

NAMED: Final = 5
"""Devices that are named for each trouble."""
COUNTED: Final = 12
"""Releases whose devices are counted for this page."""
POINTS: Final = 300
SHOWN: Final = 8
"""Lines of a plot: more colours nobody tells apart."""
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
class Step:
    """Something that a fleet needs before it is one; `there` is to be said on the device."""

    name: str
    text: str
    lines: tuple[str, ...]
    done: bool
    there: str = ""


@router.get("/")
def show_overview(visit: Visit) -> Response:
    """Show how the fleet is."""
    visit.require("show_fleet")
    products, fleet, _ = _look(visit)
    plot = _plotted(visit, fleet)
    return visit.page(
        "overview.html",
        **_numbers(visit, fleet),
        **_lists(visit),
        steps=_steps(visit, products, fleet),
        plot=plot,
        versions=_versions(fleet, plot),
        spans=SPANS,
        EVERYTHING=EVERYTHING,
    )


@router.get("/overview/numbers")
def show_numbers(visit: Visit) -> Response:
    """Show the line of numbers alone."""
    visit.require("show_fleet")
    _, fleet, _ = _look(visit)
    return visit.page("overview_numbers.html", **_numbers(visit, fleet))


@router.get("/overview/lists")
def show_lists(visit: Visit) -> Response:
    """Show who needs somebody, what runs and what fails alone."""
    visit.require("list_attention")
    return visit.page("overview_lists.html", **_lists(visit))


@router.get("/overview/steps")
def show_steps(visit: Visit) -> Response:
    """Show the first steps alone."""
    visit.require("show_fleet")
    products, fleet, _ = _look(visit)
    return visit.page("overview_steps.html", steps=_steps(visit, products, fleet))


@router.get("/plots/versions")
def plot_versions(visit: Visit) -> Response:
    """Return the plot's lines: the samples there are, and what was counted last."""
    visit.require("show_fleet_history")
    _, fleet, _ = _look(visit)
    plot = _plotted(visit, fleet)
    if plot is None:
        return JSONResponse({"series": [], "unit": "devices"})
    component = "" if plot.component == EVERYTHING else plot.component
    since_ms = max(0, fleet.counted_at_ms - plot.days * DAY_MS) if fleet else 0
    page = show_fleet_history(visit.server, visit.caller, plot.product, component, since_ms, POINTS)
    now = {it.version: it.devices for it in _versions(fleet, plot)}
    lines = _all_lines(page.series, fleet, plot) if not component else _lines(page.series, now, fleet)
    return JSONResponse({"series": lines, "unit": "devices"}, headers={"Cache-Control": "no-store"})


def _look(visit: Visiting) -> tuple[tuple[ProductView, ...], FleetPage | None, AttentionPage | None]:
    """Return products, and what was counted; None while a large fleet is counted for the first time."""
    surveying: Surveying = visit.request.app.state.surveying
    survey, products = surveying.glance(), list_products(visit.server, visit.caller)
    if survey is None:
        return products, None, None
    return (
        products,
        fleet_of(survey, visit.caller.products),
        attention_of(survey, visit.caller, limit=NAMED),
    )


def _numbers(visit: Visiting, fleet: FleetPage | None) -> dict[str, Any]:
    counted = fleet.products if fleet else ()
    return {
        "fleet": fleet,
        "devices": sum(it.devices for it in counted),
        "online": sum(it.online for it in counted),
        "quiet": sum(it.quiet for it in counted),
        "failed": sum(sum(it.failures.values()) for it in counted),
        "quiet_for_s": visit.server.settings.devices.quiet_after_hours * 3600,
        "ANY": ANY_REASON,
    }


def _lists(visit: Visiting) -> dict[str, Any]:
    products, fleet, attention = _look(visit)
    running, more = _running(visit, products)
    causes: dict[str, int] = {}
    for product in fleet.products if fleet else ():
        for reason, count in product.failures.items():
            causes[reason] = causes.get(reason, 0) + count
    return {
        "needs": _by_trouble(attention.needs if attention else (), visit),
        "is_counted": fleet is not None,
        "counted_at_ms": fleet.counted_at_ms if fleet else None,
        "is_large": any(Counts.is_large(product) for product in products),
        "running": running,
        "running_more": more,
        "causes": sorted(causes.items(), key=lambda it: (-it[1], it[0])),
        "causes_total": sum(causes.values()),
        "status_line": line("status"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """One trouble of all products: how many devices have it, some of them, and where the others are."""

    trouble: Trouble
    count: int
    needs: tuple[Need, ...]
    everyone: str


def _by_trouble(needs: tuple[Need, ...], visit: Visiting) -> tuple[Needed, ...]:
    filters: Mapping[Trouble, Mapping[str, object]] = {
        Trouble.FAILED: {"failed": ANY_REASON},
        Trouble.ROLLED_BACK: {"failed": ANY_REASON},
        Trouble.BLOCKED: {"pending": "true"},
        Trouble.HELD: {"held": "true"},
        Trouble.QUIET: {"quiet_for_s": visit.server.settings.devices.quiet_after_hours * 3600},
    }
    found = []
    for trouble in Trouble:
        some = tuple(need for need in needs if need.trouble is trouble)
        if some:
            there = with_query("/devices", **filters[trouble]) if trouble in filters else ""
            count = sum(need.count for need in some)
            found.append(Needed(trouble=trouble, count=count, needs=some, everyone=there))
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


def _plotted(visit: Visiting, fleet: FleetPage | None) -> Plotted | None:
    """Return what the address asks the plot to show, or else what most devices are of."""
    counted = {it.product: it for it in fleet.products} if fleet else {}
    product = visit.asked("product") or max(counted, key=lambda name: counted[name].devices, default="")
    if product not in counted:
        return None
    components = tuple(dict.fromkeys(it.component for it in counted[product].versions))
    component = visit.asked("component")
    if component not in (*components, EVERYTHING):
        component = components[0] if components else EVERYTHING
    asked = visit.asked("days")
    days = int(asked) if asked in {str(number) for number, _ in SPANS} else USUAL_DAYS
    return Plotted(product=product, component=component, days=days, components=components)


def _versions(fleet: FleetPage | None, plot: Plotted | None) -> tuple[Any, ...]:
    if fleet is None or plot is None:
        return ()
    (product,) = (it for it in fleet.products if it.product == plot.product)
    return tuple(it for it in product.versions if it.component == plot.component)


Points = list[list[int]]
"""A line: [milliseconds since 1970, devices]."""


def _lines(series: tuple[HistorySeries, ...], now: Mapping[str, int], fleet: FleetPage | None) -> list[dict[str, Any]]:
    """Return the versions that most devices run or ran, in the order of when they came; the others are one line."""
    at_ms = fleet.counted_at_ms if fleet else 0
    points: dict[str, Points] = {it.version: _points(it) for it in series if not it.others}
    rest: list[Points] = [_points(it) for it in series if it.others]
    for version in now:
        if version not in points and rest:
            rest.append([[at_ms, now[version]]])
    for version in points if rest else {*points, *now}:
        points.setdefault(version, []).append([at_ms, now.get(version, 0)])
    order = sorted(points, key=lambda version: (-max(count for _, count in points[version]), version))
    apart = order if len(order) + len(rest) <= SHOWN else order[: SHOWN - 1]
    rest += [points[version] for version in order[len(apart) :]]
    lines = [(version, points[version]) for version in sorted(apart, key=lambda version: points[version][0][0])]
    if rest:
        sums: dict[int, int] = {}
        for when_ms, count in (point for one in rest for point in one):
            sums[when_ms] = sums.get(when_ms, 0) + count
        lines.append(("others", [[when_ms, sums[when_ms]] for when_ms in sorted(sums)]))
    return [{"name": name, "points": some} for name, some in lines]


def _points(series: HistorySeries) -> Points:
    return [[it.at_ms, it.devices] for it in series.points]


def _all_lines(series: tuple[HistorySeries, ...], fleet: FleetPage | None, plot: Plotted) -> list[dict[str, Any]]:
    """Return how many devices there were, and how many were connected."""
    points = [it for one in series for it in one.points]
    there = [[it.at_ms, it.devices] for it in points]
    online = [[it.at_ms, it.online] for it in points]
    for it in fleet.products if fleet else ():
        if fleet and it.product == plot.product:
            there.append([fleet.counted_at_ms, it.devices])
            online.append([fleet.counted_at_ms, it.online])
    return [{"name": "devices", "points": there}, {"name": "online", "points": online}] if there else []


def _steps(visit: Visiting, products: tuple[ProductView, ...], fleet: FleetPage | None) -> tuple[Step, ...]:
    """Return what is to be done first; nothing once all of it is."""
    if any(product.devices for product in products) and fleet is None:
        return ()  # a large fleet
    product = products[0].product if products else "thermostat"
    has_devices = any(it.devices for it in products)
    releases = list_releases(visit.server, visit.caller, metrics=False) if products else ()
    steps = (
        Step(
            name="Run the server",
            text="It answers you now. Devices reach it by its MQTT broker.",
            lines=("fleetlift serve",),
            done=True,
        ),
        Step(
            name="Make a product",
            text="A product is one kind of device. The key that signs its firmware is made on your machine, and stays.",
            lines=(line("product", "create", product, "--hardware", "raspberrypi4"),),
            done=bool(products),
        ),
        Step(
            name="Enrol a device",
            text="The code that this prints lets one device in.",
            there="fleetlift-agent enrol --code-file -",
            lines=(line("token", "create", "--product", product),),
            done=has_devices,
        ),
        Step(
            name="Release something",
            text="A directory with an application is packaged, signed on your machine, uploaded, and released.",
            lines=(line("release", "push", "./app", "--product", product, "--version", "1.0.0"),),
            done=bool(releases),
        ),
        Step(
            name="See it arrive",
            text="The first device that runs what you released.",
            lines=(line("release", "status", "v1", "--product", product, "--watch"),),
            done=bool(releases) and _has_arrived(fleet, {it.release.firmware.version for it in releases}),
        ),
    )
    return () if all(step.done for step in steps) else steps


def _has_arrived(fleet: FleetPage | None, versions: set[str]) -> bool:
    return any(it.version in versions for product in (fleet.products if fleet else ()) for it in product.versions)
