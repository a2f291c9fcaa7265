"""TLS as a device speaks it: strict about certificates, lenient about its own clock, and clear about what is wrong.

1. TLS 1.2 or newer, the host's name is checked, certificates are held to RFC 5280 (X509_V_FLAG_X509_STRICT).
2. While the clock is behind for sure (`clock`), OpenSSL does not look at it. The server's certificate must then not
   have ended before the floor: the one thing that such a device can say about time.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

from device_agent.clock import DeviceClock, describe
from protocol.errors import FleetliftError

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL (x509_vfy.h), which Python has no name for."""
_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 64})
_REFUSALS: Final = {
    "ALERT_CERTIFICATE_REVOKED": "it is revoked",
    "ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "ALERT_UNKNOWN_CA": "it is from an authority that the server does not trust",
    "ALERT_CERTIFICATE_REQUIRED": "there is none, and the server requires one",
    "ALERT_BAD_CERTIFICATE": "the server finds it bad",
    "ALERT_UNSUPPORTED_CERTIFICATE": "it is not one for this purpose",
    "ALERT_CERTIFICATE_UNKNOWN": "the server does not say why",
    "ALERT_ACCESS_DENIED": "the server denies access",
}
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


class TlsError(FleetliftError):
    """The files that TLS needs cannot be read, or are not what they should be."""


class DeviceContext(ssl.SSLContext):
    """A context that knows the device's clock; None: it does not matter."""

    clock: DeviceClock | None = None
    is_lenient = False


class DeviceSocket(ssl.SSLSocket):
    """A connection that remembers what ended it: paho says only that it was lost."""

    failure: ssl.SSLError | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, and look at the time as the head of this file says."""
        context = self.context
        clock = context.clock if isinstance(context, DeviceContext) else None
        try:
            super().do_handshake(block)
            if clock is not None and isinstance(context, DeviceContext) and context.is_lenient:
                _check_not_after(self.getpeercert(), clock.floor_s)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            # The signatures have been found good before OpenSSL looks at the time.
            if getattr(error, "verify_code", None) == _NOT_YET_VALID and clock is not None:
                clock.found_behind()
            self.close()  # paho leaves it to whoever collects it
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive; what TLS makes fail is remembered."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failure = error
            raise


DeviceContext.sslsocket_class = DeviceSocket


def verifying_context(authorities: str | None, clock: DeviceClock, certificate: Path | None = None) -> DeviceContext:
    """Return a client's context that trusts `authorities` (PEM; None: the system's); raises TlsError.

    `certificate` is a file with the device's private key and certificate, in PEM.
    """
    context = _new_context()
    context.clock = clock
    context.is_lenient = clock.is_behind
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if context.is_lenient:
        context.verify_flags |= NO_CHECK_TIME
    try:
        if authorities is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"the authorities that the device was given are not certificates in PEM: {error}") from error
    if certificate is not None:
        try:
            context.load_cert_chain(certificate)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TlsError(f"{certificate} has no key and certificate that fit each other: {error}") from error
    return context


def blind_context() -> ssl.SSLContext:
    """Return a context that trusts everybody: for what is known by its hash, and for nothing else."""
    context = _new_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _new_context() -> DeviceContext:
    context = DeviceContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check_not_after(peer: Any, floor_s: float) -> None:
    if not peer or ssl.cert_time_to_seconds(peer["notAfter"]) < floor_s:
        error = ssl.SSLCertVerificationError(1, "the certificate ended before this release or its last refresh")
        error.verify_code = _EXPIRED
        error.verify_message = "certificate has expired"
        raise error


def is_refusal(error: BaseException) -> bool:
    """Tell whether the other side refused this device's certificate."""
    return isinstance(error, ssl.SSLError) and _refusal(error) is not None


def _refusal(error: ssl.SSLError) -> str | None:
    reason = _reason(error)
    return next((text for name, text in _REFUSALS.items() if name in reason), None)


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "reason", None) or str(error)  # only OpenSSL's own errors have one


def explain(error: BaseException, clock_s: float) -> str:
    """Return, for people, why a connection failed; `clock_s` is what the device's clock says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification(error, clock_s)
    if isinstance(error, ssl.SSLError):
        if (refusal := _refusal(error)) is not None:
            return f"TLS: the server does not accept this device's certificate: {refusal}"
        if any(name in _reason(error) for name in _NO_TLS):
            return "TLS: the server does not speak TLS on this port"
        return f"TLS: {_reason(error)}"
    return str(error) or type(error).__name__


def _verification(error: ssl.SSLCertVerificationError, clock_s: float) -> str:
    code = error.verify_code
    clock = f"(it says {describe(clock_s)})"
    if code == _EXPIRED:
        return f"TLS: the server's certificate has expired, or this device's clock is wrong {clock}"
    if code == _NOT_YET_VALID:
        return f"TLS: the server's certificate is not valid yet, or this device's clock is wrong {clock}"
    if code in _UNKNOWN_AUTHORITY:
        return "TLS: the server's certificate is from an authority that this device does not know"
    if code in _OTHER_NAME:
        return f"TLS: the server's certificate is for another host: {error.verify_message}"
    return f"TLS: the server's certificate is not accepted: {error.verify_message}"
