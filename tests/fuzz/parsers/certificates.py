"""Targets: enrolment, certificates and keys, at the server, on the device and in an operator's keyring."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.keys.drafts import FORMAT, FORMAT_VERSION, Draft
from cloud.keys.known_metadata import KeyringError
from cloud.keys.public_keys import PublicKeyError, from_document, to_document
from cloud.pki.authorities import Authorities
from cloud.pki.requests import (
    CertificateError,
    certified_key_sha256,
    has_signed,
    read_certificate,
    read_request,
)
from cloud.roles import TrustError
from device_agent.identity.certificates import blocks, find
from device_agent.identity.server import ServerError, _refusal, check_server
from device_agent.identity.store import Identity, IdentityFilesError, IdentityStore, RenewalTries, Tries
from protocol.codec import decode, encode
from protocol.enrolment import (
    Enrolled,
    EnrolmentCode,
    EnrolmentRequest,
    RenewalRequest,
    TrustDocument,
    check_token,
    make_token,
    read_code,
)
from protocol.errors import EnrolmentError, FleetliftError, MessageError
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.trust import WORDS, repository
from tests.fuzz.parsers.wire import plain
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import DIGEST_A

CODE: Final = str(EnrolmentCode(make_token(bytes(range(16))), DIGEST_A, "b" * 64))
NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi-1")])


def code(content: bytes) -> object:
    """An enrolment code, alone or in a file; nothing that is refused repeats the token."""
    text = content.decode("utf-8", errors="surrogateescape")
    found = read_code(text)
    assert str(EnrolmentCode.parse(str(found))) == str(found)
    assert found.token not in repr(found)
    check_token(found.token)
    return True


ENROLMENT: Final = (
    EnrolmentRequest(token="A" * 22, device_id="pi-1", hardware_model="pi-4", csr="-----BEGIN"),
    RenewalRequest(certificate="-----BEGIN", csr="-----BEGIN", signature="AAAA"),
    TrustDocument(ca="-----BEGIN", roots=("{}", "{}")),
    Enrolled(
        device_id="pi-1",
        product="thermostat",
        certificate="-----BEGIN",
        ca="-----BEGIN",
        broker_url="mqtts://b:8883",
        topic_root="fleetlift/v1",
        not_before_ms=1,
        not_after_ms=2,
    ),
)


def enrolment(kind: type[Any]) -> Callable[[bytes], object]:
    """Return what decodes a message of enrolment."""

    def parse(content: bytes) -> object:
        return decode(encode(decode(content, kind)), kind) is not None

    return parse


def requests() -> list[bytes]:
    """Return certificate requests with keys of each kind, in DER, and one in PEM."""
    keys = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    )
    made = []
    for key in keys:
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        builder = x509.CertificateSigningRequestBuilder(NAME).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("pi-1")]), critical=False
        )
        made.append(builder.sign(key, algorithm))
    return [*(b"d" + csr.public_bytes(Encoding.DER) for csr in made), b"p" + made[0].public_bytes(Encoding.PEM)]


def pem_of(content: bytes, what: str) -> bytes:
    """Return what an input stands for: a text as it is, or DER in PEM."""
    if content[:1] != b"d":
        return content[1:]
    body = base64.encodebytes(content[1:])
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (what.encode(), body, what.encode())


def request(content: bytes) -> object:
    """A certificate request."""
    found = read_request(pem_of(content, "CERTIFICATE REQUEST"))
    return type(found.key).__name__


@contextlib.contextmanager
def issuing(directory: Path) -> Iterator[Parse]:
    """A certificate request that becomes a certificate: the name in it is the server's."""
    authorities = Authorities.create(directory / "ca")

    def parse(content: bytes) -> object:
        issued = authorities.issue_device(pem_of(content, "CERTIFICATE REQUEST"), "pi-7")
        certificate = read_certificate(issued.pem if isinstance(issued.pem, bytes) else issued.pem.encode())
        assert certificate.subject.rfc4514_string() == "CN=pi-7"
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        return True

    yield parse


def certificates() -> list[bytes]:
    """Return certificates of devices and authorities, in DER, and one in PEM."""
    with tempfile.TemporaryDirectory() as directory:
        authorities = Authorities.create(Path(directory) / "ca")
        pems = [authorities.trusted("devices")]
        for csr in requests():
            with contextlib.suppress(CertificateError):
                pem = authorities.issue_device(pem_of(csr, "CERTIFICATE REQUEST"), "pi-1").pem
                pems.append(pem if isinstance(pem, bytes) else pem.encode())
    ders = [x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for pem in pems]
    return [*(b"d" + der for der in ders), b"p" + pems[0]]


def certificate(content: bytes) -> object:
    """The present certificate of a device that renews it, as the server and the device read it."""
    pem = pem_of(content, "CERTIFICATE")
    text = pem.decode(errors="replace")
    assert find(text, "0" * 64) is None
    blocks(text)
    found = read_certificate(pem)
    assert not has_signed(found, content[-64:], b"x")
    assert len(certified_key_sha256(found)) == 64
    return found.serial_number.bit_length() // 8


@contextlib.contextmanager
def identity(directory: Path) -> Iterator[Parse]:
    """The device's own files of its identity."""
    store = IdentityStore(directory / "identity")
    store.prepare()
    names = ("identity.json", "renewal.json", "ca.crt", "device-1.pem", "next.key")

    def parse(content: bytes) -> object:
        for name in names:
            (store.directory / name).write_bytes(content)
        found = store.load()
        store.tries()
        if found is not None:
            with contextlib.suppress(IdentityFilesError):
                store.certificate_of(found)
        store.authorities()
        return found is not None

    yield parse


