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
from typing import Final, NamedTuple, Self

from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # tuf exports them without saying so

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
    WARN_BEFORE,
    ConflictingRoleError,
    SignedFirmware,
    TrustError,
    check_fresh,
    check_product,
    check_root,
    check_successor,
    check_targets,
    delegated_products,
    firmware_of,
    floors_of,
    parse,
    signers_of,
    utc_now,
    verify,
)
from protocol.codec import encode
from protocol.down import Bundle
from protocol.errors import MessageError
from protocol.signing import Signature
from protocol.values import check_metadata_name

MAX_VERSION_STEP: Final = 1000
"""How many versions an offline role may skip: more is a slip, and would use up the versions there are."""

_log = logging.getLogger(__name__)


class Expiry(NamedTuple):
    """When metadata stops being taken, and whether somebody must do something about it now."""

    name: str
    version: int
    expires_at: datetime
    renewed_by: str
    """`operator`, with a keyring, or `server`, by itself."""
    due: bool


class MetadataRepository:
    """The repository in one directory. Thread-safe; one process at a time."""

    def __init__(self, directory: Path, key: OnlineKey, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open a repository, and sign anew whatever is due.

        Raises:
            TrustError: there is none, a file of it is missing or damaged, or `key` is not what root vouches for.
            OSError: the disk fails.
        """
        self._files = MetadataFiles(directory)
        self._key = key
        self._now = now
        self._lock = threading.RLock()
        remove_leftovers(directory)
        self._root = self._files.read_root()
        self._key.check_vouched(self._root.metadata)
        timestamp, self._snapshot = self._files.read_snapshot(self._root)
        self._offline = self._files.read_offline(self._root, self._snapshot)  # targets and the products' roles, by name
        if timestamp is None:
            _log.warning("the timestamp was lost; a new one is signed over snapshot version %d", self._snapshot.version)
            timestamp = key.timestamp(self._snapshot, 0, now())
            self._files.put(TIMESTAMP, timestamp)
        self._timestamp = timestamp
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

        What does not fit into a message is left out, the largest file first: devices ask for it by name.
        """
        with self._lock:
            role, targets = self._role(product), self._offline[TARGETS]
            files = {
                f"{TIMESTAMP}.json": self._timestamp.data.decode(),
                f"{self._snapshot.version}.{SNAPSHOT}.json": self._snapshot.data.decode(),
                f"{role.version}.{product}.json": role.data.decode(),
                f"{targets.version}.{TARGETS}.json": targets.data.decode(),
            }
            root_version = self._root.version
        while True:
            bundle = Bundle(product=product, root_version=root_version, files=dict(files))
            try:
                encode(bundle)
            except MessageError:
                del files[max(files, key=lambda name: len(files[name]))]
            else:
                return bundle

    def accept_root(self, data: bytes) -> None:
        """Take the next root, and sign on top of it; does nothing for the root that is current.

        Raises:
            ConflictingRoleError: it is not the version after the current one.
            TrustError: the current root or itself does not vouch for it, it has expired, or it does not name this
                server's key or the keys of the targets that are here.
            OSError: the disk fails.
        """
        with self._lock:
            if data == self._root.data:
                return
            root = parse(data, Root, ROOT)
            if root.signed.version != self._root.version + 1:
                raise ConflictingRoleError(
                    f"root is version {root.signed.version}, {self._root.version + 1} comes next; nothing was changed"
                )
            verify(self._root.metadata, ROOT, root)
            verify(root, ROOT, root)
            check_fresh(ROOT, root, self._now())
            check_root(root.signed)
            self._key.check_vouched(root)
            verify(root, TARGETS, self._offline[TARGETS].metadata)
            self._files.put(ROOT, MetadataFile(data, root))
            self._root = MetadataFile(data, root)
            self._commit({})

    def accept_targets(self, data: bytes, roles: Mapping[str, bytes] | None = None) -> None:
        """Take a new top-level targets role, and the roles of products that it newly delegates to (or gives new keys).

        Without its role a new product is only announced; `accept_product_role` brings it. Does nothing for what is
        current already.

        Raises:
            ConflictingRoleError: the version is not above the current one.
            TrustError: anything is not signed, laid out or dated as it must be, or a product is missing.
            OSError: the disk fails.
        """
        with self._lock:
            current = self._offline[TARGETS]
            changes: dict[str, MetadataFile] = {}
            if data != current.data:
                new = parse(data, Targets, TARGETS)
                verify(self._root.metadata, TARGETS, new)
                check_fresh(TARGETS, new, self._now())
                self._check_step(TARGETS, current.version, new.signed.version)
                check_targets(new.signed)
                gone = set(self.products()) - set(delegated_products(new.signed))
                if gone:
                    raise TrustError(f"targets no longer delegates to {', '.join(sorted(gone))}; nothing was changed")
                changes[TARGETS] = current = MetadataFile(data, new)
            for product, role in (roles or {}).items():
                if change := self._check_role(product, role, current.metadata):
                    changes[product] = change
            for product in self.products():
                if product not in changes:
                    verify(current.metadata, product, self._offline[product].metadata)
            if changes:
                self._commit(changes)

    def accept_product_role(self, product: str, data: bytes) -> tuple[SignedFirmware, ...]:
        """Take a product's new role, and return the firmware that it adds; the same again for the same bytes.

        Raises:
            ConflictingRoleError: the version is not above the current one, or lacks firmware that the current one has.
            TrustError: it is not signed, laid out or dated as it must be, alters firmware or lowers a floor.
            OSError: the disk fails.
        """
        with self._lock:
            change = self._check_role(product, data, self._offline[TARGETS].metadata)
            before = self._offline.get(product) if change else self._before(product)
            if change:
                self._commit({product: change})
            known = before.metadata.signed.targets if before else {}
            return tuple(item for item in self.firmware(product) if item.manifest.target_path not in known)

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
        with self._lock:
            now = self._now()
            offline = [(ROOT, self._root), *self._offline.items()]
            online = [(SNAPSHOT, self._snapshot, SNAPSHOT_LIFETIME), (TIMESTAMP, self._timestamp, TIMESTAMP_LIFETIME)]
            found = [
                Expiry(name, file.version, expires, "operator", due=expires - now < WARN_BEFORE)
                for name, file in offline
                for expires in (file.metadata.signed.expires,)
            ] + [
                Expiry(name, file.version, expires, "server", due=expires - now < lifetime / 4)
                for name, file, lifetime in online
                for expires in (file.metadata.signed.expires,)
            ]
            return tuple(sorted(found, key=lambda item: item.expires_at))

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

    def _check_role(self, product: str, data: bytes, targets: Metadata[Targets]) -> MetadataFile | None:
        """Return a product's new role if it may be taken, None if it is the current one; raises TrustError."""
        if check_product(product) not in delegated_products(targets.signed):
            raise TrustError(f"targets does not delegate to product {product!r}; nothing was changed")
        current = self._offline.get(product)
        if current is not None and current.data == data:
            return None
        new = parse(data, Targets, product)
        verify(targets, product, new)
        check_fresh(product, new, self._now())
        self._check_step(product, current.version if current else 0, new.signed.version)
        firmware_of(new.signed, product)
        floors_of(new.signed)
        if current is not None:
            check_successor(current.metadata.signed, new.signed, product)
        return MetadataFile(data, new)

    @staticmethod
    def _check_step(name: str, current: int, new: int) -> None:
        if new <= current:
            raise ConflictingRoleError(
                f"{name} is version {new}, and version {current} is here already: fetch that, sign on top of it, send "
                "it again. Nothing was changed"
            )
        if new > current + MAX_VERSION_STEP:
            raise TrustError(f"{name} jumps from version {current} to {new}, at most {MAX_VERSION_STEP} are skipped")

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
        snapshot = self._key.snapshot(offline, self._snapshot.version, moment)
        self._files.put(SNAPSHOT, snapshot)
        self._put_timestamp(snapshot, moment)
        self._snapshot, self._offline = snapshot, offline
        for name in (SNAPSHOT, *changes):
            self._files.prune(name)

    def _put_timestamp(self, snapshot: MetadataFile, now: datetime) -> None:
        timestamp = self._key.timestamp(snapshot, self._timestamp.version, now)
        self._files.put(TIMESTAMP, timestamp)
        self._timestamp = timestamp
