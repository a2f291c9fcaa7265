"""What there is to release and for whom: products, firmware, floors; groups are in `grouping`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud.models import LAST_RANK, DeviceRow, FirmwareRow, FloorRow, GroupRow, ProductRow
from cloud.store.audit import audit
from cloud.store.engine import Change
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.grouping import Grouping
from cloud.store.lookup import checking, firmware_row, firmware_view, product_row
from cloud.store.otas import tell
from cloud.store.situations import floors_of
from cloud.values import MAX_APPROVALS, FirmwareView, ProductView
from protocol.codec import to_plain
from protocol.identity import EVERYONE, check_digest, check_id
from protocol.manifest import MAX_HARDWARE_MODELS, Manifest
from protocol.values import MAX_COMPONENTS, check_number


class Catalog(Grouping):
    """Products, groups and firmware."""

    # Products

    def create_product(self, product: str, *, hardware_models: Sequence[str], by: str) -> ProductView:
        """Make a product and its group `everyone`; ConflictError if it exists."""
        with checking():
            check_id(product, "product")
            models = list(dict.fromkeys(check_id(model, "hardware model") for model in hardware_models))
        if not 1 <= len(models) <= MAX_HARDWARE_MODELS:
            raise InvalidError(f"a product has 1 to {MAX_HARDWARE_MODELS} hardware models; nothing was changed")
        with self._database.changing() as change:
            if change.session.get(ProductRow, product):
                raise ConflictError(f"product {product} exists already; nothing was changed")
            row = ProductRow(id=product, hardware_models=models, created_at_ms=change.now_ms)
            change.session.add(row)
            change.session.flush()
            change.session.add(GroupRow(product=product, name=EVERYONE, rank=LAST_RANK, created_at_ms=change.now_ms))
            audit(change, by, "product.created", f"product/{product}", after={"hardware_models": models})
            return _product_view(change.session, row)

    def products(self) -> tuple[ProductView, ...]:
        """Return all products by id."""
        with self._database.reading() as session:
            rows = session.exec(select(ProductRow).order_by(col(ProductRow.id)))
            return tuple(_product_view(session, row) for row in rows)

    def product(self, product: str) -> ProductView:
        """Return one product; NotFoundError."""
        with self._database.reading() as session:
            return _product_view(session, product_row(session, product))

    def set_policy(
        self,
        product: str,
        *,
        ota_enabled: bool | None = None,
        base_only: bool | None = None,
        approvals: int | None = None,
        by: str,
    ) -> ProductView:
        """Change how a whole product is updated, None leaving a field as it is; its devices are told at once."""
        said = {"ota_enabled": ota_enabled, "base_only": base_only, "approvals": approvals}
        with checking():
            check_number(approvals or 0, "approvals", 0, MAX_APPROVALS)
        with self._database.changing() as change:
            row = product_row(change.session, product)
            after = {name: value for name, value in said.items() if value is not None and getattr(row, name) != value}
            if after:
                before = {name: getattr(row, name) for name in after}
                for name, value in after.items():
                    setattr(row, name, value)
                change.session.add(row)
                change.session.flush()
                audit(change, by, "product.patched", f"product/{product}", before=before, after=after)
                if set(after) - {"approvals"}:
                    _tell_product(change, product)
            return _product_view(change.session, row)

    def set_floors(self, product: str, floors: Mapping[str, int], *, by: str) -> ProductView:
        """Raise the lowest `seq` per component that may be released (signed floors); lower values are passed over."""
        with checking():
            for component, minimum_seq in floors.items():
                check_id(component, "component")
                check_number(minimum_seq, "minimum seq")
        with self._database.changing() as change:
            row = product_row(change.session, product)
            before = floors_of(change.session, product)
            for component, minimum_seq in floors.items():
                if minimum_seq > before.get(component, 0):
                    floor = change.session.get(FloorRow, (product, component))
                    floor = floor or FloorRow(product=product, component=component, minimum_seq=0)
                    floor.minimum_seq = minimum_seq
                    change.session.add(floor)
            change.session.flush()
            after = floors_of(change.session, product)
            if after != before:
                audit(change, by, "floor.raised", f"product/{product}", before=before, after=after)
            return _product_view(change.session, row)

    # Firmware

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
        with checking():
            check_digest(digest)
            check_number(size_bytes, "size_bytes", 1)
        with self._database.changing() as change:
            product_row(change.session, manifest.product)
            same = select(FirmwareRow.id).where(
                col(FirmwareRow.product) == manifest.product,
                col(FirmwareRow.component) == manifest.component,
                col(FirmwareRow.version) == manifest.version,
            )
            if change.session.exec(same).first() is not None:
                raise ConflictError(
                    f"firmware {manifest.target_path} exists already, and firmware never changes: nothing was changed; "
                    "give the new image a new version"
                )
            _check_components(change.session, manifest)
            row = _new_firmware(change, manifest, digest, size_bytes, signer_keyids, published=published)
            after = {"digest": digest, "seq": manifest.seq, "signers": list(signer_keyids), "published": published}
            audit(change, by, "firmware.added", f"firmware/{manifest.target_path}", after=after)
            return firmware_view(row)

    def publish_firmware(self, product: str, component: str, version: str, *, by: str) -> FirmwareView:
        """Note that all blobs of a firmware can be served, so that it can be released; idempotent."""
        with self._database.changing() as change:
            row = firmware_row(change.session, product, component, version)
            if row.published_at_ms is None:
                row.published_at_ms = change.now_ms
                change.session.add(row)
                audit(change, by, "firmware.published", f"firmware/{product}/{component}/{version}")
            return firmware_view(row)

    def firmwares(self, product: str | None = None, component: str | None = None) -> tuple[FirmwareView, ...]:
        """Return firmware, newest `seq` first within product and component."""
        query = select(FirmwareRow).order_by(
            col(FirmwareRow.product),
            col(FirmwareRow.component),
            col(FirmwareRow.seq).desc(),
            col(FirmwareRow.id).desc(),
        )
        if product is not None:
            query = query.where(col(FirmwareRow.product) == product)
        if component is not None:
            query = query.where(col(FirmwareRow.component) == component)
        with self._database.reading() as session:
            return tuple(firmware_view(row) for row in session.exec(query))

    def firmware(self, product: str, component: str, version: str) -> FirmwareView:
        """Return one firmware; NotFoundError."""
        with self._database.reading() as session:
            return firmware_view(firmware_row(session, product, component, version))


def _check_components(session: Session, manifest: Manifest) -> None:
    query = select(FirmwareRow.component).where(col(FirmwareRow.product) == manifest.product).distinct()
    there = set(session.exec(query).all())
    if manifest.component not in there and len(there) >= MAX_COMPONENTS:
        raise ConflictError(f"product {manifest.product} has {len(there)} components, the most there can be")


def _new_firmware(
    change: Change, manifest: Manifest, digest: str, size_bytes: int, signer_keyids: Sequence[str], *, published: bool
) -> FirmwareRow:
    row = FirmwareRow(
        product=manifest.product,
        component=manifest.component,
        version=manifest.version,
        build=manifest.build,
        seq=manifest.seq,
        digest=digest,
        size_bytes=size_bytes,
        hardware_models=list(manifest.hardware_models),
        requires=to_plain(manifest.requires),
        notes=manifest.notes,
        data_schema=manifest.data_schema,
        reads_schemas=list(manifest.reads_schemas),
        blobs=to_plain(manifest.blobs),
        signer_keyids=list(signer_keyids),
        added_at_ms=change.now_ms,
        published_at_ms=change.now_ms if published else None,
    )
    change.session.add(row)
    change.session.flush()
    return row


def _tell_product(change: Change, product: str) -> None:
    query = select(DeviceRow.id).where(col(DeviceRow.product) == product, col(DeviceRow.online).is_(True))
    tell(change, change.session.exec(query).all())


def _product_view(session: Session, row: ProductRow) -> ProductView:
    return ProductView(
        product=row.id,
        hardware_models=tuple(row.hardware_models),
        ota_enabled=row.ota_enabled,
        base_only=row.base_only,
        approvals=row.approvals,
        floors=floors_of(session, row.id),
        devices=session.exec(select(func.count()).where(col(DeviceRow.product) == row.id)).one(),
        created_at_ms=row.created_at_ms,
    )
