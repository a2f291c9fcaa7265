"""TLS as the cloud speaks it: version 1.2 or newer, said by us, for not every interpreter says so (RFC 8996)."""

import ssl
from pathlib import Path


def client_context(ca: Path | None = None, *, pem: str | None = None) -> ssl.SSLContext:
    """Return a client's context that checks names and certificates: by a file, a text (PEM) or the system's list.

    Raises OSError (ssl.SSLError is one) if what is given cannot be used.
    """
    return modern(ssl.create_default_context(cafile=ca, cadata=pem))


def no_authority() -> ssl.SSLContext:
    """Return a client's context that trusts nobody: for what speaks no TLS. Reading the system's list takes 40 ms."""
    return modern(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def modern(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context neither offer nor take what RFC 8996 deprecates, TLS 1.0 and 1.1; return it."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
