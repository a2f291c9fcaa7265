"""A fleet that another tool knew: devices, groups, attributes and installed versions, all of a batch or none.

What a device says of itself goes before what a file says of it: versions are taken for devices that never said hello,
attributes where the device states none of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlmodel import Session, col, select

from cloud.models import ComponentRow, DeviceRow, FirmwareRow, GroupRow
from cloud.store.attributes import set_attributes
from cloud.store.audit import audit
from cloud.store.devices import register
from cloud.store.dynamic_groups import follow_facts
from cloud.store.engine import Change, Database
from cloud.store.enrolment import check_hardware
from cloud.store.errors import StoreError
from cloud.store.groups import add_member, insert_at, ranked, regrouped
from cloud.store.lookup import checking, product_row
from protocol.identity import EVERYONE, check_digest, check_id, check_version
from protocol.values import check_text

UNKNOWN_DIGEST: Final = "0" * 64
"""Stands for an image that nobody here has seen: no firmware has it, so every firmware is another."""


@dataclass(frozen=True, slots=True)
class KnownImage:
    """What is installed of a component, as far as a file says."""

    version: str
    build: int | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """A device of a file, and its line there. None leaves a thing as it is; no model is the product's only one."""

    line: int
    device_id: str
    product: str
    hardware_model: str | None = None
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, str] | None = None
    installed: Mapping[str, KnownImage] | None = None


@dataclass(frozen=True, slots=True)
class LineNote:
    """Why a line is wrong."""

    line: int
    why: str


@dataclass(slots=True, kw_only=True)
class ImportOutcome:
    """What an import did, or would do; if a line is wrong it did nothing. Groups are `product/group`.

    `unknown_images` counts the devices by what they run that no firmware here is (`product/component version`): their
    digests are unknown until they say them.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    groups_made: list[str] = field(default_factory=list)
    wrong: list[LineNote] = field(default_factory=list)
    unknown_images: dict[str, int] = field(default_factory=dict)


class _UndoneError(StoreError):
    """Takes back everything of an import that is not to be."""


class Importing:
    """Fleets from files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def import_fleet(self, devices: Sequence[KnownDevice], *, dry_run: bool = False, by: str) -> ImportOutcome:
        """Make devices known, or say which lines are wrong and change nothing; the same again changes nothing."""
        outcome = ImportOutcome()
        try:
            with self._database.changing() as change:
                made = _Import(change, outcome, by)
                for device in devices:
                    made.take(device)
                made.finish()
                made.undo_unless(not outcome.wrong and not dry_run)
        except _UndoneError:
            pass
        return outcome


