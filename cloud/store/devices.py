"""Devices: who they are, how they stand, and what was decided for one of them alone (pins, single-device OTAs)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlmodel import Session, col, select

from cloud.fleet import DeviceFilter, DeviceView, FleetView, OtaStatus, OtaView, PinView
from cloud.models import ChannelRow, ComponentRow, DeviceRow, FirmwareRow, OtaRow, PinRow
from cloud.planner import components_of
from cloud.store import device_lists
from cloud.store.assigned import assignments
from cloud.store.audit import audit
from cloud.store.device_views import device_views, pin_view
from cloud.store.dynamic_groups import follow_facts
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.groups import add_to_groups
from cloud.store.lookup import batches, checking, device_row, firmware_row, group_row, ota_row, product_row
from cloud.store.otas import close, ota_view, tell
from cloud.store.situations import channels_of, floors_of, ids_of, situations
from protocol.down import Desired
from protocol.identity import check_id
from protocol.manifest import ANY_HARDWARE
from protocol.selection import Decision
from protocol.selection import select as decide
from protocol.values import Urgency


class Devices:
    """Devices, pins and OTAs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, device_id: str, *, product: str, hardware_model: str, groups: Sequence[str] = (), by: str
    ) -> DeviceView:
        """Make a device known before its first hello; ConflictError if it is."""
        with self._database.changing() as change:
            if change.session.get(DeviceRow, device_id) is not None:
                raise ConflictError(f"device {device_id} is registered already; nothing was changed")
            row = register(change, device_id, product, hardware_model, by=by)
            add_to_groups(change, product, device_id, groups)
            return device_views(change.session, [row])[0]

    def devices(self, which: DeviceFilter = DeviceFilter()) -> tuple[DeviceView, ...]:  # noqa: B008 - frozen
        """Return a page of devices by id."""
        with self._database.reading() as session:
            ids = device_lists.page(session, which, self._database.now_ms())
            return tuple(view for some in batches(ids) for view in device_views(session, _rows(session, some)))

    def ids(self, which: DeviceFilter = DeviceFilter()) -> tuple[str, ...]:  # noqa: B008 - frozen
        """Return the ids of a page of devices."""
        with self._database.reading() as session:
            return tuple(device_lists.page(session, which, self._database.now_ms()))

    def near(self, device_id: str, *, count: int = 1000) -> tuple[str, ...]:
        """Return the ids that stand next to one in the alphabet, before it and after it: what it may have meant."""
        of = col(DeviceRow.id)
        before = select(DeviceRow.id).where(of < device_id).order_by(of.desc()).limit(count)
        after = select(DeviceRow.id).where(of > device_id).order_by(of).limit(count)
        with self._database.reading() as session:
            return (*session.exec(before), *session.exec(after))

    def count(self, which: DeviceFilter = DeviceFilter()) -> int:  # noqa: B008 - frozen
        """Return how many devices there are on all pages."""
        with self._database.reading() as session:
            return device_lists.count(session, which, self._database.now_ms())

    def device(self, device_id: str) -> DeviceView:
        """Return one device; NotFoundError."""
        with self._database.reading() as session:
            return device_views(session, [device_row(session, device_id)])[0]

    def product_of(self, device_id: str) -> str:
        """Return a device's product; NotFoundError."""
        with self._database.reading() as session:
            return device_row(session, device_id).product

    # Decided for one device

    def pin(self, device_id: str, component: str, version: str, *, by: str) -> PinView:
        """Lock a device to a version; ConflictError for firmware unpublished, below the floor or of other hardware.

        An OTA of that component is superseded.
        """
        with self._database.changing() as change:
            device, firmware = _suitable(change.session, device_id, component, version)
            if put_pins(change, [device.id], firmware, by=by):
                audit(change, by, "device.pinned", f"device/{device_id}", after={component: version})
            return pin_view(change.session.get_one(PinRow, (device_id, component)), firmware)

    def unpin(self, device_id: str, component: str, *, by: str) -> None:
        """Unlock a device; NotFoundError if it was not locked."""
        with self._database.changing() as change:
            device_row(change.session, device_id)
            row = change.session.get(PinRow, (device_id, component))
            if row is None:
                raise NotFoundError(f"device {device_id} is not locked to a version of {component!r:.80}")
            firmware = change.session.get_one(FirmwareRow, row.firmware_id)
            change.session.delete(row)
            audit(change, by, "device.unpinned", f"device/{device_id}", before={component: firmware.version})
            tell(change, [device_id])

    def create_ota(
        self,
        device_id: str,
        component: str,
        version: str,
        *,
        by: str,
        urgency: Urgency = Urgency.IMMEDIATE,
        forced: bool = False,
    ) -> OtaView:
        """Decide a firmware for one device, superseding its earlier OTA of that component; ConflictError if pinned.

        One to what the device runs already has succeeded at once, and holds it there.
        """
        with self._database.changing() as change:
            device, firmware = _suitable(change.session, device_id, component, version)
            if change.session.get(PinRow, (device_id, component)) is not None:
                raise ConflictError(f"device {device_id} is locked to a version of {component}; unlock it first")
            (row,) = put_otas(change, [device.id], firmware, urgency=urgency, forced=forced, by=by)
            after = {"device": device_id, component: version, "urgency": urgency.value, "forced": forced}
            audit(change, by, "ota.created", f"ota/{row.id}", after=after)
            return ota_view(change.session, row)

    def cancel_ota(self, ota_id: str, *, by: str) -> OtaView:
        """Stop wanting an OTA; ConflictError if it is not in force any more."""
        with self._database.changing() as change:
            row = ota_row(change.session, ota_id)
            if not row.in_force:
                raise ConflictError(f"OTA {ota_id} is {row.status} and not in force any more; nothing was changed")
            close(change, row, OtaStatus.CANCELLED, f"cancelled by {by}", by=by)
            return ota_view(change.session, row)

    def ota(self, ota_id: str) -> OtaView:
        """Return one OTA; NotFoundError."""
        with self._database.reading() as session:
            return ota_view(session, ota_row(session, ota_id))

    def otas(self, device_id: str) -> tuple[OtaView, ...]:
        """Return a device's OTAs, newest first; NotFoundError."""
        query = select(OtaRow).where(col(OtaRow.device_id) == device_id).order_by(col(OtaRow.decision).desc())
        with self._database.reading() as session:
            device_row(session, device_id)
            return tuple(ota_view(session, row) for row in session.exec(query))

    # What it is to follow

    def desired_for(self, device_id: str, session: int = 0) -> Desired:
        """Return what the device is to follow, under a new sequence number, to be signed; NotFoundError.

        `metadata_version` is 0: who knows the metadata fills it in.
        """
        with self._database.changing() as change:
            return next_desired(change, device_row(change.session, device_id), session)

    def decide(self, device_id: str) -> tuple[Decision, ...]:
        """Return, per component, what the device should do and every step that led there; NotFoundError."""
        view = self.alone(device_id)
        (device,), now_ms = view.devices, view.now_ms
        names = components_of(view.channels, device)
        return tuple(decide(device.facts, device.assignment, view.channels, name, now_ms=now_ms) for name in names)

    def alone(self, device_id: str) -> FleetView:
        """Return what the planner sees of one device and the channels of its groups; NotFoundError."""
        with self._database.reading() as session:
            product = device_row(session, device_id).product
            devices = situations(session, product, ids_of(product, device_ids=[device_id]))
            channels = channels_of(session, product, devices[0].assignment.groups)
            return FleetView(product=product, channels=channels, devices=devices, now_ms=self._database.now_ms())

    def fleet(self, product: str, group: str | None = None) -> FleetView:
        """Return what the planner sees of a product's devices, or of one group's; NotFoundError."""
        with self._database.reading() as session:
            product_row(session, product)
            if group is not None:
                group_row(session, product, group)
            devices = situations(session, product, ids_of(product, group=group))
            channels = channels_of(session, product)
            return FleetView(product=product, channels=channels, devices=devices, now_ms=self._database.now_ms())


