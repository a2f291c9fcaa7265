"""Where the broker is, and how the link behaves towards it."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from protocol.errors import FleetliftError

DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class LinkError(FleetliftError):
    """The broker's URL is not one, or the password cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Where the broker is, and how to behave towards it.

    `url` is `mqtt://host[:1883]` or `mqtts://host[:8883]`; `tls` makes the context for the latter, at each connect
    (None: the system's certificate authorities). `password_file` is read at each connect. A bad URL raises LinkError.
    """

    url: str
    device_id: str
    username: str | None = None
    password_file: Path | None = None
    tls: Callable[[], ssl.SSLContext] | None = None
    keepalive_s: int = 30
    session_expiry_s: int = 0
    """How long the broker keeps the session of a device that is away. Nothing is lost without: what a device misses it
    asks for. And Mosquitto 2.0.11, which tells sessions by their certificates, ends when its access rules are read anew
    while it keeps one, and the device comes back."""
    connect_timeout_s: float = 10.0
    """For each of: the TCP connection (and TLS handshake), and then the broker's answers to CONNECT and SUBSCRIBE."""
    version_timeout_s: float = 3.0
    """For the answer to CONNECT, until it is known which version the broker speaks: some wait instead of refusing."""
    backoff_min_s: float = 1.0
    backoff_max_s: float = 60.0
    refused_backoff_max_s: float = 900.0
    """In place of it while the broker does not accept this device's certificate."""
    max_queued: int = 128
    """Messages handed over and not yet acknowledged by the broker."""

    def __post_init__(self) -> None:
        self.address()

    def address(self) -> tuple[str, str, int]:
        """Return (scheme, host, port)."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in DEFAULT_PORTS or not host or parts.path.strip("/") or parts.username is not None:
            raise LinkError(f"broker url {self.url!r:.200} is not like mqtt://host:1883 or mqtts://host:8883")
        return parts.scheme, host, port or DEFAULT_PORTS[parts.scheme]

    @property
    def is_open(self) -> bool:
        """Whether everything would go over a network in the clear: over mqtt:// to another machine than this one."""
        scheme, host, _ = self.address()
        try:
            return scheme == "mqtt" and not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return scheme == "mqtt" and host != "localhost"

    def password(self) -> str | None:
        """Return the first line of the password file, if there is one; raises LinkError."""
        if self.password_file is None:
            return None
        try:
            return (self.password_file.read_text(encoding="utf-8").splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            raise LinkError(f"the broker's password cannot be read from {self.password_file}: {error}") from error
