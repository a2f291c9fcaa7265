"""A TUF repository in memory, for tests: change what you like, `publish`, and it is signed and served.

Root needs 2 of 3 keys; targets (1 key) delegates `<product>/*/*` to one terminating role per product, named like it;
one online key signs snapshot, timestamp and messages. `ask` is what a device asks with, and `asked` remembers it.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import (  # type: ignore[attr-defined]  # the same
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from protocol.chunks import BlobRef, describe
from protocol.down import Bundle
from protocol.manifest import MINIMUM_SEQ_FIELD, Blob, Manifest, Requirements, to_custom
from protocol.signing import Signature
from protocol.values import FirmwareRef

P = TypeVar("P", Root, Targets, Snapshot, Timestamp)
NOW_S = datetime(2027, 1, 10, tzinfo=UTC).timestamp()
"""The time of day in these tests."""


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def unpublished(payload: P) -> P:
    """Number metadata so that what is published first is version 1."""
    payload.version = 0
    return payload


def manifest_of(image: BlobRef, **fields: Any) -> Manifest:
    """A manifest of the thermostat's application, but for `fields`."""
    given: dict[str, Any] = {
        "product": "thermostat",
        "component": "app",
        "version": "1.0.0",
        "build": 1,
        "seq": 1,
        "hardware_models": ("*",),
        "blobs": (Blob(encoding="identity", ref=image),),
        "requires": Requirements(),
        **fields,
    }
    return Manifest(**given)


def firmware_ref(manifest: Manifest) -> FirmwareRef:
    """The firmware as messages name it."""
    image = next(blob.ref for blob in manifest.blobs if blob.encoding == "identity")
    return FirmwareRef(
        component=manifest.component,
        version=manifest.version,
        build=manifest.build,
        seq=manifest.seq,
        digest=image.digest,
        size_bytes=image.size_bytes,
        hardware_models=manifest.hardware_models,
        requires=manifest.requires,
    )


