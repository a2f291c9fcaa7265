"""The one key that the server holds: it signs snapshots, timestamps, notices and desired states, and no firmware."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from securesystemslib.signer import CryptoSigner, Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp  # type: ignore[attr-defined]  # the same

from cloud.key_files import load_or_create_key
from cloud.metadata_files import MetadataFile
from cloud.roles import MAX_VERSION, SNAPSHOT, SNAPSHOT_LIFETIME, TIMESTAMP, TIMESTAMP_LIFETIME, TrustError
from protocol.signing import Signature


@dataclass(frozen=True, slots=True)
class OnlineKey:
    """Signs what the server vouches for by itself."""

    signer: CryptoSigner

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Return the key at `path`, made now (0600) if there is none; raises KeyFileError."""
        return cls(load_or_create_key(path))

    @property
    def public(self) -> Key:
        """The public part: what the operator's keyring writes into root."""
        return self.signer.public_key

    def check_vouched(self, root: Metadata[Root]) -> None:
        """Raise TrustError unless `root` lets this key sign snapshot and timestamp alone."""
        for name in (SNAPSHOT, TIMESTAMP):
            role = root.signed.roles[name]
            if self.public.keyid not in role.keyids or role.threshold != 1:
                raise TrustError(
                    f"root version {root.signed.version} does not let this server's key sign {name} alone. Add the key "
                    "with the operator's keyring, or bring back the key that root names"
                )

    def snapshot(self, offline: Mapping[str, MetadataFile], previous: int, now: datetime) -> MetadataFile:
        """Return the snapshot of these roles, by name, that follows version `previous`."""
        meta = {f"{name}.json": _meta(file) for name, file in offline.items()}
        return self._sign(Snapshot(_next_version(previous, now), expires=now + SNAPSHOT_LIFETIME, meta=meta))

    def timestamp(self, snapshot: MetadataFile, previous: int, now: datetime) -> MetadataFile:
        """Return the timestamp over `snapshot` that follows version `previous`."""
        expires = now + TIMESTAMP_LIFETIME
        return self._sign(Timestamp(_next_version(previous, now), expires=expires, snapshot_meta=_meta(snapshot)))

    def sign(self, pae: bytes) -> tuple[Signature, ...]:
        """Return the signature over a message's pre-authentication encoding (`protocol/signing.py`)."""
        signature = self.signer.sign(pae)
        return (Signature(keyid=signature.keyid, sig=signature.signature),)

    def _sign(self, payload: Snapshot | Timestamp) -> MetadataFile:
        metadata: Metadata[Any] = Metadata(payload)
        metadata.sign(self.signer)
        return MetadataFile(metadata.to_bytes(), metadata)


def _meta(file: MetadataFile) -> MetaFile:
    return MetaFile.from_data(file.version, file.data, ["sha256"])


def _next_version(previous: int, now: datetime) -> int:
    seconds = int(now.timestamp())
    return max(previous + 1, seconds) if seconds <= MAX_VERSION else previous + 1