def refusal(content: bytes) -> object:
    """What an enrolment server says, when it says no."""
    error = _refusal("https://s", 403, content)
    assert isinstance(error, ServerError)
    assert str(error).isprintable()
    return len(error.code) <= 40


def server_url(content: bytes) -> object:
    """The URL of an enrolment server."""
    return check_server(content.decode("utf-8", errors="surrogateescape"))[1]


def public_key(content: bytes) -> object:
    """A public key's file, JSON or PEM."""
    return from_document(content, "it")[0].keytype


def public_keys() -> list[bytes]:
    """Return public keys as files."""
    signers = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa(), CryptoSigner.generate_rsa()]
    pem = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA%b=\n-----END PUBLIC KEY-----\n" % (b"A" * 43)
    return [
        *(to_document(signer.public_key) for signer in signers),
        pem,
        to_document(signers[0].public_key, uri="hsm:1"),
    ]


def draft(content: bytes) -> object:
    """A draft of metadata, as it travels between those who sign it."""
    found = Draft.from_bytes(content, "it")
    assert Draft.from_bytes(found.to_bytes(), "it").pieces.keys() == found.pieces.keys()
    return found.name


def drafts() -> list[bytes]:
    """Return drafts of one piece and of several."""
    files = repository().files
    pieces = {name: json.loads(data) for name, data in files.items()}
    whole = {FORMAT: FORMAT_VERSION, "root": pieces["1.root.json"], "targets": pieces["1.targets.json"]}
    whole["roles"] = {"thermostat": pieces["2.thermostat.json"]}
    return [json.dumps(whole).encode(), files["1.root.json"], files["2.thermostat.json"], files["1.targets.json"]]


IDENTITY: Final = Identity(
    device_id="pi-1",
    product="thermostat",
    server="https://s:8321",
    broker_url="mqtts://b:8883",
    topic_root="fleetlift/v1",
    certificate="device-1.pem",
    not_before_ms=1,
    not_after_ms=2,
)
_PEM: Final = (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----", b"-----BEGIN CERTIFICATE REQUEST-----")

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="enrolment.code",
        make=plain(code),
        seeds=lambda: [CODE.encode(), f"# a code\n\n  {CODE}\r\n".encode()],
        shape="text",
        expected=(EnrolmentError,),
        covers=(
            "protocol.enrolment.read_code",
            "protocol.enrolment.EnrolmentCode.parse",
            "protocol.enrolment.check_token",
        ),
        words=(b"fl1.", b".", b"=", b"#", b"-", b"_", b"A" * 22, b"A" * 43),
    ),
    *(
        Target(
            name=f"enrolment.{type(message).__name__}",
            make=plain(enrolment(type(message))),
            seeds=lambda message=message: [encode(message)],  # type: ignore[misc]
            shape="json",
            expected=(MessageError,),
            covers=("protocol.codec.decode",),
        )
        for message in ENROLMENT
    ),
    Target(
        name="certificate_request",
        make=plain(request),
        seeds=requests,
        shape="bytes",
        expected=(CertificateError,),
        covers=("cloud.pki.requests.read_request",),
        words=(*_PEM, b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\x05", b"\x06\x03\x55\x04\x03"),
    ),
    Target(
        name="certificate_request.issued",
        make=issuing,
        seeds=requests,
        shape="bytes",
        expected=(CertificateError,),
        covers=("cloud.pki.authorities.Authorities.issue_device",),
        heavy=True,
    ),
    Target(
        name="certificate",
        make=plain(certificate),
        seeds=certificates,
        shape="bytes",
        expected=(CertificateError,),
        covers=(
            "cloud.pki.requests.read_certificate",
            "cloud.pki.requests.has_signed",
            "device_agent.identity.certificates.blocks",
            "device_agent.identity.certificates.find",
        ),
        words=(*_PEM, b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\x05"),
    ),
    Target(
        name="identity.files",
        make=identity,
        seeds=lambda: [
            encode(IDENTITY),
            encode(RenewalTries(certificate=Tries(failures=1, tried_at_s=5, done_at_s=4))),
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ],
        shape="json",
        expected=(IdentityFilesError,),
        covers=("device_agent.identity.store.IdentityStore",),
    ),
    Target(
        name="identity.refusal",
        make=plain(refusal),
        seeds=lambda: [
            b'{"error":"token_used","message":"The token was used."}',
            b'{"code":"x","detail":"y"}',
            b"<html>",
        ],
        shape="json",
        covers=("device_agent.identity.server.EnrolmentServer",),
    ),
    Target(
        name="identity.url",
        make=plain(server_url),
        seeds=lambda: [b"https://server.example:8321", b"https://[::1]:1", b"https://h/"],
        shape="bytes",
        expected=(FleetliftError,),
        covers=("device_agent.identity.server.check_server",),
        words=(b"https://", b"http://", b"[", b"]", b":", b"@", b"/", b"65536", b"?", b"#", "\u0663".encode()),
    ),
    Target(
        name="keys.public",
        make=plain(public_key),
        seeds=public_keys,
        shape="json",
        expected=(PublicKeyError,),
        covers=("cloud.keys.public_keys.from_document",),
        words=WORDS,
    ),
    Target(
        name="keys.draft",
        make=plain(draft),
        seeds=drafts,
        shape="json",
        expected=(KeyringError, TrustError),
        covers=("cloud.keys.drafts.Draft.from_bytes",),
        words=WORDS,
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
