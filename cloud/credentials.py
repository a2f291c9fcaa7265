"""Frozen values of enrolment: tokens, certificates, and what is revoked. Times are milliseconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloud.pki.authorities import RevokedCertificate
from cloud.store.errors import InvalidError
from protocol.errors import IdentityError
from protocol.identity import check_digest, check_id
from protocol.values import MAX_GROUPS

HOUR_S: Final = 3600
DEFAULT_LIFETIME_S: Final = 24 * HOUR_S
MAX_LIFETIME_S: Final = 365 * 24 * HOUR_S
MAX_USES: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDraft:
    """An enrolment token that is to be made, known by the SHA-256 of its text; checks itself, raises InvalidError.

    `hardware_model` and `device_id` are None for any. One that is bound to a device may enrol it again, however often
    it has uses left; any other makes new devices only.
    """

    sha256: str
    product: str
    hardware_model: str | None = None
    device_id: str | None = None
    groups: tuple[str, ...] = ()
    uses: int = 1
    lifetime_s: int = DEFAULT_LIFETIME_S
    name: str | None = None

    def __post_init__(self) -> None:
        try:
            check_digest(self.sha256, "token")
            for what, value in (("hardware model", self.hardware_model), ("device", self.device_id)):
                if value is not None:
                    check_id(value, what)
            if self.name is not None:
                check_id(self.name, "token name")
        except IdentityError as error:
            raise InvalidError(f"{error}; nothing was changed") from None
        if not 1 <= self.uses <= MAX_USES:
            raise InvalidError(f"a token has 1 to {MAX_USES} uses, not {self.uses}; nothing was changed")
        if not 1 <= self.lifetime_s <= MAX_LIFETIME_S:
            raise InvalidError(f"a token is good for 1 s to {MAX_LIFETIME_S} s (a year); nothing was changed")
        if len(self.groups) >= MAX_GROUPS:
            raise InvalidError(f"a device is in {MAX_GROUPS - 1} groups at most; nothing was changed")

    @property
    def chosen_name(self) -> str:
        """Its name, or one that follows from its hash."""
        return self.name or f"t-{self.sha256[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDraft:
    """A device that is to be made known; `token_sha256` enrols it, `line` is where an operator's file names it."""

    device_id: str
    hardware_model: str
    groups: tuple[str, ...] = ()
    token_sha256: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenView:
    """An enrolment token, but for its text, which nobody keeps."""

    name: str
    product: str
    hardware_model: str | None
    device_id: str | None
    groups: tuple[str, ...]
    uses_left: int
    max_uses: int
    expires_at_ms: int
    created_at_ms: int
    created_by: str
    revoked_at_ms: int | None
    good: bool
    """Whether it can be used now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """A device's certificate; `serial` in hexadecimal, `authority` by name, `pem` the certificate itself.

    `token` names what the device enrolled with; None is for one that a renewal gave.
    """

    serial: str
    device_id: str
    product: str
    authority: str
    key_sha256: str
    token: str | None
    not_before_ms: int
    not_after_ms: int
    issued_at_ms: int
    superseded_at_ms: int | None
    revoked_at_ms: int | None
    pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """What the broker is to refuse: certificates that are not past anyway, and whole devices."""

    certificates: tuple[RevokedCertificate, ...]
    device_ids: tuple[str, ...]
