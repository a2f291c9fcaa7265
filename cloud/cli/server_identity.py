"""What a server's certificate is checked by from now on: the system's list, a file, or an authority that is confirmed.

A Fleetlift server has its certificate from an authority of its own, which it tells whoever asks (docs/protocol.md,
enrolment). That is believed only when a person, or `--ca-sha256`, says that its SHA-256 is the right one.
"""

import hashlib
import hmac
import re
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from cloud.cli.client import API, FAILED, NOT_ALLOWED
from cloud.cli.render import Output
from cloud.tls import client_context
from protocol.errors import UserError

HTTPS_PORT: Final = 443
TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_AUTHORITIES: Final = 16
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HEX = re.compile(r"[0-9a-f]{64}")


def authority_for(output: Output, url: str, file: Path | None, sha256: str | None) -> bytes | None:
    """Return what the certificate of `url` is to be checked by, PEM, or None for the system's list.

    Raises:
        UserError: the server did not prove who it is, and nobody confirmed its authority.
    """
    if urlsplit(url).scheme != "https":
        return None
    if file is not None:
        return _of_file(url, file)
    if sha256 is None and _proves_itself(url, client_context()):
        return None
    pem = _authority_of(url)
    found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    if sha256 is not None:
        if not hmac.compare_digest(found, _plain(sha256)):
            raise UserError(
                f"{url} has its certificate from another authority, of SHA-256 {fingerprint(found)}. Nothing was sent: "
                "it is another server, or somebody is between.",
                exit_code=NOT_ALLOWED,
            )
    else:
        output.warn(f"{url} has its certificate from an authority that this machine does not know. Its SHA-256 is")
        output.warn(f"  {fingerprint(found)}")
        output.warn("At the server: openssl x509 -in HOME/operator/ca.crt -noout -fingerprint -sha256")
        if not output.can_ask:
            raise UserError(
                "nobody is here to say whether it is the right one. Nothing was sent; if it is, add --ca-sha256 with "
                "it, or --ca-file.",
                exit_code=NOT_ALLOWED,
            )
        output.confirm("Is it the same there?", yes=False)
    return _everything(url, pem)


def fingerprint(sha256: str) -> str:
    """Return a hash as openssl shows it."""
    return ":".join(sha256[i : i + 2] for i in range(0, len(sha256), 2)).upper()


def _of_file(url: str, file: Path) -> bytes:
    try:
        pem = file.read_text(encoding="ascii")
        context = client_context(pem=pem)
    except (OSError, ValueError) as error:  # also ssl.SSLError, which is an OSError
        why = error.strerror or error if isinstance(error, OSError) else "it is no text"
        raise UserError(f"{file} holds no certificate authority: {why}. Nothing was sent.") from None
    if not _proves_itself(url, context):
        raise UserError(
            f"{url} has no certificate of the authority in {file}. Nothing was sent.", exit_code=NOT_ALLOWED
        )
    return pem.encode()


def _plain(sha256: str) -> str:
    plain = sha256.replace(":", "").strip().lower()
    if not _HEX.fullmatch(plain):
        raise UserError("--ca-sha256 is a SHA-256 in 64 hexadecimal digits, with or without colons. Nothing was sent.")
    return plain


def _proves_itself(url: str, context: ssl.SSLContext) -> bool:
    """Shake hands with the server, and say nothing; raises UserError when there is nobody."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or HTTPS_PORT
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{url} cannot be reached by TLS: {why}. Nothing was sent.", exit_code=FAILED) from None


def _authority_of(url: str) -> str:
    """Return the one of the authorities that the server tells of that its certificate is from; raises UserError."""
    told = _trust(url, verify=False)
    for pem in _CERTIFICATE.findall(told)[:MAX_AUTHORITIES]:
        try:
            context = client_context(pem=pem)
        except ssl.SSLError:
            continue
        if _proves_itself(url, context):
            return str(pem)
    raise UserError(
        f"{url} did not prove who it is, and tells of no authority that it has its certificate from. Nothing was sent; "
        "bring the authority's certificate with --ca-file.",
        exit_code=NOT_ALLOWED,
    )


def _everything(url: str, pem: str) -> bytes:
    """Return all authorities that the server names, now that it is known: one may be about to follow."""
    told = _CERTIFICATE.findall(_trust(url, verify=client_context(pem=pem)))
    return "\n".join(dict.fromkeys([*told[:MAX_AUTHORITIES], pem])).encode() + b"\n"


def _trust(url: str, *, verify: ssl.SSLContext | bool) -> str:
    try:
        with httpx.Client(verify=verify, timeout=TIMEOUT_S, trust_env=False) as client:
            with client.stream("GET", f"{url}{API}/enrolment/trust") as answer:
                data = b""
                for block in answer.iter_bytes():
                    data += block
                    if len(data) > MAX_ANSWER_BYTES:
                        return ""
            return str(httpx.Response(answer.status_code, content=data).json()["ca"])
    except httpx.HTTPError as error:
        raise UserError(f"{url} cannot be reached: {error}. Nothing was sent.", exit_code=FAILED) from None
    except (ValueError, LookupError, TypeError):
        return ""
