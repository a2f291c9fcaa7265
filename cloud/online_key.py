"""The one key that the server holds: it signs snapshots, timestamps, notices and desired states, and no firmware."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp  # type: ignore[attr-defined]  # the same

from cloud.durable import sync_directory
from cloud.key_files import KeyFileError, create_key
from cloud.keys import public_keys
from cloud.keys.private_keys import PrivateKeys
from cloud.keys.signing import add_signature
from cloud.metadata_files import MetadataFile
from cloud.roles import MAX_VERSION, SNAPSHOT, SNAPSHOT_LIFETIME, TIMESTAMP, TIMESTAMP_LIFETIME, TrustError
from protocol.signing import Signature


class OnlineKey:
    """Signs what the server vouches for by itself: with its key, and while one replaces another with both.

    A key is replaced without a gap: the server makes the next one, a root names it beside the present one and both
    sign, a further root no longer names the old one, which is then removed. Where it was stolen one root does both. All
    of that is in the files, so that a crash between any two steps changes nothing.
    """

    def __init__(self, signer: Signer, path: Path | None = None, upcoming: Signer | None = None) -> None:
        self.signer, self.upcoming = signer, upcoming
        self._path = path
        self._active: tuple[Signer, ...] = (signer,)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Return the key at `path`, made now (0600) if there is none; raises KeyFileError."""
        return cls(_load(path) or create_key(path), path, _load(_next_path(path)))

    @property
    def public(self) -> Key:
        """The public part: what the operator's keyring writes into root."""
        return self.signer.public_key

    @property
    def upcoming_public(self) -> Key | None:
        """The public part of the key that comes next, if there is one."""
        return self.upcoming.public_key if self.upcoming is not None else None

    def prepare(self) -> Key:
        """Return the public part of the key that comes next, made now if there is none; raises KeyFileError."""
        if self._path is None:
            raise KeyFileError("this key lies in no file, so none can follow it")
        path = _next_path(self._path)
        self.upcoming = _load(path) or create_key(path)
        return self.upcoming.public_key

    def check_vouched(self, root: Metadata[Root]) -> None:
        """Raise TrustError unless `root` lets a key of this server sign snapshot and timestamp alone."""
        self._vouched(root)

    def stand_on(self, root: Metadata[Root]) -> None:
        """Sign with the keys that `root` names from now on; one that it no longer names is removed.

        Raises:
            TrustError: it names none of this server's.
            OSError: the disk fails; then the old key stays there, and does not sign.
        """
        self._active = self._vouched(root)
        if self.upcoming is not None and self.signer not in self._active:
            self.signer, self.upcoming = self.upcoming, None
            if self._path is not None:
                _replace(_next_path(self._path), self._path)

    def _vouched(self, root: Metadata[Root]) -> tuple[Signer, ...]:
        roles = [root.signed.roles[name] for name in (SNAPSHOT, TIMESTAMP)]
        vouched = tuple(
            signer
            for signer in (self.signer, self.upcoming)
            if signer is not None
            and all(signer.public_key.keyid in role.keyids and role.threshold == 1 for role in roles)
        )
        if not vouched:
            raise TrustError(
                f"root version {root.signed.version} does not let this server's key sign {SNAPSHOT} and {TIMESTAMP} "
                "alone. Add the key with the operator's keyring, or bring back the key that root names"
            )
        return vouched

    def snapshot(self, offline: Mapping[str, MetadataFile], previous: int, now: datetime) -> MetadataFile:
        """Return the snapshot of these roles, by name, that follows version `previous`."""
        meta = {f"{name}.json": _meta(file) for name, file in offline.items()}
        return self._sign(Snapshot(_next_version(previous, now), expires=now + SNAPSHOT_LIFETIME, meta=meta))

    def timestamp(self, snapshot: MetadataFile, previous: int, now: datetime) -> MetadataFile:
        """Return the timestamp over `snapshot` that follows version `previous`."""
        expires = now + TIMESTAMP_LIFETIME
        return self._sign(Timestamp(_next_version(previous, now), expires=expires, snapshot_meta=_meta(snapshot)))

    def sign(self, pae: bytes) -> tuple[Signature, ...]:
        """Return the signatures over a message's pre-authentication encoding (`protocol/signing.py`)."""
        made = [signer.sign(pae) for signer in self._active]
        return tuple(Signature(keyid=signature.keyid, sig=signature.signature) for signature in made)

    def _sign(self, payload: Snapshot | Timestamp) -> MetadataFile:
        metadata: Metadata[Any] = Metadata(payload)
        for signer in self._active:
            add_signature(metadata, signer)
        return MetadataFile(metadata.to_bytes(), metadata)


def _next_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-next{path.suffix}")


def _load(path: Path) -> Signer | None:
    """Return the signer of a key that is here, or at the URI that lies in its place; None where there is neither."""
    keys = PrivateKeys(path.parent)
    if path.exists() or keys.uri_of(path.stem) is not None:
        return keys.signer(path.stem)
    return None


def _replace(new: Path, old: Path) -> None:
    """Put the next key in the old one's place, durably: either a key file, or the note of its URI."""
    uri_suffix = public_keys.SUFFIX
    if new.exists():
        new.replace(old)
        old.with_name(old.stem + uri_suffix).unlink(missing_ok=True)
    else:
        new.with_name(new.stem + uri_suffix).replace(old.with_name(old.stem + uri_suffix))
        old.unlink(missing_ok=True)
    sync_directory(old.parent)


def _meta(file: MetadataFile) -> MetaFile:
    return MetaFile.from_data(file.version, file.data, ["sha256"])


def _next_version(previous: int, now: datetime) -> int:
    seconds = int(now.timestamp())
    return max(previous + 1, seconds) if seconds <= MAX_VERSION else previous + 1
