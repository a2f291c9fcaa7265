"""What may be asked on the control socket (docs/control-socket.md): a frozen value per operation, decoded strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.codec import decode_json, structure
from protocol.errors import FleetliftError, IdentityError, MessageError
from protocol.identity import MAX_INTEGER, check_id
from protocol.values import check_number

MAX_LINE_BYTES: Final = 8 * 1024
MAX_TEXT_LENGTH: Final = 200
MAX_TTL_S: Final = 86_400
DEFAULT_TTL_S: Final = 3_600
MAX_DISABLED_S: Final = 10 * 366 * 86_400
MAX_DEFERRED_S: Final = 366 * 86_400
SCOPES: Final = frozenset({"download", "install", "restart"})
"""What a hold can make wait: fetching an image, writing it to its slot, starting it in place of the one that runs."""
DEFAULT_SCOPE: Final = frozenset({"install", "restart"})


class ControlError(FleetliftError):
    """The control socket cannot be served, or a request on it is refused; `code` is what the peer is told."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStatus:
    """Tell the whole state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Tell the whole state, and every event from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """Start no update for `until_s` seconds from now, or until enabled."""

    until_s: int | None = None
    why: str = ""

    def __post_init__(self) -> None:
        _check_text("why", self.why)
        if self.until_s is not None and not 1 <= self.until_s <= MAX_DISABLED_S:
            raise MessageError(f"until_s is 1 to {MAX_DISABLED_S} seconds from now, or left out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enable:
    """Undo `Disable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeHold:
    """Make updates wait, for as long as this connection and `ttl_s` last."""

    why: str
    scope: frozenset[str] = DEFAULT_SCOPE
    ttl_s: int = DEFAULT_TTL_S

    def __post_init__(self) -> None:
        _check_text("why", self.why)
        if not self.why.strip():
            raise MessageError("why is empty: say for whom or what updates wait")
        if not self.scope or not self.scope <= SCOPES:
            raise MessageError(f"scope lists one or more of {', '.join(sorted(SCOPES))}")
        _check_ttl(self.ttl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewHold:
    """Let this connection's hold last `ttl_s` from now."""

    hold: str
    ttl_s: int = DEFAULT_TTL_S

    def __post_init__(self) -> None:
        _check_ttl(self.ttl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """End this connection's hold."""

    hold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Ask the cloud now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """The application finds the version on trial good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The application is ready: install what is downloaded, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSynced:
    """The application's data is synced and rests, so that its schema may change; or (false) not any more."""

    synced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """The application tells a number that shows how it does; `component` where it is not the only one."""

    name: str
    value: int
    component: str | None = None

    def __post_init__(self) -> None:
        _check_component(self.name, "name")
        check_number(self.value, "value", -MAX_INTEGER)
        _check_component(self.component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Somebody at the device agrees to what asks for attention; `component` where it is not the only one."""

    component: str | None = None

    def __post_init__(self) -> None:
        _check_component(self.component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defer:
    """Somebody at the device puts it off."""

    seconds: int
    component: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= MAX_DEFERRED_S:
            raise MessageError(f"seconds is 1 to {MAX_DEFERRED_S}")
        _check_component(self.component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """Somebody at the device does not want it."""

    component: str | None = None

    def __post_init__(self) -> None:
        _check_component(self.component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Tell what is to be done about a component, or all of them, and every rule that says so."""

    component: str | None = None

    def __post_init__(self) -> None:
        _check_component(self.component)


Request = (
    ReportStatus | Subscribe | Disable | Enable | TakeHold | RenewHold | ReleaseHold | Check | Confirm | Ready
    | DataSynced | Gauge | Consent | Defer | Decline | Why
)  # fmt: skip

OPERATIONS: Final[Mapping[str, type[Request]]] = {
    "status": ReportStatus,
    "subscribe": Subscribe,
    "disable": Disable,
    "enable": Enable,
    "hold": TakeHold,
    "renew": RenewHold,
    "release": ReleaseHold,
    "check": Check,
    "confirm": Confirm,
    "ready": Ready,
    "data_synced": DataSynced,
    "gauge": Gauge,
    "consent": Consent,
    "defer": Defer,
    "decline": Decline,
    "why": Why,
}


def decode_line(line: bytes | None) -> dict[str, Any]:
    """Return a line's fields; raises ControlError `bad_json`, or `too_long` for the None in place of such a line."""
    if line is None:
        raise ControlError(f"a line has at most {MAX_LINE_BYTES} bytes", code="too_long")
    try:
        return decode_json(line, "request", max_bytes=MAX_LINE_BYTES)
    except MessageError as error:
        raise ControlError(str(error), code="bad_json") from error


def decode_id(fields: Mapping[str, Any]) -> int | None:
    """Return the number by which the peer knows its request; raises ControlError `bad_value`."""
    request_id = fields.get("id")
    if request_id is not None and type(request_id) is not int:
        raise ControlError("id is a whole number, or left out", code="bad_value")
    return request_id


def decode_request(fields: Mapping[str, Any]) -> Request:
    """Return what is asked; raises ControlError `unknown_op`, `unknown_field` or `bad_value`.

    A field that is not known is refused, for who sends it counts on it: a hold without its scope would be another.
    """
    operation = fields.get("op")
    kind = OPERATIONS.get(operation) if isinstance(operation, str) else None
    if kind is None:
        raise ControlError(f"op is one of {', '.join(OPERATIONS)}, not {operation!r:.40}", code="unknown_op")
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := fields.keys() - known - {"op", "id"}:
        raise ControlError(f"{operation} takes no field {min(unknown)!r:.40}", code="unknown_field")
    try:
        return structure({name: value for name, value in fields.items() if name in known}, kind)
    except MessageError as error:
        raise ControlError(str(error), code="bad_value") from error


def _check_text(name: str, text: str) -> None:
    # Printable, for it ends on terminals.
    if len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        raise MessageError(f"{name} has at most {MAX_TEXT_LENGTH} characters, all printable")


def _check_component(name: str | None, what: str = "component") -> None:
    if name is not None:
        try:
            check_id(name, what)
        except IdentityError as error:
            raise MessageError(str(error)) from error


def _check_ttl(ttl_s: int) -> None:
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise MessageError(f"ttl_s is 1 to {MAX_TTL_S} seconds")
