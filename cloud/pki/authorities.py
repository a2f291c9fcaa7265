"""The fleet's two certificate authorities, each of which can be followed by another while devices change over.

    devices     signs the devices' client certificates, and nothing else
    services    signs the broker's and the API's server certificates, and the cloud's client certificate

One private directory holds `<kind>-<number>.crt` and `.key`; the certificate is written last and makes it one. A
retired authority leaves `<kind>-<number>.retired` behind, so that no number comes again. All others are trusted.

Which one signs differs. The broker learns of a new `devices` authority at once, so that signs from the first moment.
Devices learn of a new `services` authority when they renew, so the servers keep their certificates of the one before
until that is retired.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloud.durable import make_private_directory, write_durably
from cloud.key_files import NO_KEY_ERRORS
from cloud.pki.issuing import (
    DEVICE_LIFETIME,
    SERVICE_LIFETIME,
    key_pem,
    make_authority,
    make_certificate,
    make_revocation_list,
    new_key,
)
from cloud.pki.requests import CertificateError, key_sha256, read_request
from cloud.roles import utc_now
from protocol.errors import FleetliftError
from protocol.identity import check_id

Kind = Literal["devices", "services"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_AUTHORITIES: Final = 4
"""Of one kind at a time: devices are sent all of them."""


class AuthorityError(FleetliftError):
    """The authorities cannot do this; nothing was issued or changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityView:
    """A trusted authority. `sha256` is over its certificate's DER; `issuing` tells whether it signs what is new."""

    kind: Kind
    name: str
    sha256: str
    not_before: datetime
    not_after: datetime
    issuing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A change of authorities: all that are trusted since, newest first, and those that are no more."""

    trusted: tuple[AuthorityView, ...]
    retired: tuple[AuthorityView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A device's certificate; `key_sha256` is over the key's SubjectPublicKeyInfo."""

    pem: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    key_sha256: str
    authority: str


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """A certificate that is not to be taken any more, and the name of the authority that signed it."""

    serial: int
    authority: str
    revoked_at_ms: int


@dataclass(frozen=True, slots=True)
class _Authority:
    kind: Kind
    number: int
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


