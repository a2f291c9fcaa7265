"""Putting a signature on metadata, with failures as sentences."""

from typing import Any

from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from cloud.key_files import KeyFileError
from protocol.errors import FleetliftError


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Sign `metadata` beside who has signed it before.

    Raises:
        KeyFileError, PassphraseError: the signer fails; python-tuf wraps whatever it raises.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, FleetliftError):
            raise error.__cause__ from None
        raise KeyFileError(f"the key {signer.public_key.keyid} could not sign: {error}. Nothing was changed") from error
