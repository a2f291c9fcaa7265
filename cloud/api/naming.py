"""Things looked up by the name that an operator typed; one that does not exist is answered with what it may mean."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from cloud.fleet import DeviceView
from cloud.store.errors import NotFoundError
from cloud.store.store import Store
from cloud.turns import RedundancySetView
from cloud.values import FirmwareView, GroupView, ProductView


def find_product(store: Store, product: str) -> ProductView:
    """Return a product; raises NotFoundError."""
    with _named(product, lambda: (item.product for item in store.catalog.products())):
        return store.catalog.product(product)


def find_group(store: Store, product: str, group: str) -> GroupView:
    """Return a group; raises NotFoundError."""
    find_product(store, product)
    with _named(group, lambda: (item.group for item in store.catalog.groups(product))):
        return store.catalog.group(product, group)


def check_filter(
    store: Store,
    *,
    product: str | None = None,
    group: str | None = None,
    products: frozenset[str] | None = None,
) -> None:
    """Raise NotFoundError for a product or group that does not exist: what a list that is empty was filtered by.

    `products` are those that whoever asks may look at.
    """
    if group is not None and product is not None:
        find_group(store, product, group)
    elif product is not None:
        find_product(store, product)
    elif group is not None:
        known = [it.group for it in store.catalog.groups() if products is None or it.product in products]
        with _named(group, lambda: known):
            if group not in known:
                raise NotFoundError(f"no product has a group {group!r:.80}")


def find_firmware(store: Store, product: str, component: str, version: str) -> FirmwareView:
    """Return a firmware; raises NotFoundError."""
    find_product(store, product)
    with _named(version, lambda: (item.version for item in store.catalog.firmwares(product, component))):
        return store.catalog.firmware(product, component, version)


def find_device(store: Store, device_id: str) -> DeviceView:
    """Return a device; raises NotFoundError."""
    with _named(device_id, lambda: store.devices.near(device_id)):
        return store.devices.device(device_id)


def find_set(store: Store, name: str) -> RedundancySetView:
    """Return a redundancy set; raises NotFoundError."""
    with _named(name, lambda: (item.name for item in store.redundancy.sets())):
        return store.redundancy.find(name)


@contextmanager
def _named(name: str, names: Callable[[], Iterable[str]]) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        close = difflib.get_close_matches(name, set(names()), n=1, cutoff=0.6)
        if not close or "did you mean" in str(error):
            raise
        raise NotFoundError(f"{str(error).rstrip('.')}. Did you mean {close[0]!r}?") from None
