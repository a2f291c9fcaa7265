"""Devices as others see them, put together a page at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlmodel import Session, col, select

from cloud.fleet import DeviceView, OtaView, PinView
from cloud.models import ComponentRow, DeviceRow, FirmwareRow, GroupRow, MembershipRow, OtaRow, PinRow
from cloud.store.lookup import batches
from cloud.store.otas import ota_view
from protocol.codec import structure
from protocol.identity import EVERYONE
from protocol.phases import Phase
from protocol.up import Availability, DeviceState
from protocol.values import ComponentState


def device_views(session: Session, rows: Sequence[DeviceRow]) -> tuple[DeviceView, ...]:
    """Return devices as others see them, in the order of their rows."""
    found: list[DeviceView] = []
    for some in batches(rows):
        ids = [row.id for row in some]
        groups, components = _groups(session, ids), _components(session, ids)
        pins, otas = _pins(session, ids), _otas(session, ids)
        found += [
            _view(row, (*groups[row.id], EVERYONE), components[row.id], pins[row.id], otas[row.id]) for row in some
        ]
    return tuple(found)


def _view(
    row: DeviceRow,
    groups: tuple[str, ...],
    components: Sequence[ComponentState],
    pins: Sequence[PinView],
    otas: Sequence[OtaView],
) -> DeviceView:
    state = structure(row.state, DeviceState) if row.state else None
    return DeviceView(
        device_id=row.id,
        product=row.product,
        hardware_model=row.hardware_model,
        agent_version=row.agent_version,
        attributes=row.attributes,
        groups=groups,
        online=row.online,
        session=row.session,
        last_seen_at_ms=row.last_seen_at_ms,
        registered_at_ms=row.registered_at_ms,
        phase=state.phase if state else Phase.IDLE,
        components=tuple(components),
        availability=state.availability if state else Availability(),
        pending=state.pending if state else (),
        progress=state.progress if state else None,
        failed=state.failed if state else (),
        refused=state.refused if state else {},
        pins=tuple(pins),
        otas=tuple(otas),
        root_version=row.root_version,
        journal_id=row.journal_id,
        journal_through=row.ack_through,
        revoked_at_ms=row.revoked_at_ms,
    )


def _groups(session: Session, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the groups of devices in rank order, `everyone` apart."""
    query = (
        select(MembershipRow.device_id, MembershipRow.group_name)
        .join(
            GroupRow,
            (col(GroupRow.product) == col(MembershipRow.product))
            & (col(GroupRow.name) == col(MembershipRow.group_name)),
        )
        .where(col(MembershipRow.device_id).in_(ids))
        .order_by(col(GroupRow.rank), col(GroupRow.name))
    )
    found: dict[str, list[str]] = defaultdict(list)
    for device_id, group in session.exec(query):
        found[device_id].append(group)
    return found


def _components(session: Session, ids: Sequence[str]) -> dict[str, list[ComponentState]]:
    query = select(ComponentRow).where(col(ComponentRow.device_id).in_(ids)).order_by(col(ComponentRow.component))
    found: dict[str, list[ComponentState]] = defaultdict(list)
    for row in session.exec(query):
        state = ComponentState(component=row.component, version=row.version, build=row.build, digest=row.digest)
        found[row.device_id].append(state)
    return found


def _pins(session: Session, ids: Sequence[str]) -> dict[str, list[PinView]]:
    query = (
        select(PinRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(PinRow.firmware_id))
        .where(col(PinRow.device_id).in_(ids))
        .order_by(col(PinRow.component))
    )
    found: dict[str, list[PinView]] = defaultdict(list)
    for pin, firmware in session.exec(query):
        found[pin.device_id].append(pin_view(pin, firmware))
    return found


def pin_view(pin: PinRow, firmware: FirmwareRow) -> PinView:
    """Return a pin as others see it."""
    return PinView(
        component=pin.component,
        version=firmware.version,
        digest=firmware.digest,
        pinned_at_ms=pin.pinned_at_ms,
        pinned_by=pin.pinned_by,
    )


def _otas(session: Session, ids: Sequence[str]) -> dict[str, list[OtaView]]:
    query = select(OtaRow).where(col(OtaRow.device_id).in_(ids), col(OtaRow.in_force).is_(True))
    found: dict[str, list[OtaView]] = defaultdict(list)
    for row in session.exec(query.order_by(col(OtaRow.decision).desc())):
        found[row.device_id].append(ota_view(session, row))
    return found
