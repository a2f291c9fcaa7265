"""The operator's keys: what they sign is what devices install, and the server never sees them.

One private directory holds the keys (`cloud/keys/private_keys.py`; `root-1` to `root-3`, `targets` and
`product-<product>` where one person makes all of them; each may be kept elsewhere until it is needed) and the public
metadata (`cloud/keys/known_metadata.py`). `cloud/roles.py` describes the roles, `cloud/keys/changes.py` how keys and
thresholds change.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Delegations, Metadata, Role, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.durable import make_private_directory, remove_leftovers, write_durably
from cloud.key_files import KeyFileError
from cloud.keys.known_metadata import KeyringError, KnownMetadata
from cloud.keys.passphrases import Passphrases
from cloud.keys.private_keys import PrivateKeys
from cloud.keys.signing import add_signature
from cloud.roles import (
    OFFLINE_LIFETIME,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    SignedFirmware,
    check_firmware,
    check_product,
    delegate_to,
    delegated_products,
    firmware_of,
    floors_of,
    parse,
    to_target,
    utc_now,
)
from protocol.manifest import MINIMUM_SEQ_FIELD, Manifest

__all__ = ["Delegation", "Keyring", "KeyringError", "next_seq"]

ROOT_KEYS: Final = ("root-1", "root-2", "root-3")
ROOT_THRESHOLD: Final = 2


class Delegation(NamedTuple):
    """A product's beginning, as the server takes it: the new targets role, and the product's role."""

    targets: bytes
    role: bytes


class Keyring:
    """Signs root, targets and the products' roles. Not for several threads or processes at once."""

    def __init__(
        self, directory: Path, *, now: Callable[[], datetime] = utc_now, passphrases: Passphrases | None = None
    ) -> None:
        """Open the keyring in `directory`; raises KeyringError where there is none."""
        self.known = KnownMetadata(directory)
        self.keys = PrivateKeys(directory, passphrases)
        self._directory = directory
        self._now = now

    @classmethod
    def create(
        cls,
        directory: Path,
        online_key: Key,
        *,
        now: Callable[[], datetime] = utc_now,
        passphrases: Passphrases | None = None,
    ) -> Self:
        """Make the root and targets keys, and sign the first root (which names `online_key`) and targets.

        Raises:
            KeyringError: there is a keyring already, which is left as it is. (One whose making was interrupted is
                completed.)
            KeyFileError: a key cannot be written, or one that an interrupted `create` left cannot be read.
            PassphraseError: a passphrase is too weak, or wrong for a key that an interrupted `create` left.
        """
        if (directory / f"1.{ROOT}.json").exists():
            raise KeyringError(f"{directory} holds a keyring already; nothing was changed")
        make_private_directory(directory)
        remove_leftovers(directory)
        keys = PrivateKeys(directory, passphrases)
        roots = [keys.load_or_create(name) for name in ROOT_KEYS]
        targets_key = keys.load_or_create(TARGETS)
        expires = now() + OFFLINE_LIFETIME
        root_role = Role([signer.public_key.keyid for signer in roots], ROOT_THRESHOLD)
        public: dict[str, Key] = {signer.public_key.keyid: signer.public_key for signer in (*roots, targets_key)}
        online = Role([online_key.keyid], 1)
        root = Root(
            expires=expires,
            keys={**public, online_key.keyid: online_key},
            roles={
                ROOT: root_role,
                TARGETS: Role([targets_key.public_key.keyid], 1),
                SNAPSHOT: online,
                TIMESTAMP: online,
            },
            consistent_snapshot=True,
        )
        targets = Targets(expires=expires, delegations=Delegations({}, {}))
        KnownMetadata.begin(directory, _signed(root, roots), _signed(targets, [targets_key]))
        keyring = cls(directory, now=now, passphrases=passphrases)
        keyring.keys = keys  # which are open
        return keyring

    def root(self) -> bytes:
        """Return the newest root metadata; the first one is what devices are given."""
        return self.known.root()

    def roots(self) -> tuple[bytes, ...]:
        """Return every version of the root metadata, oldest first."""
        return self.known.roots()

    def targets(self) -> bytes:
        """Return the newest targets metadata that this keyring has seen."""
        return self.known.targets()

    def role(self, product: str) -> bytes | None:
        """Return the newest role of a product that this keyring has seen, or None."""
        return self.known.role(product)

    def record(self, targets: bytes, *roles: tuple[str, bytes]) -> None:
        """Remember what the server has taken, to recognise an older answer later; raises TrustError.

        Say `record(targets)` or `record(targets, (product, role))` with what the server now answers.
        """
        self.known.newest_targets(targets)
        for product, role in roles:
            self.known.newest_role(product, role)

    def delegate(self, product: str, targets: bytes | None = None) -> Delegation:
        """Return targets that delegate to `product`, and the product's role (empty, for a product that is new).

        `targets` is the server's, where another keyring with the same targets key may have signed it. Says the same
        again for a product that is delegated to already.

        Raises:
            TrustError: `targets` is not good, or older than one seen before; or no product can be called so.
            KeyringError, KeyFileError: a key is not here, or is not the one that was delegated to.
            PassphraseError: nobody says the passphrase of a key.
        """
        check_product(product)
        current = self.known.newest_targets(targets if targets is not None else self.targets())
        if product in delegated_products(current.signed):
            role = self.known.role(product)
            if role is None:
                role = self._sign_first(product)
            self.known.newest_role(product, role)
            return Delegation(self.targets(), role)
        self._signers(TARGETS)  # asks for its passphrase, or refuses, before a key is made
        product_key = self.keys.load_or_create(_usual_name(product))
        delegate_to(current.signed, product, product_key.public_key)
        role = _signed(Targets(expires=self._expires()), [product_key])
        new_targets = self._sign_next(TARGETS, current)
        write_durably(self._directory / f"{product}.json", role)
        write_durably(self._directory / f"{TARGETS}.json", new_targets)
        return Delegation(new_targets, role)

    def sign_firmware(
        self, role: bytes, manifest: Manifest, length: int, digest: str, *, partial: bool = False
    ) -> bytes:
        """Return `role` (the server's current role of the manifest's product) with the firmware in it, signed.

        The same bytes come back for a firmware that is in it already. With `partial` it may lack signatures of other
        people, who add them with `sign_draft`.

        Raises:
            TrustError: the role is not good, or older than one seen before; or the manifest does not fit the image.
            KeyringError: this version or this seq is in use by other firmware, or the product is not delegated to.
            KeyFileError: the product's key is not here.
            PassphraseError: nobody says its passphrase.
        """
        product = manifest.product
        firmware = SignedFirmware(manifest, length, digest)
        check_firmware(firmware, product)
        current = self.known.newest_role(product, role)
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
        return self._sign_next(product, current, partial=partial)

    def raise_floor(self, product: str, role: bytes, component: str, seq: int) -> bytes:
        """Return `role` with the floor of a component raised to `seq`: what is below it can never be installed again.

        Raises:
            TrustError: the role is not good, or older than one seen before.
            KeyringError: the floor would sink, or no firmware at or above it would be left.
            KeyFileError: the product's key is not here.
        """
        current = self.known.newest_role(product, role)
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
        return self._sign_next(product, current)

    def renew_role(self, product: str, role: bytes) -> bytes:
        """Return `role` unchanged but for its version and a new year of life; raises as `sign_firmware` does."""
        return self._sign_next(product, self.known.newest_role(product, role))

    def renew_targets(self, targets: bytes) -> bytes:
        """Return `targets` with a new year of life; raises as `delegate` does. Recorded here at once."""
        renewed = self._sign_next(TARGETS, self.known.newest_targets(targets))
        write_durably(self._directory / f"{TARGETS}.json", renewed)
        return renewed

    def renew_root(self) -> bytes:
        """Return the next root, with a new year of life, recorded here at once; raises KeyringError, KeyFileError.

        As many of the root keys as its threshold must be here.
        """
        return self._sign_root(self.known.read_root())

    def add_online_key(self, online_key: Key) -> bytes:
        """Return the next root, which also lets this key of the server sign: the first half of replacing that key."""
        root = self.known.read_root()
        for name in (SNAPSHOT, TIMESTAMP):
            root.signed.add_key(online_key, name)
        return self._sign_root(root)

    def revoke_online_key(self, keyid: str) -> bytes:
        """Return the next root, without that key of the server; raises KeyringError if no other would be left."""
        root = self.known.read_root()
        if root.signed.roles[TIMESTAMP].keyids == [keyid] or keyid not in root.signed.roles[TIMESTAMP].keyids:
            raise KeyringError("that key is not one of several that the server may sign with; nothing was signed")
        for name in (SNAPSHOT, TIMESTAMP):
            root.signed.revoke_key(keyid, name)
        return self._sign_root(root)

    def signers(self, name: str, keyids: Collection[str], limit: int | None = None) -> list[Signer]:
        """Return those of the keys of role `name` that are here, opened; raises KeyFileError, PassphraseError."""
        return self.keys.signers(keyids, _usual_names(name), limit=limit)

    def _sign_root(self, root: Metadata[Root]) -> bytes:
        role = self.known.read_root().signed.roles[ROOT]
        signers = self.signers(ROOT, role.keyids)
        if len(signers) < role.threshold:
            raise KeyringError(
                f"{len(signers)} of the root keys are here, {role.threshold} are needed: put them into "
                f"{self._directory} for as long as it takes, or let everybody sign a draft. Nothing was signed"
            )
        data = self._signed_next(root, signers)
        self.known.add_root(data)
        return data

    def _sign_first(self, product: str) -> bytes:
        signers = self._signers(product)
        return _signed(Targets(expires=self._expires()), signers)

    def _sign_next(self, name: str, current: Metadata[Targets], *, partial: bool = False) -> bytes:
        return self._signed_next(current, self._signers(name, partial=partial))

    def _signers(self, name: str, *, partial: bool = False) -> list[Signer]:
        """Return signers enough for targets or a product's role; raises KeyringError, KeyFileError."""
        delegator = self.known.read_root() if name == TARGETS else self.known.read_targets()
        role = delegator.signed.get_delegated_role(name)
        signers = self.signers(name, role.keyids, limit=role.threshold)
        if not signers:
            path = self.keys.path(_usual_name(name))
            if path.exists():
                raise KeyringError(f"{path} is not the key that {name} is signed with; nothing was changed")
            raise KeyFileError(f"the key {path} is not here; fetch it from where it is kept, or name its directory")
        if len(signers) < role.threshold and not partial:
            how = (
                f"Put others into {self._directory} for as long as it takes"
                if name == TARGETS
                else "Collect them: `fleetlift firmware sign`, `fleetlift key sign` by the others, then `fleetlift "
                "firmware upload`"
            )
            raise KeyringError(
                f"{name} needs the signatures of {role.threshold} keys, and {len(signers)} of them are here; nothing "
                f"was signed. {how}"
            )
        return signers

    def _signed_next(self, current: Metadata[Any], signers: Sequence[Signer]) -> bytes:
        current.signed.version += 1
        current.signed.expires = self._expires()
        return _signed(current.signed, signers)

    def _expires(self) -> datetime:
        return self._now() + OFFLINE_LIFETIME


def _usual_name(role: str) -> str:
    return TARGETS if role == TARGETS else f"product-{role}"


def _usual_names(role: str) -> tuple[str, ...]:
    return ROOT_KEYS if role == ROOT else (_usual_name(role),)


def next_seq(role: bytes, product: str, component: str) -> int:
    """Return the `seq` of the component's next firmware, given the product's current role; raises TrustError."""
    firmware = firmware_of(parse(role, Targets, product).signed, product)
    seqs = [item.manifest.seq for item in firmware.values() if item.manifest.component == component]
    return max(seqs, default=0) + 1


def _place(manifest: Manifest) -> tuple[str, int]:
    return manifest.component, manifest.seq


def _signed(payload: Root | Targets, signers: Iterable[Signer]) -> bytes:
    metadata: Metadata[Any] = Metadata(payload)
    for signer in signers:
        add_signature(metadata, signer)
    return metadata.to_bytes()