class Repository:
    """`root`, `targets`, `roles[product]`, `snapshot` and `timestamp` are the next versions, to be changed freely."""

    def __init__(self, *products: str, now_s: float = NOW_S) -> None:
        self.now_s = now_s
        self.root_signers: list[Signer] = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.targets_signer: Signer = CryptoSigner.generate_ed25519()
        self.online_signer: Signer = CryptoSigner.generate_ed25519()
        self.role_signers: dict[str, Signer] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        year = at(now_s) + timedelta(days=365)
        self.root = unpublished(Root(expires=year, consistent_snapshot=True))
        for signer in self.root_signers:
            self.root.add_key(signer.public_key, Root.type)
        self.root.roles[Root.type].threshold = 2
        self.root.add_key(self.targets_signer.public_key, Targets.type)
        for name in (Snapshot.type, Timestamp.type):
            self.root.add_key(self.online_signer.public_key, name)
        self.targets = unpublished(Targets(expires=year, delegations=Delegations({}, {})))
        self.roles: dict[str, Targets] = {}
        self.snapshot = unpublished(Snapshot())
        self.timestamp = unpublished(Timestamp())
        self.publish_root()
        self.bootstrap = self.files["1.root.json"]
        for product in products or ("thermostat",):
            self.add_product(product)
        self.publish()

    def add_product(self, product: str) -> None:
        """Delegate to a product's role, which is empty; publish afterwards."""
        signer = self.role_signers[product] = CryptoSigner.generate_ed25519()
        role = DelegatedRole(product, [], 1, terminating=True, paths=[f"{product}/*/*"])
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[product] = role
        self.targets.add_key(signer.public_key, product)
        self.roles[product] = unpublished(Targets(expires=at(self.now_s) + timedelta(days=90)))

    def add_firmware(self, image: bytes | BlobRef, **fields: Any) -> Manifest:
        """Put a firmware into its product's role; publish afterwards."""
        ref = image if isinstance(image, BlobRef) else describe([image])[0]
        manifest = manifest_of(ref, **fields)
        target = TargetFile(
            ref.size_bytes, {"sha256": ref.digest}, manifest.target_path, {"custom": to_custom(manifest)}
        )
        self.roles[manifest.product].targets[manifest.target_path] = target
        return manifest

    def raise_floor(self, product: str, floors: Mapping[str, Any]) -> None:
        """State floors in a product's role; publish afterwards."""
        self.roles[product].unrecognized_fields[MINIMUM_SEQ_FIELD] = dict(floors)

    def publish_root(self, *more: Signer) -> None:
        """Sign the next root with the root keys, and with `more` (those that it replaces)."""
        self.root.version += 1
        self.files[f"{self.root.version}.root.json"] = sign(self.root, *self.root_signers, *more)

    def publish(self, *, targets: bool = True) -> None:
        """Sign the next version of everything but root."""
        if targets:
            self.targets.version += 1
            self.files[f"{self.targets.version}.targets.json"] = sign(self.targets, self.targets_signer)
            for product, role in self.roles.items():
                role.version += 1
                self.files[f"{role.version}.{product}.json"] = sign(role, self.role_signers[product])
        self.publish_snapshot()

    def publish_snapshot(self) -> None:
        """Sign the next snapshot, over whatever the files of the roles are now, and the next timestamp."""
        for name, role in {Targets.type: self.targets, **self.roles}.items():
            data = self.files[f"{role.version}.{name}.json"]
            self.snapshot.meta[f"{name}.json"] = MetaFile.from_data(role.version, data, ["sha256"])
        self.snapshot.version += 1
        self.snapshot.expires = at(self.now_s) + timedelta(days=7)
        data = self.files[f"{self.snapshot.version}.snapshot.json"] = sign(self.snapshot, self.online_signer)
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        """Sign the next timestamp."""
        self.timestamp.version += 1
        self.timestamp.expires = at(self.now_s) + timedelta(days=1)
        self.files["timestamp.json"] = sign(self.timestamp, self.online_signer)

    def rotate_root(self) -> None:
        """Replace every root key: the next root is signed by the old ones too."""
        old, self.root_signers = self.root_signers, [CryptoSigner.generate_ed25519() for _ in range(3)]
        for signer in old:
            self.root.revoke_key(signer.public_key.keyid, Root.type)
        for signer in self.root_signers:
            self.root.add_key(signer.public_key, Root.type)
        self.publish_root(*old)

    def rotate_online_key(self) -> None:
        """Replace the online key by a new root, and sign snapshot and timestamp with the new one."""
        old, self.online_signer = self.online_signer, CryptoSigner.generate_ed25519()
        for name in (Snapshot.type, Timestamp.type):
            self.root.revoke_key(old.public_key.keyid, name)
            self.root.add_key(self.online_signer.public_key, name)
        self.publish_root()
        self.publish_snapshot()

    def bundle(self, product: str = "thermostat") -> Bundle:
        """What is retained on the product's topic now."""
        names = [
            "timestamp.json",
            f"{self.snapshot.version}.snapshot.json",
            f"{self.targets.version}.targets.json",
            f"{self.roles[product].version}.{product}.json",
        ]
        files = {name: self.files[name].decode() for name in names}
        return Bundle(product=product, root_version=self.root.version, files=files)

    def ask(self, name: str) -> bytes | None:
        """Answer as the cloud does."""
        self.asked.append(name)
        return self.files.get(name)

    def sign_message(self, pae: bytes) -> tuple[Signature, ...]:
        """Sign a message as the cloud does."""
        return (signature(self.online_signer, pae),)


def sign(payload: Root | Targets | Snapshot | Timestamp, *signers: Signer) -> bytes:
    """Return metadata signed by these keys, as a file."""
    metadata: Metadata[Any] = Metadata(payload)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def signature(signer: Signer, data: bytes) -> Signature:
    """Return one signature as messages carry it."""
    signed = signer.sign(data)
    return Signature(keyid=signed.keyid, sig=signed.signature)


def digest_of(data: bytes) -> str:
    """Return a SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
