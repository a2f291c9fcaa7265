"""The authorities: what they sign passes the strictest check for its purpose and no other, and each can be followed."""

import base64
import contextlib
import ssl
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP224R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.pki.authorities import Authorities, AuthorityError, Kind, RevokedCertificate
from cloud.pki.issuing import CLOUD_NAME
from cloud.pki.requests import CertificateError
from protocol.errors import IdentityError
from tests.cloud.pki.requesting import AnyKey, new_key, private_pem, request, shake_hands, strict

_DER = Encoding.DER
_GOOD_DER = x509.load_pem_x509_csr(request(new_key())).public_bytes(_DER)
NAMES = ("localhost", "127.0.0.1", "::1", "broker.example")


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities.create(tmp_path / "ca")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Authorities for tests that change nothing of them."""
    return Authorities.create(tmp_path_factory.mktemp("shared") / "ca")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


File = Callable[[str, bytes], Path]


def device_pem(authorities: Authorities, device_id: str = "pi-1", key: AnyKey | None = None) -> bytes:
    chosen = key or new_key()
    return private_pem(chosen) + authorities.issue_device(request(chosen), device_id).pem


SHORT_KEY = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VvBCIEIHOLHGIt+narE1pZ6AEh7TMhiA0KfKF7U/hgvHY6g7Hr\n"
    b"-----END PRIVATE KEY-----\n"
)


def openssl(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)  # noqa: S607
    return done.returncode, done.stdout + done.stderr


def test_a_home_has_two_authorities_and_their_keys_are_private(authorities: Authorities, tmp_path: Path) -> None:
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()}
    assert found == dict.fromkeys(("devices-1.crt", "devices-1.key", "services-1.crt", "services-1.key"), 0o600)
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    with pytest.raises(AuthorityError, match="already; nothing was changed"):
        Authorities.create(tmp_path / "ca")
    (tmp_path / "ca" / "devices-1.key").chmod(0o640)
    with pytest.raises(AuthorityError, match="chmod 600"):
        Authorities(tmp_path / "ca")


def test_authorities_that_are_not_there_or_garbled_are_a_sentence(authorities: Authorities, tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="fleetlift init"):
        Authorities(tmp_path / "elsewhere")
    key = tmp_path / "ca" / "services-1.key"
    key.write_bytes((tmp_path / "ca" / "devices-1.key").read_bytes())
    with pytest.raises(AuthorityError, match="is not the key of"):
        Authorities(tmp_path / "ca")
    for garbled in (b"-----BEGIN SECRET-----", SHORT_KEY):
        key.write_bytes(garbled)
        with pytest.raises(AuthorityError, match="restore them") as caught:
            Authorities(tmp_path / "ca")
        assert "SECRET" not in str(caught.value)


def test_a_device_and_the_broker_take_each_other_at_the_strictest(authorities: Authorities, file: File) -> None:
    broker = file("broker.pem", authorities.issue_service("fleetlift broker", NAMES, server=True))
    server = strict(ssl.Purpose.CLIENT_AUTH, broker, authorities.trusted("devices"))
    for key in (new_key(), generate_private_key(SECP384R1()), Ed25519PrivateKey.generate(), generate_rsa(65537, 2048)):
        device = file("device.pem", device_pem(authorities, key=key))
        client = strict(ssl.Purpose.SERVER_AUTH, device, authorities.trusted("services"))
        for name in NAMES:
            assert shake_hands(server, client, name) == ("pi-1", "fleetlift broker")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(server, client, "elsewhere.example")


def test_the_cloud_is_a_client_of_the_services_authority(authorities: Authorities, file: File) -> None:
    broker = file("broker.pem", authorities.issue_service("fleetlift broker", NAMES, server=True))
    cloud = file("cloud.pem", authorities.issue_service(CLOUD_NAME, (), server=False))
    services = authorities.trusted("services")
    server = strict(ssl.Purpose.CLIENT_AUTH, broker, services)
    assert shake_hands(server, strict(ssl.Purpose.SERVER_AUTH, cloud, services), "localhost")[0] == CLOUD_NAME


def test_no_certificate_serves_for_anything_else(authorities: Authorities, file: File) -> None:
    devices, services = authorities.trusted("devices"), authorities.trusted("services")
    broker = file("broker.pem", authorities.issue_service("fleetlift broker", NAMES, server=True))
    cloud = file("cloud.pem", authorities.issue_service(CLOUD_NAME, (), server=False))
    device = file("device.pem", device_pem(authorities))

    def connect(server: Path, client: Path, clients: bytes, servers: bytes) -> None:
        shake_hands(
            strict(ssl.Purpose.CLIENT_AUTH, server, clients),
            strict(ssl.Purpose.SERVER_AUTH, client, servers),
            "localhost",
        )

    connect(broker, device, devices, services)
    for wrong in (
        (broker, device, services, services),  # a device at the cloud's door
        (broker, cloud, devices, services),  # the cloud as a device
        (broker, broker, services, services),  # the broker's own certificate, as a client
        (device, device, devices, devices),  # a device that plays the broker
        (cloud, device, devices, services),  # a client's certificate, as a server
    ):
        with pytest.raises(ssl.SSLError):
            connect(*wrong)


def test_openssl_agrees(authorities: Authorities, file: File) -> None:
    bundle, device = file("ca.pem", authorities.trusted("devices")), file("device.pem", device_pem(authorities))
    verify = ("verify", "-x509_strict", "-CAfile", bundle)
    assert openssl(*verify, "-purpose", "sslclient", device)[0] == 0
    code, said = openssl(*verify, "-purpose", "sslserver", device)
    assert (code, "purpose" in said) == (2, True)
    services = file("services.pem", authorities.trusted("services"))
    broker = file("broker.pem", authorities.issue_service("fleetlift broker", NAMES, server=True))
    assert openssl("verify", "-x509_strict", "-CAfile", services, "-purpose", "sslserver", broker)[0] == 0
    assert openssl(*verify, broker)[0] == 2


def test_a_certificate_says_what_the_server_decides(authorities: Authorities) -> None:
    key, before = new_key(), datetime.now(UTC)
    issued = authorities.issue_device(request(key, subject="fleetlift.cloud"), "pi-1")
    certificate = x509.load_pem_x509_certificate(issued.pem)
    assert certificate.subject.rfc4514_string() == "CN=pi-1"
    assert (certificate.serial_number, issued.authority) == (issued.serial, "devices-1")
    assert issued.serial.bit_length() <= 159
    assert timedelta(0) <= before - issued.not_before <= timedelta(minutes=5, seconds=1)
    assert issued.not_after - before >= timedelta(days=90) - timedelta(seconds=1)
    again = authorities.issue_device(request(key), "pi-1")
    assert (again.key_sha256, again.serial != issued.serial) == (issued.key_sha256, True)


def test_serials_are_random(shared: Authorities) -> None:
    csr = request(new_key())
    serials = [shared.issue_device(csr, "pi-1").serial for _ in range(100)]
    assert len(set(serials)) == 100
    assert all(serial.bit_length() > 120 for serial in serials)


@pytest.mark.parametrize("device_id", ["", "Pi-1", "pi/1", "+", "#", "pi.1", "fleetlift.cloud", "a" * 65, "pi-1\n"])
def test_a_name_that_is_no_id_is_certified_for_nobody(shared: Authorities, device_id: str) -> None:
    with pytest.raises(IdentityError):
        shared.issue_device(request(new_key()), device_id)


def test_bad_requests_are_refused(shared: Authorities) -> None:
    good = request(new_key())
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(_DER))
    der[-5] ^= 1  # in the signature
    refused = {
        "more than 8192 bytes": good + b" " * 8192,
        "not a certificate request": b"",
        "is not a certificate request": shared.issue_device(good, "pi-1").pem,
        "not signed by its own key": _pem(bytes(der)),
        "of a kind that is not taken": request(generate_private_key(SECP224R1())),
        "RSA of 2048 to 4096 bits": request(generate_rsa(65537, 1024)),  # noqa: S505 - weak on purpose
    }
    for why, csr in refused.items():
        with pytest.raises(CertificateError, match=why):
            shared.issue_device(csr, "pi-1")


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_as_a_request_is_certified_or_refused(shared: Authorities, data: st.DataObject) -> None:
    der = bytearray(_GOOD_DER)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with _refused_at_most():
        shared.issue_device(_pem(bytes(der)), "pi-1")
    with _refused_at_most():
        shared.issue_device(data.draw(st.binary(max_size=200)), "pi-1")


@pytest.mark.parametrize("name", ["", "a b", "*.example", "-a.example", "ex_ample", "a..b", "a" * 64, "x" * 300, "a\n"])
def test_a_server_has_the_names_of_hosts(shared: Authorities, name: str) -> None:
    with pytest.raises(CertificateError, match="neither a host's name nor an IP address"):
        shared.issue_service("fleetlift broker", [name], server=True)
    with pytest.raises(CertificateError, match="needs a name"):
        shared.issue_service("fleetlift broker", [], server=True)


def test_devices_change_over_from_one_authority_to_the_next(authorities: Authorities, tmp_path: Path) -> None:
    csr = request(new_key())
    old = authorities.issue_device(csr, "pi-1")
    rotation = authorities.rotate("devices")
    assert [(it.name, it.issuing) for it in rotation.trusted] == [("devices-2", True), ("devices-1", False)]
    new = authorities.issue_device(csr, "pi-1")
    assert (old.authority, new.authority) == ("devices-1", "devices-2")
    for opened in (authorities, Authorities(tmp_path / "ca")):
        assert opened.trusted("devices").count(b"BEGIN CERTIFICATE") == 2
        assert all(_verifies(opened.trusted("devices"), it.pem, tmp_path) for it in (old, new))
    retirement = authorities.retire("devices")
    assert [it.name for it in retirement.retired] == ["devices-1"]
    for opened in (authorities, Authorities(tmp_path / "ca")):
        assert not _verifies(opened.trusted("devices"), old.pem, tmp_path)
        assert _verifies(opened.trusted("devices"), new.pem, tmp_path)
    assert not (tmp_path / "ca" / "devices-1.key").exists()
    with pytest.raises(AuthorityError, match="rotate first"):
        authorities.retire("devices")
    assert Authorities(tmp_path / "ca").rotate("devices").trusted[0].name == "devices-3"


def test_servers_change_over_when_the_old_authority_is_retired(authorities: Authorities, tmp_path: Path) -> None:
    """Devices hear of a new one when they renew: until then they know the servers by the one that they have."""
    before = authorities.trusted("services")
    rotation = authorities.rotate("services")
    assert [(it.name, it.issuing) for it in rotation.trusted] == [("services-2", False), ("services-1", True)]
    assert _verifies(before, authorities.issue_service("api", NAMES, server=True), tmp_path)
    both = authorities.trusted("services")
    authorities.retire("services")
    issued = authorities.issue_service("api", NAMES, server=True)
    assert (_verifies(before, issued, tmp_path), _verifies(both, issued, tmp_path)) == (False, True)
    assert authorities.has_issued(x509.load_pem_x509_certificate(issued), "services")
    assert not authorities.has_issued(x509.load_pem_x509_certificate(issued), "devices")


@pytest.mark.parametrize("kind", ["devices", "services"])
def test_authorities_do_not_pile_up(authorities: Authorities, kind: Kind) -> None:
    for _ in range(3):
        authorities.rotate(kind)
    with pytest.raises(AuthorityError, match="retire the old ones first"):
        authorities.rotate(kind)


def test_a_rotation_that_was_cut_off_is_made_anew(authorities: Authorities, tmp_path: Path) -> None:
    (tmp_path / "ca" / "devices-2.key").write_bytes(b"half a")
    opened = Authorities(tmp_path / "ca")
    assert [it.name for it in opened.views("devices")] == ["devices-1"]
    assert opened.rotate("devices").trusted[0].name == "devices-2"


def test_revoked_certificates_are_refused_whichever_authority_signed_them(
    authorities: Authorities, tmp_path: Path
) -> None:
    old, kept = (authorities.issue_device(request(new_key()), name) for name in ("pi-1", "pi-2"))
    authorities.rotate("devices")
    new = authorities.issue_device(request(new_key()), "pi-3")
    revoked = [RevokedCertificate(it.serial, it.authority, 1_700_000_000_123) for it in (old, new)]
    lists, bundle = authorities.crl(revoked), authorities.trusted("devices")
    assert lists.count(b"BEGIN X509 CRL") == 2
    assert [_verifies(bundle, it.pem, tmp_path, crl=lists) for it in (old, kept, new)] == [False, True, False]
    assert authorities.crl(reversed(revoked)) == lists  # nothing changed: nobody has to read it again
    assert authorities.crl(revoked[:1]) != lists
    assert _verifies(bundle, old.pem, tmp_path, crl=authorities.crl([]))
    authorities.retire("devices")
    assert authorities.crl(revoked).count(b"BEGIN X509 CRL") == 1


def test_what_an_authority_signs_ends_with_it(tmp_path: Path) -> None:
    late = datetime.now(UTC)
    Authorities.create(tmp_path / "ca", now=lambda: late)
    opened = Authorities(tmp_path / "ca", now=lambda: late + timedelta(days=3653 - 30))
    assert opened.issue_device(request(new_key()), "pi-1").not_after == opened.views("devices")[0].not_after


def _verifies(bundle: bytes, certificate: bytes, directory: Path, *, crl: bytes | None = None) -> bool:
    trusted, path = directory / "bundle.pem", directory / "certificate.pem"
    trusted.write_bytes(bundle + (crl or b""))
    path.write_bytes(certificate)
    check = ["-crl_check"] if crl is not None else []
    return openssl("verify", "-x509_strict", *check, "-CAfile", trusted, path)[0] == 0


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


def _refused_at_most() -> contextlib.suppress:
    return contextlib.suppress(CertificateError)
