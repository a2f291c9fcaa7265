"""The server's TUF repository: takes what offline keys signed, checks it as a device would, and keeps it fresh.

The one key here signs snapshot, timestamp, notices and desired states. It cannot make a device run anything: firmware
is in the products' roles, which offline keys sign (`cloud/keyring.py`; all roles are described in `cloud/roles.py`).

Files are `<version>.<role>.json` (consistent snapshots) and `timestamp.json`. A change is written in the order role,
snapshot, timestamp, each durable before the next, and the timestamp is what makes it current: after a crash between
two of them the repository is what it was before, and what lies there too much is written over by the next change.

Snapshot and timestamp versions are never below the time in seconds, so that a repository restored from a backup still
counts upward. An offline role may skip versions for the same reason: the operator sends the newest one again.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # the same

from cloud.acceptance import Incoming, Offline, accept
from cloud.bundles import fitting, make_patch
from cloud.durable import make_private_directory, remove_leftovers
from cloud.metadata_files import MetadataFile, MetadataFiles, verify_roots
from cloud.online_key import OnlineKey
from cloud.roles import (
    ROOT,
    SNAPSHOT,
    SNAPSHOT_LIFETIME,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_LIFETIME,
    SignedFirmware,
    TrustError,
    check_root,
    check_separate,
    check_targets,
    firmware_of,
    floors_of,
    parse,
    signers_of,
    utc_now,
    verify,
)
from cloud.standing import Expiry, Standing, expiries
from protocol.down import Bundle
from protocol.errors import MessageError
from protocol.patches import Patch
from protocol.signing import Signature
from protocol.values import check_metadata_name

_log = logging.getLogger(__name__)


class MetadataRepository:
    """The repository in one directory. Thread-safe; one process at a time."""

    def __init__(self, directory: Path, key: OnlineKey, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open a repository, and sign anew whatever is due.

        Raises:
            TrustError: there is none, a file of it is missing or damaged, or `key` is not what root vouches for.
            OSError: the disk fails.
        """
        self._files = MetadataFiles(directory)
        self._patches: dict[str, tuple[bytes, Patch | None]] = {}
        self._told: dict[str, tuple[MetadataFile, MetadataFile | None]] = {}
        """By product: the snapshot in its newest bundle, and the one in the bundles before that."""
        self._key = key
        self._now = now
        self._lock = threading.RLock()
        remove_leftovers(directory)
        self._root = self._files.read_root()
        self._key.stand_on(self._root.metadata)
        timestamp, self._snapshot = self._files.read_snapshot(self._root)
        self._offline = self._files.read_offline(self._root, self._snapshot)  # targets and the products' roles, by name
        check_separate(self._root.metadata.signed, self._offline[TARGETS].metadata.signed)
        if timestamp is None:
            _log.warning("the timestamp was lost; a new one is signed over snapshot version %d", self._snapshot.version)
            timestamp = key.timestamp(self._snapshot, 0, now())
            self._files.put(TIMESTAMP, timestamp)
        self._timestamp = timestamp
        named = self._snapshot.metadata.signed.meta
        if any(named[f"{name}.json"].version != file.version for name, file in self._offline.items()):
            self._commit({})  # a crash came between a root with new keys and the snapshot
        self.resign_if_due()

    @classmethod
    def create(
        cls,
        directory: Path,
        key: OnlineKey,
        *,
        roots: tuple[bytes, ...],
        targets: bytes,
        now: Callable[[], datetime] = utc_now,
    ) -> Self:
        """Make the repository that an operator's keyring begins (`Keyring.roots()`, `Keyring.targets()`).

        Where an earlier call was interrupted, this completes it. A repository that is complete is opened, if it stands
        on the same first root.

        Raises:
            TrustError: the metadata is not good, does not name `key`, or another repository is here.
            OSError: the disk fails.
        """
        chain = verify_roots(roots)
        make_private_directory(directory)
        files = MetadataFiles(directory)
        there = files.bytes_of(ROOT, chain[0].version)
        if there is not None and there != chain[0].data:
            raise TrustError(f"{directory} holds a repository with another root already; nothing was changed")
        if not (directory / f"{TIMESTAMP}.json").exists():
            first = MetadataFile(targets, parse(targets, Targets, TARGETS))
            verify(chain[-1].metadata, TARGETS, first.metadata)
            check_targets(first.metadata.signed)
            for root in chain:
                check_root(root.metadata.signed)
                files.put(ROOT, root)
            files.put(TARGETS, first)
            snapshot = key.snapshot({TARGETS: first}, 0, now())
            files.put(SNAPSHOT, snapshot)
            files.put(TIMESTAMP, key.timestamp(snapshot, 0, now()))
        return cls(directory, key, now=now)

    @property
    def root_version(self) -> int:
        """The newest root's version."""
        return self._root.version

    @property
    def version(self) -> int:
        """The timestamp's version: rises with every change."""
        return self._timestamp.version

    @property
    def root_bytes(self) -> bytes:
        """The newest root metadata."""
        return self._root.data

    def products(self) -> tuple[str, ...]:
        """Return the products whose role is here."""
        return tuple(name for name in self._offline if name != TARGETS)

    def firmware(self, product: str) -> tuple[SignedFirmware, ...]:
        """Return all firmware of a product, as signed; raises TrustError for a product that is not here."""
        return tuple(firmware_of(self._role(product).metadata.signed, product).values())

    def floors(self, product: str) -> Mapping[str, int]:
        """Return a product's floors, component to `seq`; raises TrustError for a product that is not here."""
        return floors_of(self._role(product).metadata.signed)

    def signers(self, product: str) -> tuple[str, ...]:
        """Return the ids of the keys that signed a product's role; raises TrustError for one that is not here."""
        with self._lock:
            return signers_of(self._offline[TARGETS].metadata, product, self._role(product).metadata)

    def metadata(self, name: str) -> bytes | None:
        """Return a metadata file by name, or None: names come from the network, and are never paths.

        `timestamp.json`, `<version>.<role>.json`, or `<role>.json` for the current version.
        """
        try:
            version, _, role = check_metadata_name(name).removesuffix(".json").rpartition(".")
        except MessageError:
            return None
        with self._lock:
            current = self._current(role)
            if current is None or (version and (role == TIMESTAMP or int(version) > current.version)):
                return None  # a higher version is what a crash left: never current, perhaps not even whole
            if not version or int(version) == current.version:
                return current.data
        return self._files.bytes_of(role, int(version))

    def bundle(self, product: str) -> Bundle:
        """Return a product's current metadata in one message; raises TrustError for a product that is not here.

        Beyond BUNDLE_BYTES the product's role and targets are told by the version before them, the larger first. Where
        that is too much, targets are left out, and the snapshot is told by the one that this product's devices were
        told of before. Devices ask by name for what they lack, or cannot make of a patch.
        """
        with self._lock:
            role, targets = self._role(product), self._offline[TARGETS]
            files = {
                f"{TIMESTAMP}.json": self._timestamp.data.decode(),
                f"{self._snapshot.version}.{SNAPSHOT}.json": self._snapshot.data.decode(),
                f"{role.version}.{product}.json": role.data.decode(),
                f"{targets.version}.{TARGETS}.json": targets.data.decode(),
            }
            whole = Bundle(product=product, root_version=self._root.version, files=files)
            offline = sorted(((product, role), (TARGETS, targets)), key=lambda item: -len(item[1].data))
            patches = [(f"{file.version}.{name}.json", self._patch(name, file)) for name, file in offline]
            shared = (f"{self._snapshot.version}.{SNAPSHOT}.json", self._snapshot_patch(product))
            return fitting(whole, patches, lasting=f"{targets.version}.{TARGETS}.json", shared=shared)

    def _snapshot_patch(self, product: str) -> Patch | None:
        """Return the snapshot by the one in the product's bundle before: other products have had theirs in between.

        None for the first bundle of this process, which says everything.
        """
        newest, before = self._told.get(product, (self._snapshot, None))
        if newest is not self._snapshot:
            newest, before = self._snapshot, newest
        self._told[product] = newest, before
        return make_patch(before.data, newest.data) if before is not None else None

    def _patch(self, name: str, file: MetadataFile) -> Patch | None:
        """Return a role by the version before it, if that still lies here; made once."""
        known = self._patches.get(name)
        if known is None or known[0] != file.data:
            before = [version for version in self._files.versions(name) if version < file.version]
            old = self._files.bytes_of(name, before[-1]) if before else None
            known = self._patches[name] = (file.data, make_patch(old, file.data) if old else None)
        return known[1]

    def accept(self, incoming: Incoming) -> tuple[str, ...]:
        """Take root, targets and roles together, sign on top of them, and return the names of what is new.

        Raises:
            ConflictingRoleError: a version does not follow the current one, or lacks firmware that it has.
            TrustError: a piece is not signed, laid out or dated as it must be, what stays would lose its signers, or
                root does not name a key of this server.
            OSError: the disk fails.
        """
        with self._lock:
            there = Offline(self._root, self._offline)
            new = accept(there, incoming, self._now())
            changes = {name: file for name, file in new.roles.items() if there.roles.get(name) is not file}
            if new.root is not there.root:
                self._key.check_vouched(new.root.metadata)
                for name, file in changes.items():  # before root: it is current as soon as it lies there
                    self._files.put(name, file)
                self._files.put(ROOT, new.root)
                self._root = new.root
                self._key.stand_on(new.root.metadata)
                self._commit(changes)
                return (ROOT, *changes)
            if changes:
                self._commit(changes)
            return tuple(changes)

    def accept_root(self, data: bytes) -> None:
        """Take the next root alone; raises as `accept` does."""
        self.accept(Incoming(root=data))

    def accept_targets(self, data: bytes, roles: Mapping[str, bytes] | None = None) -> None:
        """Take a new top-level targets role, and the roles of products that it newly delegates to (or gives new keys).

        Without its role a new product is only announced; `accept_product_role` brings it. Raises as `accept` does.
        """
        self.accept(Incoming(targets=data, roles=roles or {}))

    def accept_product_role(self, product: str, data: bytes) -> tuple[SignedFirmware, ...]:
        """Take a product's new role, and return the firmware that it adds; the same again for the same bytes.

        Raises as `accept` does.
        """
        with self._lock:
            there = self._offline.get(product)
            before = there if self.accept(Incoming(roles={product: data})) else self._before(product)
            known = before.metadata.signed.targets if before else {}
            return tuple(item for item in self.firmware(product) if item.manifest.target_path not in known)

    def prepare_online_key(self) -> Key:
        """Return the public part of the key that this server signs with next, made now if there is none.

        Raises:
            KeyFileError, OSError: it could not be made.
        """
        with self._lock:
            return self._key.prepare()

    def standing(self) -> Standing:
        """Return what is current, and with which keys this server signs."""
        with self._lock:
            return Standing(
                self._root, self._offline, self._snapshot, self._timestamp, self._key.public, self._key.upcoming_public
            )

    def resign_if_due(self, now: datetime | None = None) -> bool:
        """Sign snapshot or timestamp anew when half of its life is over; True if so. Then bundles must be sent again.

        Raises:
            OSError: the disk fails.
        """
        with self._lock:
            moment = now or self._now()
            if self._due(SNAPSHOT, self._snapshot, SNAPSHOT_LIFETIME, moment):
                self._commit({}, moment)
                return True
            if self._due(TIMESTAMP, self._timestamp, TIMESTAMP_LIFETIME, moment):
                self._put_timestamp(self._snapshot, moment)
                return True
            return False

    def expiries(self) -> tuple[Expiry, ...]:
        """Return when each piece of current metadata expires, soonest first.

        What the operator signs is due two months before, what the server signs when it failed to sign it in time.
        """
        return expiries(self.standing(), self._now())

    def sign(self, pae: bytes) -> tuple[Signature, ...]:
        """Return this server's signature over the pre-authentication encoding of a notice or a desired state."""
        return self._key.sign(pae)

    def _role(self, product: str) -> MetadataFile:
        role = self._offline.get(product) if product != TARGETS else None
        if role is None:
            raise TrustError(f"product {product!r:.80} has no role in this repository")
        return role

    def _current(self, role: str) -> MetadataFile | None:
        online = {ROOT: self._root, SNAPSHOT: self._snapshot, TIMESTAMP: self._timestamp}
        return online.get(role) or self._offline.get(role)

    def _before(self, product: str) -> MetadataFile | None:
        """Return the version before the current one of a product's role, if it is still here."""
        versions = [version for version in self._files.versions(product) if version < self._role(product).version]
        return self._files.read(f"{versions[-1]}.{product}.json", Targets) if versions else None

    def _due(self, name: str, file: MetadataFile, lifetime: timedelta, now: datetime) -> bool:
        try:
            verify(self._root.metadata, name, file.metadata)
        except TrustError:  # the key was replaced
            return True
        remaining: timedelta = file.metadata.signed.expires - now
        return not lifetime / 2 <= remaining <= lifetime  # more: signed in a future that the clock has left again

    def _commit(self, changes: Mapping[str, MetadataFile], now: datetime | None = None) -> None:
        """Write changed roles, then snapshot, then timestamp; what is in memory follows the disk."""
        moment = now or self._now()
        offline = {**self._offline, **changes}
        for name, file in changes.items():
            self._files.put(name, file)
        snapshot = self._key.snapshot(offline, self._version_to_follow(SNAPSHOT, self._snapshot), moment)
        self._files.put(SNAPSHOT, snapshot)
        self._put_timestamp(snapshot, moment)
        if snapshot.version < self._snapshot.version:
            self._files.forget_above(SNAPSHOT, snapshot.version)
        self._snapshot, self._offline = snapshot, offline
        for name in (SNAPSHOT, *changes):
            self._files.prune(name)

    def _put_timestamp(self, snapshot: MetadataFile, now: datetime) -> None:
        timestamp = self._key.timestamp(snapshot, self._version_to_follow(TIMESTAMP, self._timestamp), now)
        self._files.put(TIMESTAMP, timestamp)
        self._timestamp = timestamp

    def _version_to_follow(self, name: str, file: MetadataFile) -> int:
        """Return the version that the next must be above: none, where root no longer names the key that signed it.

        Whoever stole that key may have signed the highest version there is. Devices forget it with the key (TUF
        5.3.11), and so do we.
        """
        try:
            verify(self._root.metadata, name, file.metadata)
        except TrustError:
            return 0
        return file.version
