"""Keys and certificate requests as devices make them, and TLS between two ends in memory."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

AnyKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def request(key: AnyKey, subject: str = "whoever") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    )
    algorithm = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def private_pem(key: AnyKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def strict(purpose: ssl.Purpose, own: Path, trusted: bytes) -> ssl.SSLContext:
    """One end of a connection, as strict about certificates as OpenSSL can be."""
    context = ssl.create_default_context(purpose, cadata=trusted.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own)
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[str, str]:
    """Connect two contexts in memory, return the common names that each saw; raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    )
    while sum(_done(end.do_handshake) for end in ends) < len(ends):
        pass
    _done(lambda: ends[1].read(1))  # in TLS 1.3 the server's refusal comes after the client's handshake
    return _common_name(ends[0]), _common_name(ends[1])


def _done(step: Callable[[], object]) -> bool:
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True


def _common_name(end: ssl.SSLObject) -> str:
    peer = end.getpeercert() or {}
    return {name: value for part in peer["subject"] for name, value in part}["commonName"]  # type: ignore[str-unpack]
