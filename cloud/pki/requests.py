"""What a device sends to be certified: PKCS #10 requests (RFC 2986), and the proof that it has its present key.

Nothing of a request is used but its public key: what it says of its subject is ignored.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import FleetliftError

MAX_PEM_BYTES: Final = 8 * 1024
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
"""A longer one only costs time, and whoever sends it is not known yet."""
RSA_EXPONENT: Final = 65537

DeviceKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey


class CertificateError(FleetliftError):
    """A request or a certificate that is refused; nothing was issued. `code` is what devices are told."""

    code = "bad_csr"


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request that its own key signed: the key, SHA-256 of its SubjectPublicKeyInfo, and the request's DER."""

    key: DeviceKey
    key_sha256: str
    der: bytes


def read_request(csr_pem: bytes) -> CertificateRequest:
    """Return a request in PEM; raises CertificateError if it is too long, malformed, not signed by its key, or weak."""
    if len(csr_pem) > MAX_PEM_BYTES:
        raise CertificateError(f"the certificate request has more than {MAX_PEM_BYTES} bytes; nothing was issued")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key = _usable(csr.public_key())  # before its signature: a monstrous key would take long to check
        signed = csr.is_signature_valid
        der = csr.public_bytes(Encoding.DER)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):  # the library's texts quote the content
        raise CertificateError("this is not a certificate request in PEM (PKCS #10); nothing was issued") from None
    if not signed:
        raise CertificateError("the certificate request is not signed by its own key; nothing was issued")
    return CertificateRequest(key, key_sha256(key), der)


def read_certificate(certificate_pem: bytes) -> x509.Certificate:
    """Return a certificate in PEM, unverified; raises CertificateError."""
    if len(certificate_pem) > MAX_PEM_BYTES:
        raise CertificateError(f"the certificate has more than {MAX_PEM_BYTES} bytes; nothing was issued")
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CertificateError("this is not a certificate in PEM; nothing was issued") from None


def has_signed(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Tell whether a certificate's key signed `data`: ECDSA or RSA (PKCS #1 v1.5) with SHA-256, or Ed25519."""
    try:
        key = _usable(certificate.public_key())
        match key:
            case EllipticCurvePublicKey():
                key.verify(signature, data, ECDSA(hashes.SHA256()))
            case RSAPublicKey():
                key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            case _:
                key.verify(signature, data)
    except (InvalidSignature, CertificateError, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def certified_key_sha256(certificate: x509.Certificate) -> str:
    """Return `key_sha256` of a certificate's key; raises CertificateError for one of a kind that is not taken."""
    try:
        return key_sha256(_usable(certificate.public_key()))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("the certificate's key is of a kind that is not taken; nothing was issued") from None


def key_sha256(key: DeviceKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _usable(key: object) -> DeviceKey:
    match key:
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1 | SECP384R1):
            return key
        case Ed25519PublicKey():
            return key
        case RSAPublicKey() if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e == RSA_EXPONENT:
            return key
    raise CertificateError(
        "the key is of a kind that is not taken: make one on P-256 or P-384, Ed25519, or RSA "
        f"of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits; nothing was issued"
    )
