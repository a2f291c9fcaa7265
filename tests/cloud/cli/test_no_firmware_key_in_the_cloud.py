"""The server and the broker have no key that could sign firmware: everything that lies there is tried."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from tests.cloud.cli.offices import Office

PEM = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----(.+?)-----END", re.DOTALL)
PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
"""How a PKCS #8 Ed25519 key begins (RFC 8410); the 32 bytes after it are the key."""


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def private_keys_in(content: bytes) -> Iterator[bytes]:
    """The public parts of every Ed25519 private key in some bytes: as PEM, as DER, raw or in hexadecimal or base64."""
    for match in PEM.finditer(content):
        assert b"ENCRYPTED" not in match[1], "nobody can say what that is"
        try:
            key = load_der_private_key(base64.b64decode(b"".join(match[2].split())), None)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PrivateKey):
            yield public_bytes(key)
    for start in (match.end() for match in re.finditer(re.escape(PKCS8_ED25519), content)):
        yield public_bytes(Ed25519PrivateKey.from_private_bytes(content[start : start + 32]))


def offline_secrets(keys: Path) -> dict[str, bytes]:
    """The 32 secret bytes of each of the operator's keys."""
    found = {}
    for path in keys.glob("*.pem"):
        der = base64.b64decode(b"".join(path.read_bytes().splitlines()[1:-1]))
        found[path.name] = der[der.index(PKCS8_ED25519) + len(PKCS8_ED25519) :][:32]
    return found


def signing_keys(keys: Path) -> set[bytes]:
    """The public parts that root, targets and the products' roles are signed with."""
    root = Metadata[Root].from_bytes((keys / "1.root.json").read_bytes()).signed
    targets = Metadata[Targets].from_bytes((keys / "targets.json").read_bytes()).signed
    named = [root.keys[keyid] for role in ("root", "targets") for keyid in root.roles[role].keyids]
    assert targets.delegations is not None
    return {bytes.fromhex(key.keyval["public"]) for key in [*named, *targets.delegations.keys.values()]}


def test_nothing_that_the_server_or_the_broker_has_can_sign_firmware(closed: Office) -> None:
    """After a life with everything in it: a product, a release, a replaced online key, an enrolled device."""
    closed.serve()
    closed.call("release", "push", closed.application(), "--version", "1.0.0", "--yes")
    closed.call("key", "online", "prepare")
    closed.call("key", "online", "add", "--yes")
    closed.call("key", "renew", "--all", "--yes")
    keys = closed.home / "operator" / "keys"
    offline, secrets = signing_keys(keys), offline_secrets(keys)
    assert len(offline) == len(secrets) == 5
    files = [path for part in ("cloud", "broker") for path in (closed.home / part).rglob("*") if path.is_file()]
    assert {"online.pem", "online-next.pem", "fleetlift.db"} <= {path.name for path in files}
    online = set[bytes]()
    for path in files:
        content = path.read_bytes()
        found = set(private_keys_in(content))
        assert not found & offline, f"{path} can sign firmware"
        online |= found
        for name, secret in secrets.items():
            for spelling in (secret, secret.hex().encode(), base64.b64encode(secret)[:42]):
                assert spelling not in content, f"{path} holds {name}"
    assert len(online) >= 2, "the search finds the keys that are there"


def test_the_search_finds_a_key_that_is_there(tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ed25519()
    pem = signer.private_bytes
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    public = bytes.fromhex(signer.public_key.keyval["public"])
    assert set(private_keys_in(b"before\n" + pem)) == set(private_keys_in(b"x" + der + b"y")) == {public}
    (tmp_path / "a.pem").write_bytes(pem)
    assert offline_secrets(tmp_path)["a.pem"] in der