def _rows(session: Session, ids: Sequence[str]) -> Sequence[DeviceRow]:
    return session.exec(select(DeviceRow).where(col(DeviceRow.id).in_(ids)).order_by(col(DeviceRow.id))).all()


def register(change: Change, device_id: str, product: str, hardware_model: str, *, by: str) -> DeviceRow:
    """Make a new device known, within somebody else's transaction; raises InvalidError and NotFoundError."""
    with checking():
        check_id(device_id, "device")
        check_id(hardware_model, "hardware model")
    product_row(change.session, product)
    row = DeviceRow(id=device_id, product=product, hardware_model=hardware_model, registered_at_ms=change.now_ms)
    change.session.add(row)
    change.session.flush()
    after = {"product": product, "hardware_model": hardware_model}
    audit(change, by, "device.registered", f"device/{device_id}", after=after)
    follow_facts(change, row)
    return row


def next_desired(change: Change, row: DeviceRow, session: int) -> Desired:
    """Return what a device is to follow, under its next sequence number, within somebody else's transaction."""
    row.desired_seq = max(row.desired_seq + 1, change.now_ms)
    change.session.add(row)
    change.session.flush()
    assigned = assignments(change.session, row.product, ids_of(row.product, device_ids=[row.id]))[row.id]
    channels = select(ChannelRow).where(
        col(ChannelRow.product) == row.product, col(ChannelRow.group_name).in_(assigned.groups)
    )
    notices = {f"{it.group_name}/{it.component}": it.notice_seq for it in change.session.exec(channels)}
    return Desired(
        device_id=row.id,
        seq=row.desired_seq,
        session=session,
        issued_at_ms=change.now_ms,
        product=row.product,
        groups=assigned.groups,
        pins=assigned.pins,
        otas=assigned.otas,
        ota_enabled=assigned.ota_enabled,
        base_only=assigned.base_only,
        takes_turns=assigned.takes_turns,
        turn=assigned.turn,
        notices=dict(sorted(notices.items())),
    )


