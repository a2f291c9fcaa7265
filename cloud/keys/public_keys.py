"""Public keys as people hand them to one another: a small JSON file with the key's id and whose it is, or a PEM."""

import json
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]  # exported without saying so

from protocol.errors import FleetliftError

LABEL_FIELD: Final = "x-fleetlift-label"
"""Stands in the signed metadata beside the key, so that everybody sees whose it is."""
SUFFIX: Final = ".pub.json"
PURE_PYTHON_SCHEME: Final = "ed25519"
MAX_LABEL: Final = 80
MAX_BYTES: Final = 16_384
KEYID_SHOWN: Final = 12


class PublicKeyError(FleetliftError):
    """This is not a public key that can be used; nothing was changed."""


def labelled(key: Key, label: str) -> Key:
    """Return a key that says whose it is; raises PublicKeyError for a label that no table could show."""
    if len(label) > MAX_LABEL or not label.isprintable():
        raise PublicKeyError(f"{label!r:.100} cannot be whose key it is: up to {MAX_LABEL} printable characters can")
    fields = {name: value for name, value in key.unrecognized_fields.items() if name != LABEL_FIELD}
    if label:
        fields[LABEL_FIELD] = label
    return SSlibKey(key.keyid, key.keytype, key.scheme, key.keyval, fields)


def label_of(key: Key) -> str:
    """Return whose key it is, as far as anybody said."""
    label = key.unrecognized_fields.get(LABEL_FIELD, "")
    return label if isinstance(label, str) and len(label) <= MAX_LABEL and label.isprintable() else ""


def to_document(key: Key, *, uri: str | None = None) -> bytes:
    """Return the file of a public key; in a keyring `uri` says where the private part is."""
    document: dict[str, Any] = {"keyid": key.keyid, **key.to_dict()}
    if uri is not None:
        document["uri"] = uri
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def from_document(data: bytes, where: str) -> tuple[Key, str | None]:
    """Return the key of a file, JSON as `to_document` makes it or PEM, and its URI; raises PublicKeyError.

    The id is computed here and compared: one key under two ids would count twice towards a threshold.
    """
    if len(data) > MAX_BYTES:
        raise PublicKeyError(f"{where} has more than {MAX_BYTES} bytes: it is not a public key. Nothing was changed")
    if b"PRIVATE KEY" in data:
        raise PublicKeyError(
            f"{where} is a PRIVATE key. Nothing was changed; hand over what `fleetlift key public` writes, and if it "
            "has travelled already, replace the key"
        )
    if data.lstrip().startswith(b"-----BEGIN"):
        return _from_pem(data, where), None
    try:
        document = json.loads(data)
        keyid, uri = document.pop("keyid"), document.pop("uri", None)
        key = SSlibKey.from_dict(keyid, document)
        expected = _normal(key).keyid
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UnsupportedAlgorithm):
        raise PublicKeyError(f"{where} is not a public key. Nothing was changed") from None
    if keyid != expected or not (uri is None or isinstance(uri, str)):
        raise PublicKeyError(f"{where} does not have the id that its key has, {expected}. Nothing was changed")
    return labelled(key, label_of(key)), uri


def check_scheme(key: Key, *, needs_cryptography: bool) -> None:
    """Raise PublicKeyError for a key that devices in pure Python cannot check, unless that is said to be all right."""
    if key.scheme != PURE_PYTHON_SCHEME and not needs_cryptography:
        raise PublicKeyError(
            f"the key {shown_keyid(key.keyid)} signs with {key.scheme}. Devices without the `cryptography` package "
            "(the extra `fast`) can check Ed25519 alone, and would refuse what only such keys sign. Nothing was "
            "changed. If every device has that package, say so with --needs-cryptography"
        )


def shown_keyid(keyid: str) -> str:
    """Return a key's id as people tell keys apart by."""
    return keyid[:KEYID_SHOWN]


def _from_pem(data: bytes, where: str) -> Key:
    try:
        return SSlibKey.from_crypto(load_pem_public_key(data))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PublicKeyError(f"{where} is not a public key in PEM. Nothing was changed") from None


def _normal(key: Key) -> Key:
    """Return the same key made anew from its content alone; raises ValueError for content that is no key."""
    public = key.keyval["public"]
    if key.keytype == PURE_PYTHON_SCHEME:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)), scheme=key.scheme)
    return SSlibKey.from_crypto(load_pem_public_key(public.encode()), scheme=key.scheme)
