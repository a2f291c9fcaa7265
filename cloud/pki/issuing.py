"""What certificates and revocation lists say: RFC 5280's profile, as strict as OpenSSL's X509_V_FLAG_X509_STRICT."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.pki.requests import CertificateError, DeviceKey

CLOUD_NAME: Final = "fleetlift.cloud"
"""What the broker knows the cloud by; it has a dot, so no device can be called so."""
ORGANISATION: Final = "Fleetlift"
BACKDATE: Final = timedelta(minutes=5)
"""How far clocks may differ; a device without a clock helps itself."""
AUTHORITY_LIFETIME: Final = timedelta(days=3653)
SERVICE_LIFETIME: Final = timedelta(days=365)
DEVICE_LIFETIME: Final = timedelta(days=90)
REVOCATIONS_LIFETIME: Final = timedelta(days=3653)
"""The list is a local file, so that nobody can hold an old one against it."""
MAX_NAMES: Final = 32
MAX_COMMON_NAME: Final = 64
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)


def new_key() -> EllipticCurvePrivateKey:
    """Return a new key on P-256."""
    return generate_private_key(SECP256R1())


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM (PKCS #8), unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_authority(key: EllipticCurvePrivateKey, common_name: str, now: datetime) -> x509.Certificate:
    """Return an authority's own certificate: it signs certificates and revocation lists, and no other authority."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_certificate(
    issuer: x509.Certificate,
    issuer_key: EllipticCurvePrivateKey,
    key: DeviceKey,
    common_name: str,
    *,
    names: Sequence[str] = (),
    server: bool,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Return a certificate for a server or a client, which ends with its issuer's at the latest.

    Raises CertificateError for a name that is neither a host's nor an IP address.
    """
    if not 0 < len(common_name) <= MAX_COMMON_NAME:
        raise CertificateError(f"a common name has 1 to {MAX_COMMON_NAME} characters; nothing was issued")
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATE, issuer.not_valid_before_utc))
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_authority_identifier(issuer), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names(names)), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def make_revocation_list(
    issuer: x509.Certificate,
    issuer_key: EllipticCurvePrivateKey,
    revoked: Iterable[tuple[int, datetime]],
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return the list of an authority's revoked serial numbers and when each was revoked."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - BACKDATE)
        .next_update(now + REVOCATIONS_LIFETIME)
        .add_extension(_authority_identifier(issuer), critical=False)
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
    )
    for serial, revoked_at in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked_at).build()
        )
    return builder.sign(issuer_key, hashes.SHA256())


def alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Return host names and IP addresses as a certificate has them; raises CertificateError."""
    if len(names) > MAX_NAMES:
        raise CertificateError(f"a certificate has at most {MAX_NAMES} names; nothing was issued")
    return list(dict.fromkeys(map(_alternative_name, names)))


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _DNS_NAME.fullmatch(name):
            raise CertificateError(
                f"{name!r:.100} is neither a host's name nor an IP address; nothing was issued"
            ) from None
        return x509.DNSName(name.lower())


def _authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
