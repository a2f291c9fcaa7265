"""Devices: who they are, how they stand, and what was decided for one of them alone (pins, single-device OTAs)."""

from __future__ import annotations

from collections.abc import Sequence

from cloud.fleet import DeviceFilter, DeviceView, FleetView, OtaView, PinView
from cloud.store.engine import Database
from protocol.down import Desired
from protocol.selection import Decision
from protocol.values import Urgency


class Devices:
    """Devices, pins and OTAs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, device_id: str, *, product: str, hardware_model: str, groups: Sequence[str] = (), by: str
    ) -> DeviceView:
        """Make a device known before its first hello; ConflictError if it is."""
        raise NotImplementedError

    def devices(self, which: DeviceFilter = DeviceFilter()) -> tuple[DeviceView, ...]:  # noqa: B008 - frozen
        """Return a page of devices by id."""
        raise NotImplementedError

    def count(self, which: DeviceFilter = DeviceFilter()) -> int:  # noqa: B008 - frozen
        """Return how many devices there are on all pages."""
        raise NotImplementedError

    def device(self, device_id: str) -> DeviceView:
        """Return one device; NotFoundError."""
        raise NotImplementedError

    def pin(self, device_id: str, component: str, version: str, *, by: str) -> PinView:
        """Lock a device to a version; ConflictError for firmware unpublished, below the floor or of other hardware."""
        raise NotImplementedError

    def unpin(self, device_id: str, component: str, *, by: str) -> None:
        """Unlock a device; NotFoundError if it was not locked."""
        raise NotImplementedError

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
        """Decide a firmware for one device, superseding its earlier OTA of that component; ConflictError if pinned."""
        raise NotImplementedError

    def cancel_ota(self, ota_id: str, *, by: str) -> OtaView:
        """Stop wanting an OTA; ConflictError if it is not in force any more."""
        raise NotImplementedError

    def ota(self, ota_id: str) -> OtaView:
        """Return one OTA; NotFoundError."""
        raise NotImplementedError

    def otas(self, device_id: str) -> tuple[OtaView, ...]:
        """Return a device's OTAs, newest first."""
        raise NotImplementedError

    def desired_for(self, device_id: str, session: int = 0) -> Desired:
        """Return what the device is to follow, under a new sequence number, to be signed; NotFoundError.

        `metadata_version` is 0: who knows the metadata fills it in.
        """
        raise NotImplementedError

    def decide(self, device_id: str) -> tuple[Decision, ...]:
        """Return, per component, what the device should do and every step that led there."""
        raise NotImplementedError

    def fleet(self, product: str, group: str | None = None) -> FleetView:
        """Return what the planner sees of a product's devices, or of one group's."""
        raise NotImplementedError