class _Import:
    """One import under way, within one transaction."""

    def __init__(self, change: Change, outcome: ImportOutcome, by: str) -> None:
        self._change, self._outcome, self._by = change, outcome, by
        self._session: Session = change.session
        self._regrouped: dict[str, list[str]] = {}

    def take(self, device: KnownDevice) -> None:
        """Take one device, or note why its line is wrong: it is in the way of the whole import then."""
        try:
            with self._session.begin_nested():
                self._take(device)
        except StoreError as error:
            why = str(error).removesuffix("; nothing was changed")
            self._outcome.wrong.append(LineNote(device.line, why))

    def finish(self) -> None:
        """Have devices told of their groups, and note the import."""
        for product, device_ids in self._regrouped.items():
            regrouped(self._change, product, device_ids)
        outcome = self._outcome
        if outcome.new or outcome.changed:
            after = {"new": outcome.new, "changed": outcome.changed, "groups": outcome.groups_made}
            audit(self._change, self._by, "fleet.imported", "fleet/import", after=after)

    @staticmethod
    def undo_unless(to_be: bool) -> None:
        """Leave the transaction by an error, which takes everything back, unless it is to be."""
        if not to_be:
            raise _UndoneError("not to be")

    def _take(self, device: KnownDevice) -> None:
        _check(device)
        known = product_row(self._session, device.product).hardware_models
        row = self._session.get(DeviceRow, device.device_id)
        model = device.hardware_model or (row.hardware_model if row else known[0] if len(known) == 1 else None)
        if model is None:
            raise StoreError(f"no hardware model: product {device.product} has several ({', '.join(known)})")
        check_hardware(known, model, device.product)
        is_new = row is None
        if row is None:
            row = register(self._change, device.device_id, device.product, model, by=self._by)
        elif row.product != device.product:
            raise StoreError(f"device {row.id} is of another product here")
        elif row.hardware_model != model:
            raise StoreError(f"device {row.id} is a {row.hardware_model} here")
        moved = self._take_attributes(row, device)
        moved = self._take_installed(row, device) or moved
        moved = self._take_groups(row, device) or moved
        follow_facts(self._change, row)
        if is_new:
            self._outcome.new += 1
        elif moved:
            self._outcome.changed += 1
        else:
            self._outcome.unchanged += 1

    def _take_attributes(self, row: DeviceRow, device: KnownDevice) -> bool:
        if device.attributes is None or dict(device.attributes) == row.noted_attributes:
            return False
        own = {name: value for name, value in row.attributes.items() if row.noted_attributes.get(name) != value}
        row.noted_attributes = dict(device.attributes)
        set_attributes(self._change, row, row.noted_attributes | own)
        self._session.add(row)
        return True

    def _take_installed(self, row: DeviceRow, device: KnownDevice) -> bool:
        if device.installed is None or row.state is not None:
            return False
        query = select(ComponentRow).where(col(ComponentRow.device_id) == row.id)
        stored = {it.component: it for it in self._session.exec(query)}
        before = {name: (it.version, it.build, it.digest) for name, it in stored.items()}
        after = {}
        for name, image in device.installed.items():
            component = stored.pop(name, None) or ComponentRow(
                device_id=row.id, component=name, version="", build=0, digest=""
            )
            self._fill(component, device, image)
            after[name] = (component.version, component.build, component.digest)
            self._session.add(component)
        for gone in stored.values():
            self._session.delete(gone)
        self._session.flush()
        return before != after

    def _fill(self, component: ComponentRow, device: KnownDevice, image: KnownImage) -> None:
        """Fill a component's row with what the file says, and what the firmware of that version says."""
        what = f"{component.component} {image.version}"
        query = select(FirmwareRow).where(
            col(FirmwareRow.product) == device.product,
            col(FirmwareRow.component) == component.component,
            col(FirmwareRow.version) == image.version,
        )
        firmware = self._session.exec(query).first()
        if firmware is not None and image.digest not in (None, firmware.digest):
            raise StoreError(f"firmware {what} has digest {firmware.digest} here, and the file says {image.digest}")
        if firmware is not None and image.build not in (None, firmware.build):
            raise StoreError(f"firmware {what} is build {firmware.build} here, and the file says {image.build}")
        component.version = image.version
        component.build = firmware.build if firmware else image.build or 0
        component.digest = firmware.digest if firmware else image.digest or UNKNOWN_DIGEST
        component.requires = dict(firmware.requires.get("components", {})) if firmware else {}
        component.data_schema = firmware.data_schema if firmware else 0
        if component.digest == UNKNOWN_DIGEST:
            unknown = self._outcome.unknown_images
            unknown[f"{device.product}/{what}"] = unknown.get(f"{device.product}/{what}", 0) + 1

    def _take_groups(self, row: DeviceRow, device: KnownDevice) -> bool:
        joined = False
        for name in dict.fromkeys(device.groups):
            if name == EVERYONE:
                continue
            group = self._session.get(GroupRow, (device.product, name))
            if group is None:
                group = GroupRow(product=device.product, name=name, rank=0, created_at_ms=self._change.now_ms)
                order = ranked(self._session, device.product)
                insert_at(self._change, order, group, len(order) + 1)
                audit(self._change, self._by, "group.created", f"group/{device.product}/{name}")
                self._outcome.groups_made.append(f"{device.product}/{name}")
            elif group.query is not None:
                raise StoreError(f"the devices of group {name} follow from a query ({group.query}): none is put in")
            joined = add_member(self._change, device.product, name, row.id) or joined
        if joined:
            self._regrouped.setdefault(device.product, []).append(row.id)
        return joined


def _check(device: KnownDevice) -> None:
    with checking():
        check_id(device.device_id, "device")
        check_id(device.product, "product")
        for group in device.groups:
            check_id(group, "group")
        for name, value in (device.attributes or {}).items():
            check_text(name, "an attribute's name", 64)
            check_text(value, f"attributes.{name}", 200)
        for name, image in (device.installed or {}).items():
            check_id(name, "component")
            check_version(image.version, f"the version of {name}")
            if image.digest is not None:
                check_digest(image.digest, f"the digest of {name}")
