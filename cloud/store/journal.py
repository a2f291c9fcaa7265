"""What devices tell: hello, state, presence and the numbered journal of their attempts, applied exactly once."""

from __future__ import annotations

from cloud.fleet import AttemptFilter, AttemptView, HelloAnswer
from cloud.store.engine import Database
from protocol.up import DeviceState, Hello, Presence, Report


class Journal:
    """Hello, state, presence, reports, attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive_hello(self, device_id: str, hello: Hello, *, open_joining: bool = True) -> HelloAnswer:
        """Store who the device is and how it stands; register it if it is new and joining is open.

        Refusals (nothing stored): `unknown_product`, `other_product` (it is registered as another one),
        `unknown_device` (joining is closed), `stale_hello` (of a session before the current one).
        """
        raise NotImplementedError

    def receive_state(self, device_id: str, state: DeviceState) -> bool:
        """Store how the device stands; False if it is unknown, or the state is not newer than what is stored."""
        raise NotImplementedError

    def receive_presence(self, device_id: str, presence: Presence) -> bool:
        """Store whether the device is connected; False if it is unknown, or this is of an earlier session."""
        raise NotImplementedError

    def receive_report(self, device_id: str, report: Report) -> int | None:
        """Apply the entries that come next and return the number through which all is stored; None if unknown.

        Entries already stored are passed over; after a gap nothing is applied, and the number tells where it begins.
        """
        raise NotImplementedError

    def attempts(self, which: AttemptFilter) -> tuple[AttemptView, ...]:
        """Return attempts without their steps, newest first."""
        raise NotImplementedError

    def history(self, device_id: str, *, limit: int = 50) -> tuple[AttemptView, ...]:
        """Return a device's attempts with their steps, newest first; NotFoundError."""
        raise NotImplementedError
