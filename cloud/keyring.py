"""The operator's keys: what they sign is what devices install, and the server never sees them.

One private directory holds the keys (`root-1.pem` to `root-3.pem`, `targets.pem`, `product-<product>.pem`, each of
which may be kept elsewhere until it is needed) and the public metadata that this keyring knows: each root as
`<version>.root.json`, and the newest seen of `targets` and of each product's role. `cloud/roles.py` describes them.

Whatever comes back from the server is checked before anything is signed on top of it: a server in the wrong hands must
not get its own firmware signed, nor an old role in place of a newer one.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from securesystemslib.signer import CryptoSigner, Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Delegations, Metadata, Role, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.durable import make_private_directory, remove_leftovers, write_durably
from cloud.key_files import SUFFIX, load_key, load_or_create_key
from cloud.roles import (
    OFFLINE_LIFETIME,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    ConflictingRoleError,
    SignedFirmware,
    TrustError,
    check_firmware,
    check_product,
    check_targets,
    delegate_to,
    delegated_products,
    firmware_of,
    floors_of,
    parse,
    to_target,
    utc_now,
    verify,
)
from protocol.errors import FleetliftError
from protocol.manifest import MINIMUM_SEQ_FIELD, Manifest

ROOT_KEYS: Final = ("root-1", "root-2", "root-3")
ROOT_THRESHOLD: Final = 2


class KeyringError(FleetliftError):
    """The keyring cannot do this; nothing was signed or changed."""


class Delegation(NamedTuple):
    """A product's beginning, as the server takes it: the new targets role, and the product's role."""

    targets: bytes
    role: bytes


class Keyring:
    """Signs root, targets and the products' roles. Not for several threads or processes at once."""

    def __init__(self, directory: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open the keyring in `directory`; raises KeyringError where there is none."""
        self._directory = directory
        self._now = now
        if not self._root_versions():
            raise KeyringError(f"{directory} is not a keyring: it has no root metadata. `fleetlift init` makes one")

    @classmethod
    def create(cls, directory: Path, online_key: Key, *, now: Callable[[], datetime] = utc_now) -> Self:
        """Make the root and targets keys, and sign the first root (which names `online_key`) and targets.

        Raises:
            KeyringError: there is a keyring already, which is left as it is. (One whose making was interrupted is
                completed.)
            KeyFileError: a key cannot be written, or one that an interrupted `create` left cannot be read.
        """
        root_path = directory / f"1.{ROOT}.json"
        if root_path.exists():
            raise KeyringError(f"{directory} holds a keyring already; nothing was changed")
        make_private_directory(directory)
        remove_leftovers(directory)
        roots = [load_or_create_key(directory / f"{name}{SUFFIX}") for name in ROOT_KEYS]
        targets_key = load_or_create_key(directory / f"{TARGETS}{SUFFIX}")
        expires = now() + OFFLINE_LIFETIME
        root_role = Role([signer.public_key.keyid for signer in roots], ROOT_THRESHOLD)
        keys: dict[str, Key] = {signer.public_key.keyid: signer.public_key for signer in (*roots, targets_key)}
        online = Role([online_key.keyid], 1)
        root = Root(
            expires=expires,
            keys={**keys, online_key.keyid: online_key},
            roles={
                ROOT: root_role,
                TARGETS: Role([targets_key.public_key.keyid], 1),
                SNAPSHOT: online,
                TIMESTAMP: online,
            },
            consistent_snapshot=True,
        )
        targets = Targets(expires=expires, delegations=Delegations({}, {}))
        write_durably(directory / f"{TARGETS}.json", _signed(targets, [targets_key]))
        write_durably(root_path, _signed(root, roots))  # last: it is what makes this a keyring
        return cls(directory, now=now)

    def root(self) -> bytes:
        """Return the newest root metadata; the first one is what devices are given."""
        return (self._directory / f"{max(self._root_versions())}.{ROOT}.json").read_bytes()

    def roots(self) -> tuple[bytes, ...]:
        """Return every version of the root metadata, oldest first."""
        return tuple((self._directory / f"{version}.{ROOT}.json").read_bytes() for version in self._root_versions())

    def targets(self) -> bytes:
        """Return the newest targets metadata that this keyring has seen."""
        return (self._directory / f"{TARGETS}.json").read_bytes()

    def role(self, product: str) -> bytes | None:
        """Return the newest role of a product that this keyring has seen, or None."""
        path = self._directory / f"{check_product(product)}.json"
        return path.read_bytes() if path.exists() else None

    def record(self, targets: bytes, *roles: tuple[str, bytes]) -> None:
        """Remember what the server has taken, to recognise an older answer later; raises TrustError.

        Say `record(targets)` or `record(targets, (product, role))` with what the server now answers.
        """
        self._newest_targets(targets)
        for product, role in roles:
            self._newest_role(product, role)

    def delegate(self, product: str, targets: bytes | None = None) -> Delegation:
        """Return targets that delegate to `product`, and the product's role (empty, for a product that is new).

        `targets` is the server's, where another keyring with the same targets key may have signed it. Says the same
        again for a product that is delegated to already.

        Raises:
            TrustError: `targets` is not good, or older than one seen before; or no product can be called so.
            KeyringError, KeyFileError: a key is not here, or is not the one that was delegated to.
        """
        check_product(product)
        current = self._newest_targets(targets if targets is not None else self.targets())
        if product in delegated_products(current.signed):
            known = self.role(product)
            key = load_key(self._key_of(product))
            role = known if known is not None else _signed(Targets(expires=self._expires()), [key])
            self._newest_role(product, role)
            return Delegation(self.targets(), role)
        product_key = load_or_create_key(self._key_of(product))
        delegate_to(current.signed, product, product_key.public_key)
        role = _signed(Targets(expires=self._expires()), [product_key])
        new_targets = self._sign_next(TARGETS, current, load_key(self._key_of(TARGETS)))
        write_durably(self._directory / f"{product}.json", role)
        write_durably(self._directory / f"{TARGETS}.json", new_targets)
        return Delegation(new_targets, role)

    def sign_firmware(self, role: bytes, manifest: Manifest, length: int, digest: str) -> bytes:
        """Return `role` (the server's current role of the manifest's product) with the firmware in it, signed.

        The same bytes come back for a firmware that is in it already.

        Raises:
            TrustError: the role is not good, or older than one seen before; or the manifest does not fit the image.
            KeyringError: this version or this seq is in use by other firmware, or the product is not delegated to.
            KeyFileError: the product's key is not here.
        """
        product = manifest.product
        firmware = SignedFirmware(manifest, length, digest)
        check_firmware(firmware, product)
        current = self._newest_role(product, role)
        there = firmware_of(current.signed, product)
        if there.get(manifest.target_path) == firmware:
            return role
        if manifest.target_path in there:
            raise KeyringError(
                f"{manifest.target_path} is signed already, with another image or other facts. Firmware never "
                "changes; nothing was signed. Give this one a new version"
            )
        taken = [item for item in there.values() if _place(item.manifest) == _place(manifest)]
        if taken:
            raise KeyringError(
                f"{taken[0].manifest.target_path} has the seq {manifest.seq} already; nothing was signed"
            )
        current.signed.targets[manifest.target_path] = to_target(firmware)
        return self._sign_next(product, current, load_key(self._key_of(product)))

    def raise_floor(self, product: str, role: bytes, component: str, seq: int) -> bytes:
        """Return `role` with the floor of a component raised to `seq`: what is below it can never be installed again.

        Raises:
            TrustError: the role is not good, or older than one seen before.
            KeyringError: the floor would sink, or no firmware at or above it would be left.
            KeyFileError: the product's key is not here.
        """
        current = self._newest_role(product, role)
        floors = floors_of(current.signed)
        floor = floors.get(component, 1)
        if component in floors and seq == floor:
            return role
        if seq < floor:
            raise KeyringError(f"the floor of {component} is {floor} and can only rise; nothing was signed")
        if seq > next_seq(role, product, component) - 1:
            raise KeyringError(
                f"no firmware of {product}/{component} has a seq of {seq} or more: devices could install none at all, "
                "for ever. Nothing was signed"
            )
        current.signed.unrecognized_fields[MINIMUM_SEQ_FIELD] = floors | {component: seq}
        return self._sign_next(product, current, load_key(self._key_of(product)))

    def renew_role(self, product: str, role: bytes) -> bytes:
        """Return `role` unchanged but for its version and a new year of life; raises as `sign_firmware` does."""
        return self._sign_next(product, self._newest_role(product, role), load_key(self._key_of(product)))

    def renew_targets(self, targets: bytes) -> bytes:
        """Return `targets` with a new year of life; raises as `delegate` does. Recorded here at once."""
        renewed = self._sign_next(TARGETS, self._newest_targets(targets), load_key(self._key_of(TARGETS)))
        write_durably(self._directory / f"{TARGETS}.json", renewed)
        return renewed

    def renew_root(self) -> bytes:
        """Return the next root, with a new year of life, recorded here at once; raises KeyringError, KeyFileError.

        Two of the three root keys must be here.
        """
        return self._sign_root(self._root())

    def add_online_key(self, online_key: Key) -> bytes:
        """Return the next root, which also lets this key of the server sign: the first half of replacing that key."""
        root = self._root()
        for name in (SNAPSHOT, TIMESTAMP):
            root.signed.add_key(online_key, name)
        return self._sign_root(root)

    def revoke_online_key(self, keyid: str) -> bytes:
        """Return the next root, without that key of the server; raises KeyringError if no other would be left."""
        root = self._root()
        if root.signed.roles[TIMESTAMP].keyids == [keyid] or keyid not in root.signed.roles[TIMESTAMP].keyids:
            raise KeyringError("that key is not one of several that the server may sign with; nothing was signed")
        for name in (SNAPSHOT, TIMESTAMP):
            root.signed.revoke_key(keyid, name)
        return self._sign_root(root)

    def _sign_root(self, root: Metadata[Root]) -> bytes:
        wanted = root.signed.roles[ROOT].keyids
        paths = [path for path in map(self._path, ROOT_KEYS) if path.exists()]
        signers = [signer for signer in map(load_key, paths) if signer.public_key.keyid in wanted]
        if len(signers) < root.signed.roles[ROOT].threshold:
            raise KeyringError(
                f"{len(signers)} of the root keys are here, {root.signed.roles[ROOT].threshold} are needed: put them "
                f"into {self._directory} for as long as it takes. Nothing was signed"
            )
        data = self._sign_next(ROOT, root, *signers)
        write_durably(self._directory / f"{root.signed.version}.{ROOT}.json", data, replace=False)
        return data

    def _sign_next(self, name: str, current: Metadata[Any], *signers: CryptoSigner) -> bytes:
        current.signed.version += 1
        current.signed.expires = self._expires()
        data = _signed(current.signed, signers)
        if name != ROOT:  # with the wrong key file in place nothing may leave the house
            delegator = self._root() if name == TARGETS else parse(self.targets(), Targets, TARGETS)
            try:
                verify(delegator, name, parse(data, Targets, name))
            except TrustError:
                raise KeyringError(
                    f"{self._key_of(name)} is not the key that {name} is signed with; nothing was changed"
                ) from None
        return data

    def _newest_targets(self, data: bytes) -> Metadata[Targets]:
        given = parse(data, Targets, TARGETS)
        verify(self._root(), TARGETS, given)
        check_targets(given.signed)
        return self._newest(TARGETS, given, data, self.targets())

    def _newest_role(self, product: str, data: bytes) -> Metadata[Targets]:
        targets = parse(self.targets(), Targets, TARGETS)
        if check_product(product) not in delegated_products(targets.signed):
            raise KeyringError(f"product {product!r} is not known to this keyring; nothing was signed")
        given = parse(data, Targets, product)
        verify(targets, product, given)
        firmware_of(given.signed, product)
        floors_of(given.signed)
        return self._newest(product, given, data, self.role(product))

    def _newest(self, name: str, given: Metadata[Targets], data: bytes, seen: bytes | None) -> Metadata[Targets]:
        seen_version = 0 if seen is None else parse(seen, Targets, name).signed.version
        if given.signed.version < seen_version:
            raise ConflictingRoleError(
                f"the server's {name} is version {given.signed.version}, and this keyring has seen {seen_version}: the "
                "server was restored from a backup, or hides something; nothing was signed. Send it the newer one: "
                f"{self._directory / f'{name}.json'}"
            )
        if given.signed.version > seen_version:
            write_durably(self._directory / f"{name}.json", data)
        return given

    def _root(self) -> Metadata[Root]:
        return parse(self.root(), Root, ROOT)

    def _root_versions(self) -> list[int]:
        names = (path.name.partition(".")[0] for path in self._directory.glob(f"*.{ROOT}.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{SUFFIX}"

    def _key_of(self, role: str) -> Path:
        return self._path(TARGETS if role == TARGETS else f"product-{role}")

    def _expires(self) -> datetime:
        return self._now() + OFFLINE_LIFETIME


def next_seq(role: bytes, product: str, component: str) -> int:
    """Return the `seq` of the component's next firmware, given the product's current role; raises TrustError."""
    firmware = firmware_of(parse(role, Targets, product).signed, product)
    seqs = [item.manifest.seq for item in firmware.values() if item.manifest.component == component]
    return max(seqs, default=0) + 1


def _place(manifest: Manifest) -> tuple[str, int]:
    return manifest.component, manifest.seq


def _signed(payload: Root | Targets, signers: Iterable[CryptoSigner]) -> bytes:
    metadata: Metadata[Any] = Metadata(payload)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
