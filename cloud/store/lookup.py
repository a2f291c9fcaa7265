"""Rows by name, or the sentence that says what there is not; and firmware as the values that leave the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sqlmodel import Session, col, select

from cloud.models import DeviceRow, FirmwareRow, GroupRow, OtaRow, ProductRow, ReleaseRow
from cloud.store.errors import InvalidError, NotFoundError
from cloud.values import FirmwareView
from protocol.codec import structure
from protocol.errors import ProtocolError
from protocol.manifest import Blob, Requirements
from protocol.values import FirmwareRef

T = TypeVar("T")

AT_ONCE = 500
"""How many keys one query lists; databases limit the parameters of a statement."""


@contextmanager
def checking() -> Iterator[None]:
    """Turn the ProtocolError of a value that is not one into an InvalidError."""
    try:
        yield
    except ProtocolError as error:
        raise InvalidError(f"{error}; nothing was changed") from None


def batches(keys: Sequence[T]) -> Iterable[Sequence[T]]:
    """Return the keys, AT_ONCE at a time."""
    return (keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE))


def product_row(session: Session, product: str) -> ProductRow:
    """Return the product; NotFoundError."""
    row = session.get(ProductRow, product)
    if row is None:
        raise NotFoundError(f"there is no product {product!r:.80}; nothing was changed")
    return row


def group_row(session: Session, product: str, group: str) -> GroupRow:
    """Return the group; NotFoundError."""
    product_row(session, product)
    row = session.get(GroupRow, (product, group))
    if row is None:
        raise NotFoundError(f"product {product} has no group {group!r:.80}; nothing was changed")
    return row


def device_row(session: Session, device_id: str) -> DeviceRow:
    """Return the device; NotFoundError."""
    row = session.get(DeviceRow, device_id)
    if row is None:
        raise NotFoundError(f"there is no device {device_id!r:.80}; nothing was changed")
    return row


def firmware_row(session: Session, product: str, component: str, version: str) -> FirmwareRow:
    """Return the firmware; NotFoundError."""
    product_row(session, product)
    query = select(FirmwareRow).where(
        col(FirmwareRow.product) == product,
        col(FirmwareRow.component) == component,
        col(FirmwareRow.version) == version,
    )
    row = session.exec(query).first()
    if row is None:
        raise NotFoundError(f"there is no firmware {component} {version} of product {product}; nothing was changed")
    return row


def release_row(session: Session, release_id: str) -> ReleaseRow:
    """Return the release; NotFoundError."""
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise NotFoundError(f"there is no release {release_id!r:.80}; nothing was changed")
    return row


def ota_row(session: Session, ota_id: str) -> OtaRow:
    """Return the single-device OTA; NotFoundError."""
    row = session.get(OtaRow, ota_id)
    if row is None:
        raise NotFoundError(f"there is no single-device OTA {ota_id!r:.80}; nothing was changed")
    return row


def firmware_by_id(session: Session, firmware_id: int) -> FirmwareRow:
    """Return the firmware that a row refers to."""
    return session.get_one(FirmwareRow, firmware_id)


def firmware_ref(row: FirmwareRow) -> FirmwareRef:
    """Return a firmware as messages name it."""
    return FirmwareRef(
        component=row.component,
        version=row.version,
        build=row.build,
        seq=row.seq,
        digest=row.digest,
        size_bytes=row.size_bytes,
        hardware_models=tuple(row.hardware_models),
        requires=structure(row.requires, Requirements),
        data_schema=row.data_schema,
        reads_schemas=tuple(row.reads_schemas),
    )


def firmware_view(row: FirmwareRow) -> FirmwareView:
    """Return a firmware as others see it."""
    return FirmwareView(
        product=row.product,
        component=row.component,
        version=row.version,
        build=row.build,
        seq=row.seq,
        digest=row.digest,
        size_bytes=row.size_bytes,
        hardware_models=tuple(row.hardware_models),
        requires=structure(row.requires, Requirements),
        notes=row.notes,
        data_schema=row.data_schema,
        reads_schemas=tuple(row.reads_schemas),
        blobs=tuple(structure(blob, Blob) for blob in row.blobs),
        signer_keyids=tuple(row.signer_keyids),
        published=row.published_at_ms is not None,
        added_at_ms=row.added_at_ms,
        published_at_ms=row.published_at_ms,
    )
