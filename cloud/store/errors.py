"""The store's errors; whoever reads one is told what was not changed.

StoreError                  the database cannot be used, or was asked for something impossible (exit 1, HTTP 500)
├── InvalidError            a value that is not one: a percentage of 0, a name that is no id (exit 2, HTTP 422)
├── NotFoundError           no such product, group, device, firmware, release (exit 1, HTTP 404)
├── ConflictError           it exists already, or the state of things forbids it (exit 5, HTTP 409)
├── UnavailableError        the database cannot be reached now; it may be later (exit 1, HTTP 503)
└── RefusedError            a device is not let in; its `code` says why (HTTP 403, mostly)
"""

from __future__ import annotations

from protocol.errors import FleetliftError


class StoreError(FleetliftError):
    """The database cannot be used, or was asked for something impossible."""

    code = "store_error"


class InvalidError(StoreError):
    """A value that is not one; nothing was changed."""

    code = "invalid"


class NotFoundError(StoreError):
    """There is no such thing; nothing was changed."""

    code = "not_found"


class ConflictError(StoreError):
    """It exists already, or the state of things forbids it; nothing was changed."""

    code = "conflict"


class UnavailableError(StoreError):
    """The database cannot be reached now."""

    code = "database_unavailable"


class RefusedError(StoreError):
    """A device is not let in, or not any more; nothing was changed. `code` is what it is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
