"""What an examination has to go by: the broker's two doors, the topics, throw-away devices, and the broker's files."""

import secrets
import ssl
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt.enums import MQTTProtocolVersion

from cloud.broker_files import BrokerFiles
from cloud.connection import Tls
from cloud.doctor.visitor import Visit, Visitor
from cloud.durable import write_durably
from cloud.pki.authorities import Authorities, IssuedCertificate
from cloud.pki.issuing import key_pem, new_key
from protocol.topics import Topics

LIFETIME: Final = timedelta(minutes=15)
"""Of a throw-away device's certificate."""
KIND: Final = "doctor"
"""The last level of the topics on which throw-away devices speak; the cloud knows no such message and drops it."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the broker listens. `ca` is None where it speaks no TLS; `verified` is whether to insist on its name."""

    host: str
    port: int
    ca: Path | None
    verified: bool = True

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def context(self, certificate: Path | None) -> ssl.SSLContext | None:
        """Return how to speak TLS there with this certificate; None where there is none. Raises TlsError."""
        if self.ca is None:
            return None
        context = Tls(ca=self.ca, certificate=certificate).context()
        if not self.verified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def visit(self, client_id: str, certificate: Path | None, **settings: Any) -> Visit:
        """Return how to connect there; `settings` are those of Visit."""
        return Visit(host=self.host, port=self.port, client_id=client_id, context=self.context(certificate), **settings)


@dataclass(frozen=True, slots=True)
class Device:
    """A throw-away device: its id, its certificate and key in one file, and what was issued."""

    id: str
    certificate: Path | None
    issued: IssuedCertificate | None = None


class Passes:
    """Issues certificates to throw-away devices, into a directory that is for them alone."""

    def __init__(self, directory: Path, authorities: Authorities | None) -> None:
        self._directory = directory
        self.authorities = authorities
        self._foreign: Authorities | None = None

    def device(self, *, lifetime: timedelta = LIFETIME, foreign: bool = False) -> Device:
        """Return a new device; a `foreign` one is certified by an authority that nobody has heard of."""
        device_id = f"doctor-{secrets.token_hex(6)}"
        authorities = self._of_nobody() if foreign else self.authorities
        if authorities is None:
            return Device(device_id, None)
        key = new_key()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = authorities.issue_device(request.public_bytes(Encoding.PEM), device_id, lifetime=lifetime)
        path = self._directory / f"{device_id}.pem"
        write_durably(path, key_pem(key) + issued.pem)
        return Device(device_id, path, issued)

    def _of_nobody(self) -> Authorities:
        if self._foreign is None:
            self._foreign = Authorities.create(self._directory / "foreign")
        return self._foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One examination. `cloud` with `cloud_certificate` (or a name and password) is how the server comes in."""

    devices: Door
    cloud: Door
    topics: Topics
    passes: Passes
    cloud_certificate: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    files: BrokerFiles | None = None
    may_revoke: bool = False
    plain_ports: tuple[int, ...] = (1883,)
    version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5

    @property
    def is_encrypted(self) -> bool:
        """Whether devices are spoken to over TLS."""
        return self.devices.ca is not None

    def unverified(self) -> "Case":
        """Return the same with brokers that need not prove their names: for finding out what else there is."""
        return replace(self, devices=replace(self.devices, verified=False), cloud=replace(self.cloud, verified=False))

    def visit(self, device: Device, client_id: str = "", **settings: Any) -> Visit:
        """Return how a device comes in."""
        return self.devices.visit(client_id or device.id, device.certificate, version=self.version, **settings)

    def open(self, device: Device, **settings: Any) -> Visitor:
        """Let a device come in; raises VisitError."""
        return self.visit(device, **settings).open()

    def open_cloud(self) -> Visitor:
        """Come in as the server, in a session of our own; raises VisitError."""
        return self.cloud.visit(
            f"fleetlift.doctor-{secrets.token_hex(6)}",
            self.cloud_certificate,
            version=self.version,
            username=self.username,
            password=self.password,
        ).open()

    def own(self, device: Device) -> str:
        """Return the topic on which a throw-away device speaks."""
        return self.topics.up(device.id, KIND)
