"""The public metadata that a keyring knows: each root, the newest seen of targets and of each product's role.

Whatever comes from a server is checked here before anything is signed on top of it: a server in the wrong hands must
not get its own firmware signed, nor an old role in place of a newer one.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # tuf exports them without saying so

from cloud.durable import make_private_directory, write_durably
from cloud.metadata_files import verify_roots
from cloud.roles import (
    ROOT,
    TARGETS,
    ConflictingRoleError,
    TrustError,
    check_product,
    check_root,
    check_targets,
    delegated_products,
    firmware_of,
    floors_of,
    parse,
    verify,
)
from protocol.errors import FleetliftError

MAX_ROOTS: Final = 1024
"""How many roots are followed at once."""
Read = Callable[[str], bytes | None]
"""Returns a metadata file by name (`2.root.json`, `targets.json`), or None where there is none."""


class KeyringError(FleetliftError):
    """The keyring cannot do this; nothing was signed or changed."""


class KnownMetadata:
    """The metadata in one private directory."""

    def __init__(self, directory: Path) -> None:
        """Open it; raises KeyringError where there is none."""
        self.directory = directory
        if not self.root_versions():
            raise KeyringError(
                f"{directory} is not a keyring: it has no root metadata. `fleetlift init` makes one, and "
                "`fleetlift key join` one for somebody who joins"
            )

    @classmethod
    def begin(cls, directory: Path, root: bytes, targets: bytes) -> "KnownMetadata":
        """Write the first root and targets; raises KeyringError where there is a keyring."""
        if list(directory.glob(f"*.{ROOT}.json")):
            raise KeyringError(f"{directory} holds a keyring already; nothing was changed")
        version = parse(root, Root, ROOT).signed.version
        make_private_directory(directory)
        write_durably(directory / f"{TARGETS}.json", targets)
        write_durably(directory / f"{version}.{ROOT}.json", root, replace=False)  # last: it makes this a keyring
        return cls(directory)

    @classmethod
    def join(cls, directory: Path, read: Read, *, root: bytes | None, root_sha256: str | None) -> "KnownMetadata":
        """Begin a keyring with no keys from somebody's metadata, on the word of a root that came another way.

        `root` is that root's file, or `root_sha256` the SHA-256 of its bytes; of any version.

        Raises:
            KeyringError: there is a keyring already, or `read` has no such root.
            TrustError: what follows from it is not signed as it must be.
        """
        if list(directory.glob(f"*.{ROOT}.json")):
            raise KeyringError(f"{directory} holds a keyring already; nothing was changed")
        trusted = root if root is not None else _root_of_digest(read, root_sha256 or "")
        chain = [trusted, *_roots_after(read, parse(trusted, Root, ROOT).signed.version)]
        newest = verify_roots(tuple(chain))[-1].metadata
        targets = read(f"{TARGETS}.json")
        if targets is None:
            raise KeyringError("there is no targets metadata where this keyring is to come from; nothing was made")
        given = parse(targets, Targets, TARGETS)
        verify(newest, TARGETS, given)
        check_targets(given.signed)
        make_private_directory(directory)
        write_durably(directory / f"{TARGETS}.json", targets)
        for data in reversed(chain):  # the first one last
            write_durably(directory / f"{parse(data, Root, ROOT).signed.version}.{ROOT}.json", data)
        known = cls(directory)
        known.follow(read)
        return known

    def root_versions(self) -> list[int]:
        """Return the versions of root that are here, ascending."""
        names = (path.name.partition(".")[0] for path in self.directory.glob(f"*.{ROOT}.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def root(self) -> bytes:
        """Return the newest root."""
        return (self.directory / f"{self.root_versions()[-1]}.{ROOT}.json").read_bytes()

    def roots(self) -> tuple[bytes, ...]:
        """Return every root, oldest first."""
        return tuple((self.directory / f"{version}.{ROOT}.json").read_bytes() for version in self.root_versions())

    def targets(self) -> bytes:
        """Return the newest targets seen."""
        return (self.directory / f"{TARGETS}.json").read_bytes()

    def role(self, product: str) -> bytes | None:
        """Return the newest role seen of a product, or None."""
        path = self.directory / f"{check_product(product)}.json"
        return path.read_bytes() if path.exists() else None

    def read_root(self) -> Metadata[Root]:
        """Return the newest root, parsed."""
        return parse(self.root(), Root, ROOT)

    def read_targets(self) -> Metadata[Targets]:
        """Return the newest targets, parsed."""
        return parse(self.targets(), Targets, TARGETS)

    def products(self) -> tuple[str, ...]:
        """Return the products that targets delegates to."""
        return delegated_products(self.read_targets().signed)

    def add_root(self, data: bytes) -> None:
        """Take the next root, signed by the one before and by itself; raises TrustError, KeyringError."""
        current = self.read_root()
        if data == self.root():
            return
        root = parse(data, Root, ROOT)
        if root.signed.version != current.signed.version + 1:
            raise KeyringError(
                f"root is version {root.signed.version}, and {current.signed.version + 1} comes next in this keyring; "
                "nothing was changed. Bring the keyring up to date with `fleetlift key fetch`"
            )
        verify(current, ROOT, root)
        verify(root, ROOT, root)
        check_root(root.signed)
        write_durably(self.directory / f"{root.signed.version}.{ROOT}.json", data, replace=False)

    def newest_targets(self, data: bytes) -> Metadata[Targets]:
        """Check targets, remember them if they are newer, and return them; raises TrustError."""
        given = parse(data, Targets, TARGETS)
        verify(self.read_root(), TARGETS, given)
        check_targets(given.signed)
        return self._newest(TARGETS, given, data, self.targets())

    def newest_role(self, product: str, data: bytes) -> Metadata[Targets]:
        """Check a product's role, remember it if it is newer, and return it; raises TrustError, KeyringError."""
        targets = self.read_targets()
        if check_product(product) not in delegated_products(targets.signed):
            raise KeyringError(f"product {product!r} is not known to this keyring; nothing was signed")
        given = parse(data, Targets, product)
        verify(targets, product, given)
        firmware_of(given.signed, product)
        floors_of(given.signed)
        return self._newest(product, given, data, self.role(product))

    def follow(self, read: Read) -> None:
        """Take note of every newer root, targets and role that `read` has; raises TrustError, KeyringError."""
        self.follow_roots(read)
        if (targets := read(f"{TARGETS}.json")) is not None:
            self.newest_targets(targets)
        for product in self.products():
            if (role := read(f"{product}.json")) is not None:
                self.newest_role(product, role)

    def follow_roots(self, read: Read) -> None:
        """Take note of every newer root that `read` has; raises TrustError."""
        for data in _roots_after(read, self.root_versions()[-1]):
            self.add_root(data)

    def _newest(self, name: str, given: Metadata[Targets], data: bytes, seen: bytes | None) -> Metadata[Targets]:
        seen_version = 0 if seen is None else parse(seen, Targets, name).signed.version
        if given.signed.version < seen_version:
            raise ConflictingRoleError(
                f"the server's {name} is version {given.signed.version}, and this keyring has seen {seen_version}: the "
                "server was restored from a backup, or hides something; nothing was signed. Send it the newer one: "
                f"{self.directory / f'{name}.json'}"
            )
        if given.signed.version > seen_version:
            write_durably(self.directory / f"{name}.json", data)
        return given


def _roots_after(read: Read, version: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < MAX_ROOTS and (data := read(f"{version + len(found) + 1}.{ROOT}.json")) is not None:
        found.append(data)
    return found


def _root_of_digest(read: Read, sha256: str) -> bytes:
    for data in _roots_after(read, 0):
        if hashlib.sha256(data).hexdigest() == sha256.lower():
            return data
    raise TrustError(
        "no root there has the SHA-256 that was given; nothing was made. Ask whoever gave it to you, by another way "
        "than the server"
    )
