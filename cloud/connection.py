"""How the cloud reaches its broker: where it is, which MQTT version it speaks, how long to wait between attempts."""

import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from paho.mqtt.enums import MQTTProtocolVersion

from cloud.tls import client_context
from protocol.errors import FleetliftError

KEEPALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5.0
"""For the TCP connection."""
ANSWER_TIMEOUT_S: Final = 3.0
"""For the broker's answer to CONNECT and SUBSCRIBE. Some wait instead of refusing a version (amqtt does)."""
STEADY_S: Final = 5.0
"""A connection that lasted shorter was none: two clients of one name that throw each other out must not do so fast."""
UNSUPPORTED_VERSION: Final = 0x84
"""MQTT 5, section 3.2.2.2; paho says the same for the 0x01 of MQTT 3.1.1."""
NO_DELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""The socket option that spares small acknowledged messages the 40 ms of Nagle's algorithm."""


class TlsError(FleetliftError):
    """The files that TLS needs cannot be read, or are not certificates and keys; nothing was connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Whom to trust as the broker (`ca`, PEM), and who we are to it (`certificate`: key and certificate, PEM)."""

    ca: Path
    certificate: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a client's context from the files as they are now, so that each connection sees renewed ones.

        TLS 1.2 or newer, the broker's name checked, certificates held to RFC 5280. Raises TlsError.
        """
        try:
            context = client_context(self.ca)
            context.sslsocket_class = TlsSocket
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, password=_no_passphrase)
        except (OSError, ValueError) as error:
            files = f"{self.ca}" + ("" if self.certificate is None else f" and {self.certificate}")
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise TlsError(f"{files} cannot be used for TLS: {why}") from error
        return context


class TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho and aiomqtt forget a socket that they could not use."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or close."""
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # not over yet
        except OSError:
            self.close()
            raise


def _no_passphrase() -> bytes:
    """Refuse where OpenSSL would otherwise ask on the terminal."""
    raise ValueError("the private key has a passphrase, and nobody is here to type it")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAccess:
    """Where the broker listens, and how to get in."""

    host: str
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    first_version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    """What to try first: `MQTTv311` saves an attempt with a broker that is known to speak nothing newer."""

    def __str__(self) -> str:
        scheme = "mqtt" if self.tls is None else "mqtts"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(slots=True)
class Versions:
    """Which MQTT version to try: 5 first, 3.1.1 when the broker refuses it or hangs up, and so on in turn.

    A broker that was not reached, or that took the version and went away later, is tried with the same one again.
    """

    current: MQTTProtocolVersion

    def refused(self) -> None:
        """The broker was there and did not take this version."""
        is_5 = self.current is MQTTProtocolVersion.MQTTv5
        self.current = MQTTProtocolVersion.MQTTv311 if is_5 else MQTTProtocolVersion.MQTTv5


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before the next attempt: doubling, and each time somewhere between half and all of it.

    The first retry is quick, because the other version may be all that it takes.
    """

    first_s: float = 0.1
    longest_s: float = 15.0
    chance: Callable[[], float] = random.random
    _failures: int = 0

    def next_s(self) -> float:
        """Return how long to wait after one more failure."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return whole * (0.5 + self.chance() / 2)

    def ended(self, lasted_s: float) -> None:
        """A connection ended; if it was a steady one, the next wait is the first again."""
        if lasted_s >= STEADY_S:
            self._failures = 0
