"""How signed firmware becomes something to release: metadata taken, recorded, published once it can be served."""

import threading
from collections.abc import Sequence

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so

from cloud.acceptance import Incoming
from cloud.artifacts import Artifacts
from cloud.roles import ROOT, TARGETS, SignedFirmware
from cloud.standing import summary
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
            self._note(by)
            self._tell((TARGETS,))
            return view

    def accept(self, incoming: Incoming, *, by: str) -> tuple[str, ...]:
        """Take root, targets and products' roles together, and return the names of what is new; idempotent.

        Raises:
            NotFoundError: there is no product of a role's name.
            ConflictingRoleError: somebody else's metadata came first.
            TrustError: it is not signed as it must be.
        """
        with self._lock:
            for product in incoming.roles:
                self._store.catalog.product(product)
            changed = self._repository.accept(incoming)
            for product in incoming.roles:
                self._follow(product, by)
            self._note(by)
            self._tell(changed)
            return changed

    def prepare_online_key(self, *, by: str) -> Key:
        """Return the key that this server signs with next, made now if there is none; raises KeyFileError."""
        with self._lock:
            before = self._repository.standing().next_online_key
            key = self._repository.prepare_online_key()
            if before is None or before.keyid != key.keyid:
                after = {"keyid": key.keyid, "scheme": key.scheme}
                self._store.audit.record(by, "online_key.made", "metadata/online", after=after)
            return key

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
            self._note(by)
            self._tell((product,))
            return tuple(catalog.firmware(product, item.manifest.component, item.manifest.version) for item in new)

    def reconcile(self, *, by: str) -> None:
        """Bring the store up to what is signed and can be served: after a start, and after a blob arrived."""
        with self._lock:
            for product in self._store.catalog.products():
                if product.product in self._repository.products():
                    self._follow(product.product, by)
            self._note(by)

    def _note(self, by: str) -> None:
        """Audit what is trusted now, where the last row does not say it: so a crash leaves nothing out."""
        standing = self._repository.standing()
        for name, file in {ROOT: standing.root, **standing.offline}.items():
            last, now = self._store.audit.last(f"metadata/{name}"), summary(standing, name, file)
            if last is None or last.after != now:
                before = last.after if last else None
                self._store.audit.record(by, "metadata.accepted", f"metadata/{name}", before=before, after=now)

    def _tell(self, changed: Sequence[str]) -> None:
        """Have told again what is signed anew: every bundle under a new root or targets, and every notice."""
        everywhere = {ROOT, TARGETS}.intersection(changed)
        for product in self._repository.products() if everywhere else changed:
            self._store.outbox.mark(OutboxKind.BUNDLE, product)
        if ROOT in changed:
            for channel in self._store.releases.channels():
                self._store.outbox.mark(OutboxKind.NOTICE, str(channel))

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