class Authorities:
    """Signs certificates and revocation lists. For all threads of one process."""

    def __init__(self, directory: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open the authorities in `directory`; raises AuthorityError where there are none, or one cannot be used."""
        self._directory, self._now, self._changing = directory, now, threading.Lock()
        self._trusted: dict[Kind, tuple[_Authority, ...]] = {kind: _load_all(directory, kind) for kind in KINDS}
        self._lists: dict[str, tuple[frozenset[RevokedCertificate], bytes]] = {}
        for kind, found in self._trusted.items():
            if not found:
                raise AuthorityError(f"{directory} has no authority for {kind}; `fleetlift init` makes one")

    @classmethod
    def create(cls, directory: Path, *, now: Callable[[], datetime] = utc_now) -> Self:
        """Make the first authority of each kind; raises AuthorityError if they are there (and leaves them alone)."""
        missing = [kind for kind in KINDS if not _numbers(directory, kind)]
        if not missing:
            raise AuthorityError(f"{directory} holds certificate authorities already; nothing was changed")
        try:
            make_private_directory(directory)
            for kind in missing:
                _make(directory, kind, 1, now())
        except OSError as error:
            raise AuthorityError(f"the authorities in {directory} could not be made: {error.strerror}") from error
        return cls(directory, now=now)

    def trusted(self, kind: Kind) -> bytes:
        """Return the certificates of all authorities of a kind that are trusted now, newest first, in PEM."""
        return b"".join(authority.pem for authority in self._trusted[kind])

    def views(self, kind: Kind) -> tuple[AuthorityView, ...]:
        """Return the authorities of a kind that are trusted now, newest first."""
        issuing = self._issuing(kind)
        return tuple(_view(authority, issuing=authority is issuing) for authority in self._trusted[kind])

    def rotate(self, kind: Kind) -> Rotation:
        """Make the next authority of a kind; those before it stay trusted. Raises AuthorityError."""
        with self._changing:
            if len(self._trusted[kind]) >= MAX_AUTHORITIES:
                raise AuthorityError(
                    f"there are {MAX_AUTHORITIES} authorities for {kind} already; retire the old ones first. "
                    "Nothing was changed"
                )
            number = max(_numbers(self._directory, kind)) + 1
            try:
                _make(self._directory, kind, number, self._now())
            except OSError as error:
                raise AuthorityError(
                    f"the next authority for {kind} could not be written: {error.strerror}; nothing was changed"
                ) from error
            self._trusted[kind] = (_load(self._directory, kind, number), *self._trusted[kind])
            return Rotation(trusted=self.views(kind))

    def retire(self, kind: Kind) -> Rotation:
        """Trust the newest authority of a kind alone and destroy the others' keys; raises AuthorityError.

        Whether somebody still needs them is for the caller to know.
        """
        with self._changing:
            newest, *old = self._trusted[kind]
            if not old:
                raise AuthorityError(f"there is one authority for {kind} only; rotate first. Nothing was changed")
            gone = tuple(_view(authority, issuing=False) for authority in old)
            try:
                for authority in old:
                    path = self._directory / authority.name
                    path.with_suffix(".crt").rename(path.with_suffix(".retired"))
                    path.with_suffix(".key").unlink(missing_ok=True)
            except OSError as error:
                self._trusted[kind] = _load_all(self._directory, kind)
                raise AuthorityError(
                    f"not every old authority for {kind} could be retired: {error.strerror}; try again"
                ) from error
            self._trusted[kind] = (newest,)
            return Rotation(trusted=self.views(kind), retired=gone)

    def issue_device(
        self, csr_pem: bytes, device_id: str, *, lifetime: timedelta = DEVICE_LIFETIME
    ) -> IssuedCertificate:
        """Return a certificate that names `device_id`, whatever the request says its subject is.

        Raises:
            CertificateError: the request is too long, malformed, not signed by its key, or its key is weak.
            IdentityError: `device_id` is not an id.
        """
        request = read_request(csr_pem)
        issuer = self._issuing("devices")
        certificate = make_certificate(
            issuer.certificate,
            issuer.key,
            request.key,
            check_id(device_id, "device"),
            server=False,
            now=self._now(),
            lifetime=lifetime,
        )
        return IssuedCertificate(
            pem=certificate.public_bytes(Encoding.PEM),
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            key_sha256=request.key_sha256,
            authority=issuer.name,
        )

    def issue_service(self, common_name: str, names: Sequence[str], *, server: bool) -> bytes:
        """Return a new key and its certificate in one PEM, for a server of these names or for a client.

        Raises CertificateError for a name that is neither a host's nor an IP address, and for a server without one.
        """
        if server and not names:
            raise CertificateError("a server's certificate needs a name that clients reach it by; nothing was issued")
        key, issuer = new_key(), self._issuing("services")
        certificate = make_certificate(
            issuer.certificate,
            issuer.key,
            key.public_key(),
            common_name,
            names=names,
            server=server,
            now=self._now(),
            lifetime=SERVICE_LIFETIME,
        )
        return key_pem(key) + certificate.public_bytes(Encoding.PEM)

    def has_issued(self, certificate: x509.Certificate, kind: Kind) -> bool:
        """Tell whether an authority of a kind that is trusted now signed a certificate."""
        for authority in self._trusted[kind]:
            try:
                certificate.verify_directly_issued_by(authority.certificate)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return True
        return False

    def crl(self, revoked: Iterable[RevokedCertificate]) -> bytes:
        """Return a revocation list of every trusted `devices` authority in PEM, the same bytes for the same content.

        What an authority that is retired signed is left out: nobody takes it any more.
        """
        now, found = self._now(), frozenset(revoked)
        lists = []
        for authority in self._trusted["devices"]:
            mine = frozenset(it for it in found if it.authority == authority.name)
            before, pem = self._lists.get(authority.name, (None, b""))
            if before != mine:
                pem = _revocation_list(authority, mine, now)
                self._lists[authority.name] = mine, pem
            lists.append(pem)
        return b"".join(lists)

    def _issuing(self, kind: Kind) -> _Authority:
        return self._trusted[kind][0 if kind == "devices" else -1]


def _revocation_list(authority: _Authority, revoked: Iterable[RevokedCertificate], now: datetime) -> bytes:
    rows = [
        (it.serial, datetime.fromtimestamp(it.revoked_at_ms // 1000, UTC))
        for it in sorted(revoked, key=lambda it: it.serial)
    ]
    return make_revocation_list(authority.certificate, authority.key, rows, now).public_bytes(Encoding.PEM)


def _numbers(directory: Path, kind: Kind) -> list[int]:
    """Return every number that a kind of authority ever had here."""
    paths = [*directory.glob(f"{kind}-*.crt"), *directory.glob(f"{kind}-*.retired")]
    return sorted({int(number) for path in paths if (number := path.stem.removeprefix(f"{kind}-")).isdecimal()})


def _make(directory: Path, kind: Kind, number: int, now: datetime) -> None:
    key = new_key()
    path = directory / f"{kind}-{number}"
    # Its name is its own: a list or a certificate must never be looked up under another authority of the same name.
    certificate = make_authority(key, f"{kind} {number} {key_sha256(key.public_key())[:16]}", now)
    write_durably(path.with_suffix(".key"), key_pem(key))
    write_durably(path.with_suffix(".crt"), certificate.public_bytes(Encoding.PEM), replace=False)


def _load_all(directory: Path, kind: Kind) -> tuple[_Authority, ...]:
    numbers = [number for number in _numbers(directory, kind) if (directory / f"{kind}-{number}.crt").exists()]
    return tuple(_load(directory, kind, number) for number in reversed(numbers))


def _load(directory: Path, kind: Kind, number: int) -> _Authority:
    path = directory / f"{kind}-{number}"
    try:
        mode, key_bytes = path.with_suffix(".key").stat().st_mode, path.with_suffix(".key").read_bytes()
        certificate_bytes = path.with_suffix(".crt").read_bytes()
    except OSError as error:
        raise AuthorityError(f"the authority {path} cannot be read: {error.strerror}; restore it") from error
    if mode & 0o077:
        raise AuthorityError(f"{path}.key can be read by others, so it was not used; do: chmod 600 {path}.key")
    try:
        key = load_pem_private_key(key_bytes, None)
        certificate = x509.load_pem_x509_certificate(certificate_bytes)
    except NO_KEY_ERRORS:  # the library's texts quote the content
        raise AuthorityError(f"{path}.key and .crt are not a key and a certificate in PEM; restore them") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityError(f"{path}.key is not the key of {path}.crt; restore them")
    return _Authority(kind, number, certificate, key)


def _view(authority: _Authority, *, issuing: bool) -> AuthorityView:
    return AuthorityView(
        kind=authority.kind,
        name=authority.name,
        sha256=authority.certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=authority.certificate.not_valid_before_utc,
        not_after=authority.certificate.not_valid_after_utc,
        issuing=issuing,
    )
