"""Keys are made and used alike with and without the cryptography package."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud.pki.requests import read_request
from device_agent.identity.keys import CryptographyKeys, KeyFileError, Keys, OpensslKeys, der_of
from protocol.errors import IdentityError

BOTH = pytest.mark.parametrize("keys", [OpensslKeys(), CryptographyKeys()], ids=lambda keys: type(keys).__name__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a key"


@BOTH
def test_a_key_is_on_the_right_curve_and_asks_and_signs(keys: Keys, path: Path) -> None:
    path.write_bytes(keys.make())
    private = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, EllipticCurvePrivateKey)
    assert isinstance(private.curve, SECP256R1)
    pem = keys.request(path, "pi-1")
    assert read_request(pem.encode()).der == der_of(pem)
    request = x509.load_pem_x509_csr(pem.encode())
    assert request.is_signature_valid
    assert request.public_key() == private.public_key()
    private.public_key().verify(keys.sign(path, b"data"), b"data", ECDSA(hashes.SHA256()))


@BOTH
def test_each_key_is_another(keys: Keys) -> None:
    assert keys.make() != keys.make()


@BOTH
def test_a_pair_of_key_and_certificate_signs_too(keys: Keys, path: Path) -> None:
    path.write_bytes(keys.make() + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert keys.sign(path, b"data")


@BOTH
def test_what_is_no_key_is_told_and_not_repeated(keys: Keys, path: Path) -> None:
    for content in ("c2VjcmV0", "MC4CAQAwBQYDK2VvBCIEIHOLHGIt+narE1pZ6AEh7TMhiA0KfKF7U/hgvHY6g7Hr"):
        path.write_text(f"-----BEGIN PRIVATE KEY-----\n{content}\n-----END PRIVATE KEY-----\n")
        for use in (lambda: keys.request(path, "pi-1"), lambda: keys.sign(path, b"data")):
            with pytest.raises(KeyFileError) as refused:
                use()
            assert content not in str(refused.value)


@BOTH
def test_a_name_cannot_write_settings(keys: Keys, path: Path) -> None:
    path.write_bytes(keys.make())
    with pytest.raises(IdentityError):
        keys.request(path, "pi-1\n[v3]")


def test_without_either_the_device_says_what_to_install() -> None:
    with pytest.raises(KeyFileError, match="install it"):
        OpensslKeys("no-such-program").make()


def test_a_program_that_fails_is_told() -> None:
    with pytest.raises(KeyFileError, match="false genpkey failed"):
        OpensslKeys("false").make()


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN X-----\n!\n-----END X-----", "-----BEGIN X-----\nAAAA"])
def test_what_is_not_pem_is_refused(text: str) -> None:
    with pytest.raises(KeyFileError):
        der_of(text)
