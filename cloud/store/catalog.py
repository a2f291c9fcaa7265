"""What there is to release and for whom: products, ranked groups and their members, firmware, floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from cloud.models import (
    LAST_RANK,
    DeviceRow,
    FirmwareRow,
    FloorRow,
    GroupRow,
    MembershipRow,
    ProductRow,
    ReleaseRow,
)
from cloud.store.audit import audit
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, InvalidError
from cloud.store.groups import add_member, group_view, insert_at, members_of, number, ranked, regrouped
from cloud.store.lookup import (
    checking,
    device_row,
    firmware_row,
    firmware_view,
    group_row,
    product_row,
)
from cloud.store.otas import tell
from cloud.store.situations import floors_of
from cloud.values import FirmwareView, GroupView, ProductView
from protocol.codec import to_plain
from protocol.identity import EVERYONE, check_digest, check_id
from protocol.manifest import MAX_HARDWARE_MODELS, Manifest
from protocol.values import MAX_COMPONENTS, check_number


class Catalog:
    """Products, groups and firmware."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

    def set_ota_enabled(self, product: str, enabled: bool, *, by: str) -> ProductView:
        """Switch updates of a whole product on or off."""
        with self._database.changing() as change:
            row = product_row(change.session, product)
            if row.ota_enabled is not enabled:
                before, row.ota_enabled = row.ota_enabled, enabled
                change.session.add(row)
                audit(change, by, "product.patched", f"product/{product}", before=before, after=enabled)
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

    # Groups

    def create_group(self, product: str, group: str, *, rank: int | None = None, by: str) -> GroupView:
        """Make a group at `rank` (1 decides first; None: after all others but `everyone`), moving later ones back."""
        with checking():
            check_id(group, "group")
        with self._database.changing() as change:
            product_row(change.session, product)
            if change.session.get(GroupRow, (product, group)):
                raise ConflictError(f"product {product} has a group {group} already; nothing was changed")
            order = ranked(change.session, product)
            row = GroupRow(product=product, name=group, rank=0, created_at_ms=change.now_ms)
            insert_at(change, order, row, len(order) + 1 if rank is None else rank)
            audit(change, by, "group.created", f"group/{product}/{group}", after={"rank": row.rank})
            return group_view(change.session, row)

    def set_rank(self, product: str, group: str, rank: int, *, by: str) -> GroupView:
        """Move a group to another rank."""
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"group {EVERYONE} always ranks last; nothing was changed")
            order = [other for other in ranked(change.session, product) if other is not row]
            before = row.rank
            insert_at(change, order, row, rank)
            if row.rank != before:
                audit(change, by, "group.ranked", f"group/{product}/{group}", before=before, after=row.rank)
                regrouped(change, product, members_of(change.session, product, group))
            return group_view(change.session, row)

    def groups(self, product: str | None = None) -> tuple[GroupView, ...]:
        """Return the groups in rank order, `everyone` last, per product."""
        query = select(GroupRow).order_by(col(GroupRow.product), col(GroupRow.rank))
        if product is not None:
            query = query.where(col(GroupRow.product) == product)
        with self._database.reading() as session:
            return tuple(group_view(session, row) for row in session.exec(query))

    def group(self, product: str, group: str) -> GroupView:
        """Return one group; NotFoundError."""
        with self._database.reading() as session:
            return group_view(session, group_row(session, product, group))

    def members(self, product: str, group: str) -> tuple[str, ...]:
        """Return the ids of a group's devices; NotFoundError."""
        with self._database.reading() as session:
            group_row(session, product, group)
            return tuple(members_of(session, product, group))

    def delete_group(self, product: str, group: str, *, by: str) -> None:
        """Delete a group; ConflictError while it has enabled releases, and for `everyone`.

        Its disabled releases stay on record, and a new group of that name goes on with their labels.
        """
        with self._database.changing() as change:
            row = group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"group {EVERYONE} cannot be deleted; nothing was changed")
            enabled = select(func.count()).where(
                col(ReleaseRow.product) == product,
                col(ReleaseRow.group_name) == group,
                col(ReleaseRow.enabled).is_(True),
            )
            if count := change.session.exec(enabled).one():
                raise ConflictError(f"group {group} has {count} enabled releases; disable them first")
            members = members_of(change.session, product, group)
            change.session.execute(
                delete(MembershipRow).where(
                    col(MembershipRow.product) == product, col(MembershipRow.group_name) == group
                )
            )
            change.session.delete(row)
            change.session.flush()
            number(change, ranked(change.session, product))
            audit(change, by, "group.deleted", f"group/{product}/{group}", before={"devices": members})
            regrouped(change, product, members)

    def add_to_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Put devices into a group and return how many are new; a device of another product refuses them all."""
        with self._database.changing() as change:
            group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"every device is in group {EVERYONE} anyway; nothing was changed")
            new = [each for each in dict.fromkeys(device_ids) if add_member(change, product, group, each)]
            if new:
                audit(change, by, "group.added", f"group/{product}/{group}", after={"devices": new})
                regrouped(change, product, new)
            return len(new)

    def remove_from_group(self, product: str, group: str, device_ids: Sequence[str], *, by: str) -> int:
        """Take devices out of a group and return how many were in it."""
        with self._database.changing() as change:
            group_row(change.session, product, group)
            if group == EVERYONE:
                raise ConflictError(f"no device can leave group {EVERYONE}; nothing was changed")
            gone = []
            for device_id in dict.fromkeys(device_ids):
                device_row(change.session, device_id)
                row = change.session.get(MembershipRow, (device_id, group))
                if row is not None and row.product == product:
                    change.session.delete(row)
                    gone.append(device_id)
            if gone:
                change.session.flush()
                audit(change, by, "group.removed", f"group/{product}/{group}", before={"devices": gone})
                regrouped(change, product, gone)
            return len(gone)

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
        floors=floors_of(session, row.id),
        devices=session.exec(select(func.count()).where(col(DeviceRow.product) == row.id)).one(),
        created_at_ms=row.created_at_ms,
    )
