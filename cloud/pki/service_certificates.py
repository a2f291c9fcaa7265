"""The server's own certificates, made when they are missing and made anew before they end.

tls/services-ca.crt     what the API, the broker and the cloud are known by
tls/api.pem             key and certificate of the HTTPS API
tls/cloud.pem           key and certificate of the cloud, as a client of the broker
broker/server.pem       key and certificate of the broker, or where the settings say that its files are
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from cloud.config import Home
from cloud.durable import make_private_directory, write_durably
from cloud.pki.authorities import Authorities, AuthorityError
from cloud.pki.issuing import CLOUD_NAME, alternative_names

SERVICES_CA: Final = "services-ca.crt"
API: Final = "api.pem"
CLOUD: Final = "cloud.pem"
BROKER: Final = "server.pem"
API_NAME: Final = "fleetlift api"
BROKER_NAME: Final = "fleetlift broker"
RENEWED_AFTER: Final = 2 / 3
"""How much of its life a certificate serves."""


@dataclass(frozen=True, slots=True)
class _Service:
    path: Path
    common_name: str
    names: Sequence[str]
    server: bool


def renew_due(home: Home, authorities: Authorities, names: Sequence[str], now: datetime, *, broker: Path) -> bool:
    """Write what is missing, has served two thirds of its life, is of a retired authority or has other names.

    `names` are the hosts and addresses that the API and the broker are reached by; `broker` is the directory that the
    broker reads: a certificate that is made anew elsewhere would let it run into its end. Returns whether anything was
    written, so that whoever uses the files reads them again.

    Raises:
        CertificateError: a name is neither a host's nor an IP address; nothing was written.
        AuthorityError: a file cannot be written; the others are as they were, or new.
    """
    services = (
        _Service(home.tls / API, API_NAME, names, server=True),
        _Service(home.tls / CLOUD, CLOUD_NAME, (), server=False),
        _Service(broker / BROKER, BROKER_NAME, names, server=True),
    )
    alternative_names(names)
    bundle = authorities.trusted("services")
    due = [service for service in services if not _serves(service, authorities, now)]
    written = {
        service.path: authorities.issue_service(service.common_name, service.names, server=service.server)
        for service in due
    }
    if _read(home.tls / SERVICES_CA) != bundle:
        written = {home.tls / SERVICES_CA: bundle} | written  # first: who is known by it comes after
    for path, content in written.items():
        try:
            make_private_directory(path.parent)
            write_durably(path, content)
        except OSError as error:
            raise AuthorityError(f"{path} could not be written: {error.strerror}; it is as it was") from error
    return bool(written)


def _serves(service: _Service, authorities: Authorities, now: datetime) -> bool:
    content = _read(service.path)
    if content is None:
        return False
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (
        authorities.has_issued(certificate, "services")
        and begin <= now < begin + (end - begin) * RENEWED_AFTER
        and _names(certificate) == set(alternative_names(service.names))
        and [it.value for it in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        == [service.common_name]
    )


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        return set()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
