"""Enrolment: the code that an operator hands to a device, and the messages by which it becomes one of the fleet.

The code carries the two hashes that the server cannot choose: of the authority that the server's certificate comes
from, and of the root metadata that the device is to trust. So a device that knows nothing yet may fetch both from
anybody. Whoever has a code can enrol a device with it: it is a secret, and travels in files or standard input.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import EnrolmentError
from protocol.identity import MAX_INTEGER, check_digest, check_id

CODE_PREFIX: Final = "fl1"
RENEWAL_CONTEXT: Final = b"fleetlift renewal 1\n"
"""What the present key signs in front of the DER of a renewal's CSR, so that it is a signature for nothing else."""
TOKEN_BYTES: Final = 16
MAX_CSR_LENGTH: Final = 8 * 1024
MAX_CERTIFICATES_LENGTH: Final = 64 * 1024
"""The most of PEM that is read, be it a certificate or a bundle of authorities."""
MAX_TRUST_BYTES: Final = 4 * 1024 * 1024
MAX_URL_LENGTH: Final = 400
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN_LENGTH: Final = 22
_HASH_LENGTH: Final = 43


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """What a device needs to enrol: `fl1.<token>.<ca_sha256>.<root_sha256>`, each part base64url without padding.

    `token` is 22 characters (128 bits), as it is sent; `ca_sha256` is of the DER of one authority's certificate and
    `root_sha256` of a root metadata file's bytes, both as 64 hexadecimal digits. Raises EnrolmentError.
    """

    token: str = field(repr=False)
    ca_sha256: str
    root_sha256: str

    def __post_init__(self) -> None:
        check_token(self.token)
        check_digest(self.ca_sha256, "ca_sha256")
        check_digest(self.root_sha256, "root_sha256")

    @classmethod
    def parse(cls, text: str) -> EnrolmentCode:
        """Parse a code, white space around it aside; raises EnrolmentError, which never repeats what was read."""
        parts = text.strip().split(".")
        if len(parts) != 4 or parts[0] != CODE_PREFIX:
            raise EnrolmentError(f"an enrolment code looks like {CODE_PREFIX}.<token>.<hash>.<hash>")
        _, token, ca, root = parts
        return cls(token, _unpacked(ca, "third", 32).hex(), _unpacked(root, "fourth", 32).hex())

    def __str__(self) -> str:
        """Return the code, secret as it is."""
        hashes = (_packed(bytes.fromhex(digest)) for digest in (self.ca_sha256, self.root_sha256))
        return ".".join((CODE_PREFIX, self.token, *hashes))


def make_token(secret: bytes) -> str:
    """Return 16 random bytes as a token."""
    if len(secret) != TOKEN_BYTES:
        raise EnrolmentError(f"a token has {TOKEN_BYTES} bytes")
    return _packed(secret)


def check_token(token: str) -> str:
    """Return `token` if it is one (22 characters of base64url), else raise EnrolmentError without repeating it."""
    _unpacked(token, "second", TOKEN_BYTES)
    return token


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpacked(text: str, which: str, size_bytes: int) -> bytes:
    length = _TOKEN_LENGTH if size_bytes == TOKEN_BYTES else _HASH_LENGTH
    data = b""
    if len(text) == length and _BASE64URL.fullmatch(text):
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-length % 4))
        except binascii.Error:
            data = b""
    # The last character has bits to spare: only one spelling of the same bytes is taken.
    if len(data) != size_bytes or _packed(data) != text:
        raise EnrolmentError(f"the {which} part of the enrolment code is not {length} characters of base64url")
    return data


def _check_length(text: str, longest: int, what: str) -> None:
    if not 1 <= len(text) <= longest:
        raise EnrolmentError(f"{what} has {len(text)} characters, 1 to {longest} are possible")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDocument:
    """What anybody may fetch: the authorities (PEM, newest first), and every root metadata file, oldest first."""

    ca: str
    roots: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_length(self.ca, MAX_CERTIFICATES_LENGTH, "ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """A device asks to be one of the fleet; `csr` is PEM, and its subject counts for nothing."""

    token: str = field(repr=False)
    device_id: str
    hardware_model: str
    csr: str

    def __post_init__(self) -> None:
        check_token(self.token)
        check_id(self.device_id, "device_id")
        check_id(self.hardware_model, "hardware_model")
        _check_length(self.csr, MAX_CSR_LENGTH, "csr")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """A device asks for its next certificate: `csr` has the new key, `signature` (base64) is by the present one.

    It is over RENEWAL_CONTEXT and the DER of the CSR: ECDSA with SHA-256 (DER), or Ed25519, as the present key is.
    """

    certificate: str
    csr: str
    signature: str

    def __post_init__(self) -> None:
        _check_length(self.certificate, MAX_CERTIFICATES_LENGTH, "certificate")
        _check_length(self.csr, MAX_CSR_LENGTH, "csr")
        _check_length(self.signature, 1024, "signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The answer to both: the device's certificate (PEM, itself alone), and what it needs to connect."""

    device_id: str
    product: str
    certificate: str
    ca: str
    broker_url: str
    topic_root: str
    not_before_ms: int
    not_after_ms: int

    def __post_init__(self) -> None:
        check_id(self.device_id, "device_id")
        check_id(self.product, "product")
        _check_length(self.certificate, MAX_CERTIFICATES_LENGTH, "certificate")
        _check_length(self.ca, MAX_CERTIFICATES_LENGTH, "ca")
        _check_length(self.broker_url, MAX_URL_LENGTH, "broker_url")
        if not 0 <= self.not_before_ms < self.not_after_ms <= MAX_INTEGER:
            raise EnrolmentError("not_before_ms and not_after_ms are not a time and a later one")


def read_code(text: str) -> EnrolmentCode:
    """Return the code in a file's text: its one line that is neither empty nor begins with #; raises EnrolmentError."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise EnrolmentError(f"one enrolment code on one line is expected, not {len(lines)} lines")
    return EnrolmentCode.parse(lines[0])
