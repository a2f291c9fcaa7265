"""Private keys on disk: Ed25519, PKCS #8 in PEM, readable by one user alone."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.durable import make_private_directory, write_durably
from protocol.errors import FleetliftError

SUFFIX: Final = ".pem"


class KeyFileError(FleetliftError):
    """A key could not be made, or is not one that may be used; no key was changed."""


def create_key(path: Path) -> CryptoSigner:
    """Make an Ed25519 key at `path` (0600); raises KeyFileError, also if there is a file already."""
    signer = CryptoSigner.generate_ed25519()
    try:
        make_private_directory(path.parent)
        write_durably(path, signer.private_bytes, replace=False)
    except OSError as error:
        if path.exists():
            raise KeyFileError(f"{path} exists already and was left as it is; a key is never overwritten") from None
        raise KeyFileError(f"the key {path} could not be written ({error.strerror}); nothing was changed") from error
    return signer


def load_key(path: Path) -> CryptoSigner:
    """Return the signer of the Ed25519 key at `path`; raises KeyFileError with what to do."""
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"the key {path} is not here; fetch it from where it is kept, or name its directory"
        ) from None
    except OSError as error:
        raise KeyFileError(f"the key {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(f"the key {path} can be read by others, so it was not used; do: chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):  # the library's texts quote the content
        raise KeyFileError(f"{path} is not a private key in PEM without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key: devices without `cryptography` check no other")
    return CryptoSigner(key)


def load_or_create_key(path: Path) -> CryptoSigner:
    """Return the signer of the key at `path`, made now if there is none; raises KeyFileError."""
    return load_key(path) if path.exists() else create_key(path)
