"""How a device with an identity connects: contexts for the broker and for the server, made anew for each connection."""

from __future__ import annotations

from collections.abc import Callable

from device_agent.clock import DeviceClock
from device_agent.identity.store import IdentityFilesError, IdentityStore
from device_agent.tls import DeviceContext, TlsError, verifying_context


class IdentityAccess:
    """Makes contexts from what the store holds at that moment; all raise TlsError."""

    def __init__(self, store: IdentityStore, clock: DeviceClock) -> None:
        self._store = store
        self._clock = clock

    def broker(self) -> DeviceContext:
        """Return a context for the broker: with the device's certificate."""
        try:
            identity = self._store.load()
            if identity is None:
                raise TlsError(f"{self._store.directory} has no identity; do `fleetlift-agent enrol` first")
            return verifying_context(self._store.authorities(), self._clock, self._store.pair(identity))
        except IdentityFilesError as error:
            raise TlsError(str(error)) from error

    def server(self) -> DeviceContext:
        """Return a context for the server: it knows the device by what it signs, not by its certificate."""
        try:
            return verifying_context(self._store.authorities(), self._clock)
        except IdentityFilesError as error:
            raise TlsError(str(error)) from error


def device_clock(store: IdentityStore | None, refreshed_at_s: Callable[[], float]) -> DeviceClock:
    """Return the clock of a device: its floor is its certificate's begin, and when its metadata was refreshed last."""

    def floor() -> float:
        try:
            identity = None if store is None else store.load()
        except IdentityFilesError:
            identity = None
        return max(refreshed_at_s(), identity.not_before_ms / 1000 if identity else 0.0)

    return DeviceClock(floor)
