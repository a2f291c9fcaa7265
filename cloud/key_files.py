"""Private keys on disk: Ed25519, PKCS #8 in PEM, readable by one user alone, behind a passphrase if one is chosen."""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.durable import make_private_directory, write_durably
from cloud.keys.passphrases import Passphrases
from cloud.keys.pkcs8 import encrypt
from protocol.errors import FleetliftError

SUFFIX: Final = ".pem"
MAX_BYTES: Final = 16_384
NO_KEY_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm, InternalError)
"""What the library raises for bytes that are no private key."""
_PROTECTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


class KeyFileError(FleetliftError):
    """A key could not be made, or is not one that may be used; no key was changed."""


def create_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Make an Ed25519 key at `path` (0600); raises KeyFileError, also if there is a file already."""
    key = Ed25519PrivateKey.generate()
    try:
        make_private_directory(path.parent)
        write_durably(path, _to_pem(key, passphrase), replace=False)
    except OSError as error:
        if path.exists():
            raise KeyFileError(f"{path} exists already and was left as it is; a key is never overwritten") from None
        raise KeyFileError(f"the key {path} could not be written ({error.strerror}); nothing was changed") from error
    return CryptoSigner(key)


def load_key(path: Path, passphrases: Passphrases | None = None) -> CryptoSigner:
    """Return the signer of the Ed25519 key at `path`.

    Raises:
        KeyFileError: it is not here, not a key, or others can read it; the text says what to do.
        PassphraseError: it is protected, and nobody says its passphrase.
    """
    key = _load(path, passphrases or Passphrases())
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key: devices without `cryptography` check no other")
    return CryptoSigner(key)


def load_or_create_key(path: Path, passphrases: Passphrases | None = None) -> CryptoSigner:
    """Return the signer of the key at `path`, made now if there is none; raises as `load_key` does."""
    if path.exists():
        return load_key(path, passphrases)
    return create_key(path, passphrases.for_new_keys() if passphrases else None)


def protect_key(path: Path, passphrases: Passphrases, passphrase: bytes | None) -> None:
    """Put the key at `path` behind a new passphrase (None: behind none); raises as `load_key` does."""
    key = _load(path, passphrases)
    try:
        write_durably(path, _to_pem(key, passphrase))
    except OSError as error:
        raise KeyFileError(f"the key {path} could not be written ({error.strerror}); it is as it was") from error


def is_protected(path: Path) -> bool:
    """Tell whether the key at `path` is behind a passphrase; raises KeyFileError."""
    return _read(path).lstrip().startswith(_PROTECTED)


def check_private(path: Path, what: str = "the key") -> None:
    """Raise KeyFileError if anybody but its owner may read or change a file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise KeyFileError(
            f"{what} {path} is not here; fetch it from where it is kept, or name its directory"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{what} {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(f"{what} {path} can be read by others, so it was not used; do: chmod 600 {path}")


def _read(path: Path) -> bytes:
    check_private(path)
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise KeyFileError(f"the key {path} cannot be read: {error.strerror}") from error


def _load(path: Path, passphrases: Passphrases) -> PrivateKeyTypes:
    pem = _read(path)
    if not pem.lstrip().startswith(_PROTECTED):
        try:
            return load_pem_private_key(pem, None)
        except NO_KEY_ERRORS:  # the library's texts quote the content
            raise KeyFileError(f"{path} is not a private key in PEM, of PKCS #8") from None

    def attempt(passphrase: bytes) -> PrivateKeyTypes:
        try:
            return load_pem_private_key(pem, passphrase)
        except (TypeError, UnsupportedAlgorithm, InternalError) as error:
            raise ValueError(type(error).__name__) from None

    return passphrases.unlock(str(path), attempt)


def _to_pem(key: PrivateKeyTypes, passphrase: bytes | None) -> bytes:
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encrypt(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase)
