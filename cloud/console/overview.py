"""The overview: the fleet by version over time, what runs, what fails, and what needs somebody."""

from fastapi import APIRouter, Response

from cloud.api.products import list_products
from cloud.console.visiting import Visit

router = APIRouter(include_in_schema=False)


@router.get("/")
def show_overview(visit: Visit) -> Response:
    """Show how the fleet is."""
    return visit.page("overview.html", products=list_products(visit.server, visit.caller))
