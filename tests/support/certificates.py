"""Certificates for tests: a fleet's real authorities, and what they would never issue (expired, foreign, weak)."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from cloud.broker_files import BrokerFiles
from cloud.connection import Tls
from cloud.pki.authorities import Authorities, IssuedCertificate, RevokedCertificate
from cloud.pki.issuing import CLOUD_NAME, DEVICE_LIFETIME, key_pem, make_certificate, new_key
from cloud.roles import utc_now
from protocol.topics import DEFAULT_ROOT

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Identity:
    """A device's certificate and key in one file."""

    device_id: str
    path: Path
    issued: IssuedCertificate

    @property
    def revoked(self) -> RevokedCertificate:
        return RevokedCertificate(
            self.issued.serial, self.issued.authority, int(self.issued.not_before.timestamp() * 1000)
        )


class Fleet:
    """The authorities of a fleet in a directory, with `broker/` (what its broker reads) and `tls/` beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = Authorities.create(directory / "ca")
        self.files = BrokerFiles(directory / "broker")
        self.ca = directory / "services-ca.crt"
        self.cloud = Tls(ca=self.ca, certificate=directory / "cloud.pem")
        self.revoked: list[Identity] = []
        self.write_access()
        self.renew_server()
        self._private("cloud.pem", self.authorities.issue_service(CLOUD_NAME, (), server=False))

    def write_access(self, *, topic_root: str = DEFAULT_ROOT) -> bool:
        """Write what the broker reads, from who is revoked and which authorities there are now."""
        self.ca.write_bytes(self.authorities.trusted("services"))
        return self.files.write_access(
            topic_root=topic_root,
            revoked_devices=[identity.device_id for identity in self.revoked],
            devices_ca=self.authorities.trusted("devices"),
            services_ca=self.authorities.trusted("services"),
            crl=self.authorities.crl(identity.revoked for identity in self.revoked),
        )

    def renew_server(self, names: Sequence[str] = LOOPBACK_NAMES) -> None:
        """Give the broker a new key and certificate."""
        pem = self.authorities.issue_service("broker", names, server=True)
        self.files.server_file.write_bytes(pem)
        self.files.server_file.chmod(0o600)

    def expire_server(self) -> None:
        """Give the broker a certificate that ended a minute ago."""
        ca = load_pem_x509_certificate(self.authorities.trusted("services"))
        ca_key = load_pem_private_key((self.directory / "ca" / "services-1.key").read_bytes(), None)
        assert isinstance(ca_key, EllipticCurvePrivateKey)
        key = new_key()
        lifetime = timedelta(minutes=-1)
        certificate = make_certificate(
            ca, ca_key, key.public_key(), "broker", names=LOOPBACK_NAMES, server=True, now=utc_now(), lifetime=lifetime
        )
        self.files.server_file.write_bytes(key_pem(key) + certificate.public_bytes(Encoding.PEM))

    def device(self, device_id: str, *, lifetime: timedelta = DEVICE_LIFETIME) -> Identity:
        """Enrol a device: a key, and a certificate in its name."""
        key = new_key()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = self.authorities.issue_device(csr.public_bytes(Encoding.PEM), device_id, lifetime=lifetime)
        path = self._private(f"{device_id}-{issued.serial}.pem", key_pem(key) + issued.pem)
        return Identity(device_id, path, issued)

    def context(self, identity: Identity | Path | None) -> ssl.SSLContext:
        """Return how a client with this identity (or PEM file, or without any) connects."""
        path = identity.path if isinstance(identity, Identity) else identity
        return Tls(ca=self.ca, certificate=path).context()

    def revoke(self, identity: Identity) -> None:
        """Revoke a device as the server does: its rights, its certificate, and the broker is told."""
        self.revoked.append(identity)
        self.write_access()
        self.files.reload()

    def _private(self, name: str, pem: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(pem)
        path.chmod(0o600)
        return path
