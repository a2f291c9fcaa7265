"""How signed firmware becomes something to release: metadata taken, recorded, published once it can be served."""

import threading
from collections.abc import Sequence

from cloud.artifacts import Artifacts
from cloud.roles import SignedFirmware
from cloud.store.errors import ConflictError
from cloud.store.store import Store
from cloud.trust import MetadataRepository
from cloud.values import FirmwareView, OutboxKind, ProductView
from protocol.manifest import Manifest


class Intake:
    """Keeps three things in step: what is signed, what can be served, and what the store says of both.

    The signed metadata is the truth. What a crash left undone between it and the store is done by `reconcile`.
    """

    def __init__(self, store: Store, repository: MetadataRepository, artifacts: Artifacts) -> None:
        self._store, self._repository, self._artifacts = store, repository, artifacts
        self._lock = threading.Lock()

    def create_product(
        self, product: str, hardware_models: Sequence[str], targets: bytes, role: bytes, *, by: str
    ) -> ProductView:
        """Make a product and take the metadata that delegates to it.

        Raises:
            ConflictError: it exists.
            TrustError: the metadata is not signed as it must be.
            InvalidError: the product or a hardware model is not an id.
        """
        with self._lock:
            if any(item.product == product for item in self._store.catalog.products()):
                raise ConflictError(f"product {product!r} exists already; nothing was changed")
            self._repository.accept_targets(targets, {product: role})
            view = self._store.catalog.create_product(product, hardware_models=hardware_models, by=by)
            self._follow(product, by)
            self._store.outbox.mark(OutboxKind.BUNDLE, product)
            return view

    def publish_role(self, product: str, role: bytes, *, by: str) -> tuple[FirmwareView, ...]:
        """Take a product's newly signed role and return the firmware that is new in it; idempotent.

        Raises:
            NotFoundError: there is no such product.
            ConflictingRoleError: somebody else's role came first.
            TrustError: it is not signed as it must be.
        """
        with self._lock:
            catalog = self._store.catalog
            catalog.product(product)
            new = self._repository.accept_product_role(product, role)
            self._follow(product, by)
            self._store.outbox.mark(OutboxKind.BUNDLE, product)
            return tuple(catalog.firmware(product, item.manifest.component, item.manifest.version) for item in new)

    def reconcile(self, *, by: str) -> None:
        """Bring the store up to what is signed and can be served: after a start, and after a blob arrived."""
        with self._lock:
            for product in self._store.catalog.products():
                if product.product in self._repository.products():
                    self._follow(product.product, by)

    def _follow(self, product: str, by: str) -> None:
        catalog = self._store.catalog
        known = {(item.component, item.version): item for item in catalog.firmwares(product)}
        signers = self._repository.signers(product)
        for firmware in self._repository.firmware(product):
            manifest = firmware.manifest
            there = known.get((manifest.component, manifest.version))
            if there is None:
                self._add(firmware, signers, by)
            elif not there.published and self._can_serve(manifest):
                catalog.publish_firmware(product, manifest.component, manifest.version, by=by)
        floors = self._repository.floors(product)
        if dict(catalog.product(product).floors) != dict(floors):
            catalog.set_floors(product, floors, by=by)

    def _add(self, firmware: SignedFirmware, signers: Sequence[str], by: str) -> None:
        self._store.catalog.add_firmware(
            firmware.manifest,
            digest=firmware.sha256,
            size_bytes=firmware.length,
            signer_keyids=signers,
            published=self._can_serve(firmware.manifest),
            by=by,
        )

    def _can_serve(self, manifest: Manifest) -> bool:
        return all(self._artifacts.find(blob.ref.digest) == blob.ref for blob in manifest.blobs)
