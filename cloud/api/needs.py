"""What needs what: the matrix of a product's firmware, and the devices that need something else before a release."""

from fastapi import APIRouter

from cloud.api.backend import Server
from cloud.api.naming import find_product
from cloud.needs import MatrixRow, Needs, matrix, needs
from protocol.down import NoticeRelease

router = APIRouter(tags=["requirements"])


@router.get("/products/{product}/matrix")
def show_matrix(server: Server, product: str, component: str | None = None) -> tuple[MatrixRow, ...]:
    """Return what each firmware of a product needs, and what does not work with it."""
    find_product(server.store, product)
    return matrix(server.store.catalog.firmwares(product), component)


@router.get("/releases/{release_id}/needs")
def show_needs(server: Server, release_id: str) -> Needs:
    """Return which devices of a release's group need something else first, or would break."""
    release = server.store.releases.release(release_id)
    channel = release.channel
    noticed = NoticeRelease(
        release_id=release.release_id,
        label=release.label,
        order=release.order,
        firmware=release.firmware,
        target_range=release.target_range,
    )
    view = server.store.devices.fleet(channel.product, channel.group)
    return needs(view, noticed, channel.group, server.store.catalog.firmwares(channel.product))
