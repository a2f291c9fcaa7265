"""A device's private keys (P-256): made, and used, by `cryptography` where it is installed, else by `openssl`.

The private key is never an argument and never in another file than the caller's: the program reads it from that file.
"""

from __future__ import annotations

import base64
import binascii
import subprocess
from pathlib import Path
from typing import Final, Protocol

from device_agent.slots.durable import read_file
from protocol.errors import FleetliftError
from protocol.identity import check_id

try:
    from cryptography import x509
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

MAX_PEM_BYTES: Final = 64 * 1024
_OPENSSL: Final = "openssl"
_TIMEOUT_S: Final = 60.0
_REQUEST: Final = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = {name}\n"


class KeyFileError(FleetliftError):
    """A key cannot be made, read or used."""


class Keys(Protocol):
    """Makes and uses private keys; all raise KeyFileError."""

    def make(self) -> bytes:
        """Return a new private key, PEM (PKCS #8)."""

    def request(self, key: Path, name: str) -> str:
        """Return a certificate signing request, PEM, by the key in a file."""

    def sign(self, key: Path, data: bytes) -> bytes:
        """Return the ECDSA signature (DER, SHA-256) of `data` by the key in a file."""


class OpensslKeys:
    """Keys by the `openssl` program (1.1.1 or newer)."""

    def __init__(self, program: str = _OPENSSL) -> None:
        self._program = program

    def make(self) -> bytes:
        """Return a new private key, PEM (PKCS #8)."""
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:named_curve")
        return self._run("genpkey", "-algorithm", "EC", *curve)

    def request(self, key: Path, name: str) -> str:
        """Return a certificate signing request, PEM, by the key in a file."""
        settings = _REQUEST.format(name=check_id(name)).encode()
        return self._run("req", "-new", "-sha256", "-key", str(key), "-config", "/dev/stdin", given=settings).decode()

    def sign(self, key: Path, data: bytes) -> bytes:
        """Return the ECDSA signature (DER, SHA-256) of `data` by the key in a file."""
        return self._run("dgst", "-sha256", "-sign", str(key), given=data)

    def _run(self, *arguments: str, given: bytes = b"") -> bytes:
        try:
            ended = subprocess.run(
                (self._program, *arguments), input=given, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except FileNotFoundError:
            raise KeyFileError(
                f"there is no program {self._program} here to make a key with; install it, or fleetlift[fast]"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KeyFileError(f"{self._program} {arguments[0]} could not be run: {error}") from error
        if ended.returncode != 0 or not ended.stdout:
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            raise KeyFileError(f"{self._program} {arguments[0]} failed: {said[0] if said else ended.returncode}"[:300])
        return ended.stdout


class CryptographyKeys:
    """Keys by the `cryptography` package."""

    def make(self) -> bytes:
        """Return a new private key, PEM (PKCS #8)."""
        return ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def request(self, key: Path, name: str) -> str:
        """Return a certificate signing request, PEM, by the key in a file."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_id(name))])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(_read(key), hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, key: Path, data: bytes) -> bytes:
        """Return the ECDSA signature (DER, SHA-256) of `data` by the key in a file."""
        return _read(key).sign(data, ec.ECDSA(hashes.SHA256()))


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(read_file(path, MAX_PEM_BYTES) or b"", None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):  # the library's texts may quote the content
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} has no private key on an elliptic curve, in PEM and without a passphrase")
    return key


def default_keys() -> Keys:
    """Return what this device makes keys with."""
    return CryptographyKeys() if HAS_CRYPTOGRAPHY else OpensslKeys()


def der_of(pem: str) -> bytes:
    """Return the bytes of the first block of a PEM text; raises KeyFileError."""
    lines = pem.strip().splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith("-----BEGIN ")), len(lines))
    end = next((number for number, line in enumerate(lines) if line.startswith("-----END ")), 0)
    try:
        der = base64.b64decode("".join(line.strip() for line in lines[begin + 1 : end]), validate=True)
    except binascii.Error:
        der = b""
    if not der:
        raise KeyFileError("that is not PEM")
    return der
