"""The fleet as a whole: how many devices run what, now and over time, what fails, and who needs somebody."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from cloud.access.roles import Caller
from cloud.api.access import seen_products
from cloud.api.backend import Backend, CallerDep, Server, Surveyed
from cloud.api.naming import find_product
from cloud.attention import MAX_NAMED, MetadataNeed, Need, Survey, Trouble
from cloud.roles import utc_now
from cloud.standing import metadata_needs
from cloud.store.samples import MAX_POINTS, HistorySeries
from protocol.identity import MAX_INTEGER

router = APIRouter(tags=["fleet"])


class VersionCount(BaseModel):
    """How many devices run a version of a component, and how many of those are connected."""

    component: str
    version: str
    devices: int
    online: int


class ProductCount(BaseModel):
    """A product's devices.

    `quiet` have been away for long. `failed` are devices whose newest attempt at some component did not succeed, and
    `failures` the same by reason; one may be there for two. `versions` stand in the order of how many devices run them.
    """

    product: str
    devices: int
    online: int
    quiet: int
    failed: int
    failures: dict[str, int]
    versions: tuple[VersionCount, ...]


class FleetPage(BaseModel):
    """The fleet in numbers, as it was counted at `counted_at_ms`: a large one is not counted all the time."""

    counted_at_ms: int
    products: tuple[ProductCount, ...]


class AttentionPage(BaseModel):
    """Who needs somebody, and why, worst first; counted when the fleet was.

    `metadata` is what is signed and expires soon, or has expired, as it stands now: soonest first.
    """

    counted_at_ms: int
    needs: tuple[Need, ...]
    metadata: tuple[MetadataNeed, ...]


class HistoryPage(BaseModel):
    """How many devices ran each version of a component over time; without a component, how many devices there were.

    `components` are those of the last sample.
    """

    product: str
    component: str
    components: tuple[str, ...]
    series: tuple[HistorySeries, ...]


@router.get("/fleet")
def show_fleet(surveyed: Surveyed, server: Server, caller: CallerDep, product: str | None = None) -> FleetPage:
    """Return the fleet in numbers, by product.

    Of thousands of devices the numbers are some seconds old, or minutes where counting takes long: `counted_at_ms`.
    """
    if product is not None:
        find_product(server.store, product)
    return fleet_of(surveyed.get(), seen_products(caller, product))


@router.get("/fleet/attention")
def list_attention(  # noqa: PLR0917 - one parameter a query field
    surveyed: Surveyed,
    server: Server,
    caller: CallerDep,
    product: str | None = None,
    trouble: Trouble | None = None,
    limit: Annotated[int, Query(ge=0, le=MAX_NAMED)] = 10,
) -> AttentionPage:
    """Return which devices need somebody, and why: how many by product and trouble, and `limit` of each by name."""
    if product is not None:
        find_product(server.store, product)
    found = attention_of(surveyed.get(), caller, product=product, trouble=trouble, limit=limit)
    return found.model_copy(update={"metadata": metadata_due(server, caller, product)})


@router.get("/fleet/history")
def show_fleet_history(  # noqa: PLR0917 - one parameter a query field
    server: Server,
    caller: CallerDep,
    product: str,
    component: str = "",
    since_ms: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
    points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = 500,
) -> HistoryPage:
    """Return how many devices ran each version of a component over time; without one, how many devices there were.

    A sample is taken every ten minutes in which something changed; after two days one of each hour is kept, and after
    sixty days one of each day. With more than `points` of them, some are left out evenly.
    """
    seen_products(caller, product)
    find_product(server.store, product)
    series = server.store.samples.history(product, component, since_ms=since_ms, points=points)
    components = server.store.samples.components(product)
    return HistoryPage(product=product, component=component, components=components, series=series)


def fleet_of(survey: Survey, products: frozenset[str] | None) -> FleetPage:
    """Return the numbers of some products, or of all."""
    found = []
    for name, it in survey.products.items():
        if products is not None and name not in products:
            continue
        versions = [
            VersionCount(component=component, version=version, devices=devices, online=online)
            for component, by_version in it.versions.items()
            for version, (devices, online) in by_version.items()
        ]
        versions.sort(key=lambda count: (count.component, -count.devices, count.version))
        found.append(
            ProductCount(
                product=name,
                devices=it.devices,
                online=it.online,
                quiet=it.quiet,
                failed=it.failed,
                failures=dict(it.failures),
                versions=tuple(versions),
            )
        )
    return FleetPage(counted_at_ms=survey.counted_at_ms, products=tuple(found))


def attention_of(
    survey: Survey, caller: Caller, *, product: str | None = None, trouble: Trouble | None = None, limit: int = 10
) -> AttentionPage:
    """Return the needs that a caller may look at; who is no product's device is for whoever may look at all."""
    products = seen_products(caller, product)
    needs = tuple(
        Need(trouble=need.trouble, product=need.product, count=need.count, devices=need.devices[:limit])
        for need in survey.needs
        if (products is None or need.product in products) and trouble in (None, need.trouble)
    )
    return AttentionPage(counted_at_ms=survey.counted_at_ms, needs=needs, metadata=())


def metadata_due(server: Backend, caller: Caller, product: str | None = None) -> tuple[MetadataNeed, ...]:
    """Return the signed metadata that is to be renewed, of a product or of all that a caller may look at."""
    products = seen_products(caller, product)
    due = metadata_needs(server.repository.standing(), utc_now())
    return tuple(it for it in due if not it.product or products is None or it.product in products)