def releasable(session: Session, product: str, component: str, version: str) -> FirmwareRow:
    """Return a firmware that devices may be told to run; NotFoundError, ConflictError (unpublished, too old)."""
    firmware = firmware_row(session, product, component, version)
    if firmware.published_at_ms is None:
        raise ConflictError(f"firmware {component} {version} is not published yet; nothing was changed")
    floor = floors_of(session, product).get(component, 0)
    if firmware.seq < floor:
        raise ConflictError(f"firmware {component} {version} is below the signed floor {floor}; nothing was changed")
    return firmware


def fits(firmware: FirmwareRow, device: DeviceRow) -> bool:
    """Tell whether a firmware is for a device's hardware."""
    return ANY_HARDWARE in firmware.hardware_models or device.hardware_model in firmware.hardware_models


def put_otas(  # within somebody else's transaction
    change: Change, device_ids: Sequence[str], firmware: FirmwareRow, *, urgency: Urgency, forced: bool, by: str
) -> list[OtaRow]:
    """Decide a firmware for devices, and return the decisions; not for one that is locked, nor audited here."""
    _supersede(change, device_ids, firmware.component, f"a later OTA to {firmware.version} was decided")
    running = select(ComponentRow.device_id).where(
        col(ComponentRow.device_id).in_(device_ids),
        col(ComponentRow.component) == firmware.component,
        col(ComponentRow.digest) == firmware.digest,
    )
    there = set(change.session.exec(running))
    first = change.next_number("decision", len(device_ids)) - len(device_ids) + 1
    rows = []
    for number, device_id in enumerate(device_ids, first):
        row = OtaRow(
            id=f"ota-{secrets.token_hex(6)}",
            device_id=device_id,
            component=firmware.component,
            firmware_id=firmware.id or 0,
            decision=number,
            urgency=urgency.value,
            forced=forced,
            created_at_ms=change.now_ms,
            created_by=by,
        )
        if device_id in there:
            row.status, row.detail = OtaStatus.SUCCEEDED.value, "the device runs it already"
            row.closed_at_ms = change.now_ms
        rows.append(row)
    change.session.add_all(rows)
    change.session.flush()
    tell(change, device_ids)
    return rows


def put_pins(change: Change, device_ids: Sequence[str], firmware: FirmwareRow, *, by: str) -> list[PinRow]:
    """Lock devices to a firmware, within somebody else's transaction; return the locks that are new, not audited."""
    query = select(PinRow).where(col(PinRow.device_id).in_(device_ids), col(PinRow.component) == firmware.component)
    there = {row.device_id: row for row in change.session.exec(query)}
    new = []
    for device_id in device_ids:
        row = there.get(device_id)
        if row is not None and row.firmware_id == firmware.id:
            continue
        row = row or PinRow(
            device_id=device_id, component=firmware.component, firmware_id=0, pinned_at_ms=0, pinned_by=""
        )
        row.firmware_id, row.pinned_at_ms, row.pinned_by = firmware.id or 0, change.now_ms, by
        change.session.add(row)
        new.append(row)
    change.session.flush()
    ids = [row.device_id for row in new]
    _supersede(change, ids, firmware.component, f"the device was locked to {firmware.version}")
    tell(change, ids)
    return new


def _suitable(session: Session, device_id: str, component: str, version: str) -> tuple[DeviceRow, FirmwareRow]:
    """Return a device and a firmware that it may be told to run; raises NotFoundError and ConflictError."""
    device = device_row(session, device_id)
    firmware = releasable(session, device.product, component, version)
    if not fits(firmware, device):
        raise ConflictError(
            f"firmware {component} {version} is not for hardware model {device.hardware_model} of device {device_id}; "
            "nothing was changed"
        )
    return device, firmware


def _supersede(change: Change, device_ids: Sequence[str], component: str, why: str) -> None:
    query = select(OtaRow).where(
        col(OtaRow.device_id).in_(device_ids), col(OtaRow.component) == component, col(OtaRow.in_force).is_(True)
    )
    for row in change.session.exec(query).all():
        close(change, row, OtaStatus.SUPERSEDED, why)
