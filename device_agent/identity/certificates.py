"""What a certificate says, without a parser of our own: OpenSSL tells it after a handshake with itself, in memory.

That handshake is also the proof that a file's key and certificate will do for a connection: in it the device is the
client, and the other end trusts this one certificate and no authority. Nobody looks at the clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from device_agent.tls import NO_CHECK_TIME, TlsError

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")
_FLIGHTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A device's certificate: whom it names, its serial number in hexadecimal, and the seconds between which it is."""

    name: str
    serial: str
    not_before_s: float
    not_after_s: float


def blocks(pem: str) -> list[str]:
    """Return the certificates of a bundle, each as PEM that ends with its line."""
    return [found[0] + "\n" for found in _BLOCK.finditer(pem)]


def find(pem: str, sha256: str) -> str | None:
    """Return the certificate of a bundle whose DER has this SHA-256 (hexadecimal)."""
    found = None
    for block in blocks(pem):
        try:
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(block)).hexdigest()
        except ValueError:
            continue
        if hmac.compare_digest(digest, sha256):
            found = block
    return found


def rehearse(pair: Path, certificate: str) -> Certificate:
    """Return what the certificate says that is in the file `pair` with its private key; raises TlsError.

    `certificate` is its PEM. A pair that no TLS connection could be made with is refused.
    """
    try:
        peer = _shaken_hands(pair, certificate)
        names = [value for part in peer["subject"] for key, value in part if key == "commonName"]
        return Certificate(
            name=names[0] if len(names) == 1 else "",
            serial=format(int(str(peer["serialNumber"]), 16), "x"),
            not_before_s=float(ssl.cert_time_to_seconds(peer["notBefore"])),
            not_after_s=float(ssl.cert_time_to_seconds(peer["notAfter"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # ssl.SSLError is an OSError
        raise TlsError(f"a certificate that no connection can be made with: {error}") from error


def _shaken_hands(pair: Path, certificate: str) -> Any:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair)
    server.load_verify_locations(cadata=certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT | NO_CHECK_TIME
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(pair)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_FLIGHTS):
        if sum(_step(end) for end in ends) == len(ends):
            return ends[1].getpeercert()
    raise TlsError("the handshake did not end")


def _step(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
