"""Devices without an agent: their own keys, and certificates that the server gave them for a token."""

import base64
import contextlib
import hashlib
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cloud.config import Home
from cloud.connection import Tls
from protocol.enrolment import RENEWAL_CONTEXT, make_token
from tests.cloud.homes import MODEL, PRODUCT
from tests.support.fleet import Fleet


@dataclass(frozen=True)
class Identity:
    """A device's key and certificate."""

    device_id: str
    key: EllipticCurvePrivateKey
    certificate: str

    def tls(self, fleet: Fleet, directory: Path) -> Tls:
        """Its way to the broker, from a file of its own."""
        path = directory / f"{self.device_id.replace('/', '_')}-{secrets.token_hex(4)}.pem"
        path.write_bytes(key_bytes(self.key) + self.certificate.encode())
        path.chmod(0o600)
        return Tls(ca=Home(fleet.office.home).operator_ca, certificate=path)


def key_bytes(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def request_of(key: Any, common_name: str = "whoever") -> str:
    """A request to sign a key, in PEM; the name in it is anybody's."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )


def token_for(fleet: Fleet, **facts: Any) -> str:
    """Have the operator make an enrolment token."""
    text = make_token(secrets.token_bytes(16))
    digest = hashlib.sha256(text.encode()).hexdigest()
    fleet.api("POST", "/enrolment-tokens", {"token_sha256": digest, "product": PRODUCT, **facts}, expect=201)
    return text


@contextlib.contextmanager
def stranger(fleet: Fleet, **more: Any) -> Iterator[httpx.Client]:
    """Somebody who reaches the server and is nobody there."""
    context = ssl.create_default_context(cafile=Home(fleet.office.home).operator_ca)
    with httpx.Client(base_url=f"{fleet.url}/api/v1", verify=context, trust_env=False, timeout=30, **more) as http:
        yield http


def wish(token: str, device_id: str, csr: str, **changes: Any) -> dict[str, Any]:
    """What a device asks for."""
    return {"token": token, "device_id": device_id, "hardware_model": MODEL, "csr": csr} | changes


def enrolled(fleet: Fleet, device_id: str, token: str | None = None) -> Identity:
    """Have a device enrol."""
    key = new_key()
    with stranger(fleet) as http:
        answer = http.post("/enrolment", json=wish(token or token_for(fleet), device_id, request_of(key)))
    assert answer.status_code == 201, answer.text
    return Identity(device_id, key, answer.json()["certificate"])


def renewal(
    certificate: str, present: EllipticCurvePrivateKey, csr: str, context: bytes = RENEWAL_CONTEXT
) -> dict[str, str]:
    """What a device asks for its next certificate by."""
    der = x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER)
    signature = present.sign(context + der, ECDSA(hashes.SHA256()))
    return {"certificate": certificate, "csr": csr, "signature": base64.b64encode(signature).decode()}
