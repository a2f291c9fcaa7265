"""What there is to release and for whom: products, ranked groups and their members, firmware, floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloud.store.engine import Database
from cloud.values import FirmwareView, GroupView, ProductView
from protocol.manifest import Manifest


class Catalog:
    """Products, groups and firmware."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_product(self, product: str, *, hardware_models: Sequence[str], by: str) -> ProductView:
        """Make a product and its group `everyone`; ConflictError if it exists."""
        raise NotImplementedError

    def products(self) -> tuple[ProductView, ...]:
        """Return all products by id."""
        raise NotImplementedError

    def product(self, product: str) -> ProductView:
        """Return one product; NotFoundError."""
        raise NotImplementedError

    def set_ota_enabled(self, product: str, enabled: bool, *, by: str) -> ProductView:
        """Switch updates of a whole product on or off."""
        raise NotImplementedError

    def set_floors(self, product: str, floors: Mapping[str, int], *, by: str) -> ProductView:
        """Raise the lowest `seq` per component that may be released (signed floors); lower values are passed over."""
        raise NotImplementedError

    def create_group(self, product: str, group: str, *, rank: int | None = None, by: str) -> GroupView:
        """Make a group at `rank` (1 decides first; None: after all others but `everyone`), moving later ones back."""
        raise NotImplementedError

    def set_rank(self, product: str, group: str, rank: int, *, by: str) -> GroupView:
        """Move a group to another rank."""
        raise NotImplementedError

    def groups(self, product: str | None = None) -> tuple[GroupView, ...]:
        """Return the groups in rank order, `everyone` last, per product."""
        raise NotImplementedError

    def group(self, product: str, group: str) -> GroupView:
        """Return one group; NotFoundError."""
        raise NotImplementedError

    def members(self, product: str, group: str) -> tuple[str, ...]:
        """Return the ids of a group's devices."""
        raise NotImplementedError

    def delete_group(self, product: str, group: str, *, by: str) -> None:
        """Delete a group; ConflictError while it has enabled releases, and for `everyone`."""
        raise NotImplementedError

    def add_to_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Put devices into a group and return how many are new; a device of another product refuses them all."""
        raise NotImplementedError

    def remove_from_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Take devices out of a group and return how many were in it."""
        raise NotImplementedError

    def add_firmware(
        self,
        manifest: Manifest,
        *,
        digest: str,
        size_bytes: int,
        signer_keyids: Sequence[str],
        published: bool,
        by: str,
    ) -> FirmwareView:
        """Record a signed firmware; ConflictError "exists already" for the same product, component and version.

        `published` tells whether all of its blobs can be served now.
        """
        raise NotImplementedError

    def publish_firmware(self, product: str, component: str, version: str, *, by: str) -> FirmwareView:
        """Note that all blobs of a firmware can be served, so that it can be released; idempotent."""
        raise NotImplementedError

    def firmwares(self, product: str | None = None, component: str | None = None) -> tuple[FirmwareView, ...]:
        """Return firmware, newest `seq` first within product and component."""
        raise NotImplementedError

    def firmware(self, product: str, component: str, version: str) -> FirmwareView:
        """Return one firmware; NotFoundError."""
        raise NotImplementedError
