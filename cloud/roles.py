"""The shape of Fleetlift's TUF metadata, checked the same way by who signs it and by who serves it.

    root        offline, 2 of 3 keys     names every other key; devices are given the first one
    targets     offline, 1 key           signs no firmware itself: delegates `<product>/*/*` to the product's role,
                                         which is called as the product and ends the search (terminating)
    <product>   offline, 1 key           the product's firmware, and the floors under it
    snapshot    online, the server's     the versions of targets and of every product's role
    timestamp   online, the same key     the version of the snapshot; its key signs notices and desired states too

After The Update Framework specification 1.0.34, with consistent snapshots.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # the same
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from protocol.errors import FleetliftError, IdentityError, ManifestError
from protocol.identity import MAX_INTEGER, check_digest, check_id
from protocol.manifest import MINIMUM_SEQ_FIELD, Manifest, from_custom, to_custom

ROOT: Final = Root.type
TARGETS: Final = Targets.type
SNAPSHOT: Final = Snapshot.type
TIMESTAMP: Final = Timestamp.type

# Freshness comes from what the server signs anew by itself. What people sign lasts a year, and warns for two months:
# a fleet whose operator is away must not stop taking updates in silence.
OFFLINE_LIFETIME: Final = timedelta(days=365)
SNAPSHOT_LIFETIME: Final = timedelta(days=7)
TIMESTAMP_LIFETIME: Final = timedelta(days=1)
WARN_BEFORE: Final = timedelta(days=60)

MAX_VERSION: Final = 9_999_999_999
"""The largest version: what the name of a metadata file can hold."""
MAX_OFFLINE_BYTES: Final = 5_000_000
"""The largest metadata of an offline role (python-tuf's `targets_max_length`)."""
MAX_ROOT_BYTES: Final = 512_000

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


class TrustError(FleetliftError):
    """Metadata was refused; the text names the rule. What was trusted before still is, unchanged."""


class ConflictingRoleError(TrustError):
    """Somebody else's metadata came first: fetch the current one, sign on top of it, send that."""


class SignedFirmware(NamedTuple):
    """One target of a product's role: the firmware's manifest, and the image's length in bytes and SHA-256."""

    manifest: Manifest
    length: int
    sha256: str


def utc_now() -> datetime:
    """The time of day, in UTC: what metadata expires by."""
    return datetime.now(UTC)


def check_product(product: str) -> str:
    """Return `product` if its role can be called so; raises TrustError."""
    try:
        check_id(product, "product")
    except IdentityError as error:
        raise TrustError(str(error)) from None
    if product in TOP_LEVEL_ROLE_NAMES:
        raise TrustError(f"a product cannot be called {product!r}: the metadata has a role of that name")
    return product


def parse(data: bytes, kind: type[S], name: str) -> Metadata[S]:
    """Return metadata of a kind, its signatures not yet checked; raises TrustError for a file that is none."""
    limit = MAX_ROOT_BYTES if kind is Root else MAX_OFFLINE_BYTES
    if len(data) > limit:
        raise TrustError(f"{name} has {len(data)} bytes; clients read at most {limit}")
    try:
        metadata = Metadata[S].from_bytes(data)
    except RepositoryError as error:
        raise TrustError(f"{name} is not TUF metadata: {error.__cause__ or error}"[:300]) from None
    signed: object = metadata.signed
    if type(signed) is not kind:
        raise TrustError(f"{name} is metadata of type {metadata.signed.type!r}, not {kind.type!r}")
    if type(metadata.signed.version) is not int or metadata.signed.version > MAX_VERSION:
        raise TrustError(f"{name} has a version beyond {MAX_VERSION}")
    return metadata


def verify(delegator: Metadata[Root] | Metadata[Targets], name: str, metadata: Metadata[Any]) -> None:
    """Check that `metadata` bears the signatures that `delegator` demands of role `name`; raises TrustError."""
    try:
        delegator.signed.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"{name} version {metadata.signed.version} is not signed as it must be: {error}") from None


def signers_of(delegator: Metadata[Root] | Metadata[Targets], name: str, metadata: Metadata[Any]) -> tuple[str, ...]:
    """Return the ids of the keys whose good signatures `metadata` bears for role `name`."""
    result = delegator.signed.get_verification_result(name, metadata.signed_bytes, metadata.signatures)
    return tuple(sorted(result.signed))


def check_fresh(name: str, metadata: Metadata[Any], now: datetime) -> None:
    """Raise TrustError for metadata that has expired."""
    if metadata.signed.is_expired(now):
        raise TrustError(f"{name} version {metadata.signed.version} expired on {metadata.signed.expires:%Y-%m-%d}")


def check_root(root: Root) -> None:
    """Raise TrustError for a root that is not laid out as Fleetlift's are."""
    if not root.consistent_snapshot:
        raise TrustError("root is without consistent snapshots, which Fleetlift's repository needs")
    for name, role in root.roles.items():
        _check_distinct(name, [root.keys[keyid] for keyid in role.keyids if keyid in root.keys])


def check_separate(root: Root, targets: Targets) -> None:
    """Raise TrustError if a key that the server signs with could also sign root, targets or firmware."""
    delegations = targets.delegations
    online = _content(root.keys, [*root.roles[SNAPSHOT].keyids, *root.roles[TIMESTAMP].keyids])
    offline = {name: _content(root.keys, root.roles[name].keyids) for name in (ROOT, TARGETS)}
    if delegations is not None:
        offline |= {name: _content(delegations.keys, role.keyids) for name, role in (delegations.roles or {}).items()}
    for name, keys in offline.items():
        if keys & online:
            raise TrustError(f"a key of {name} is one that the server signs with: then the server could sign {name}")


def _content(keys: Mapping[str, Key], keyids: Iterable[str]) -> set[str]:
    return {str(keys[keyid].keyval.get("public")).strip() for keyid in keyids if keyid in keys}


def _check_distinct(name: str, keys: Sequence[Key]) -> None:
    """Raise TrustError if one key counts as several: an id is a name that whoever adds the key could choose."""
    if len({str(key.keyval.get("public")).strip() for key in keys}) != len(keys):
        raise TrustError(f"{name} has one key under two ids, so that one signature would count as two")


def check_targets(targets: Targets) -> None:
    """Raise TrustError for a top-level targets role that is not laid out as Fleetlift's are."""
    if targets.targets:
        raise TrustError("targets signs firmware itself; that is for the products' roles")
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustError("targets does not delegate by role names")
    for name, role in targets.delegations.roles.items():
        check_product(name)
        if role.paths != role_paths(name) or not role.terminating:
            raise TrustError(f"targets must delegate {role_paths(name)[0]} to {name!r}, and end the search there")
        keys = targets.delegations.keys
        _check_distinct(name, [keys[keyid] for keyid in role.keyids if keyid in keys])


def role_paths(product: str) -> list[str]:
    """Return the target paths that a product's role may sign for."""
    return [f"{product}/*/*"]


def delegated_products(targets: Targets) -> tuple[str, ...]:
    """Return the products that `targets` delegates to."""
    roles = targets.delegations.roles if targets.delegations else None
    return tuple(roles or ())


def delegate_to(targets: Targets, product: str, key: Key) -> None:
    """Add the delegation to a product's role, signed by `key`."""
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustError("targets does not delegate by role names")
    targets.delegations.roles[product] = DelegatedRole(product, [], 1, terminating=True, paths=role_paths(product))
    targets.add_key(key, product)


def to_target(firmware: SignedFirmware) -> TargetFile:
    """Return a firmware as the target that a product's role signs."""
    manifest, length, sha256 = firmware
    return TargetFile(length, {"sha256": sha256}, manifest.target_path, {"custom": to_custom(manifest)})


def firmware_of(role: Targets, product: str) -> dict[str, SignedFirmware]:
    """Return a product's firmware by target path; raises TrustError for any target that is not one."""
    if role.delegations is not None:
        raise TrustError(f"the role of {product!r} delegates further, which no device would follow")
    firmware = {path: _firmware(path, target, product) for path, target in role.targets.items()}
    places = [(item.manifest.component, item.manifest.seq) for item in firmware.values()]
    if len(set(places)) != len(places):
        component, seq = next(place for place in places if places.count(place) > 1)
        raise TrustError(f"two firmwares of {product}/{component} have the seq {seq}")
    return firmware


def _firmware(path: str, target: TargetFile, product: str) -> SignedFirmware:
    try:
        manifest = from_custom(target.custom, path)
        digest = check_digest(str(target.hashes.get("sha256")), f"the SHA-256 of {path!r}")
    except (ManifestError, IdentityError) as error:
        raise TrustError(str(error)) from None
    firmware = SignedFirmware(manifest, target.length, digest)
    check_firmware(firmware, product)
    return firmware


def check_firmware(firmware: SignedFirmware, product: str) -> None:
    """Raise TrustError unless the manifest is the product's, and its blobs are of the image it stands with."""
    manifest, length, sha256 = firmware
    if manifest.product != product:
        raise TrustError(f"{manifest.target_path} is not firmware of {product!r}")
    if type(length) is not int or length < 1:
        raise TrustError(f"{manifest.target_path} has the length {length!r}")
    for blob in manifest.blobs:
        if blob.encoding == "identity" and (blob.ref.digest, blob.ref.size_bytes) != (sha256, length):
            raise TrustError(f"{manifest.target_path}: the identity blob is not the image")


def floors_of(role: Targets) -> dict[str, int]:
    """Return a product's floors, component to lowest `seq` that may be installed; raises TrustError."""
    floors: object = role.unrecognized_fields.get(MINIMUM_SEQ_FIELD, {})
    if not isinstance(floors, dict):
        raise TrustError(f"{MINIMUM_SEQ_FIELD} is not an object")
    for component, seq in floors.items():
        try:
            check_id(component, "component")
        except IdentityError as error:
            raise TrustError(f"{MINIMUM_SEQ_FIELD}: {error}") from None
        if type(seq) is not int or not 1 <= seq <= MAX_INTEGER:
            raise TrustError(f"{MINIMUM_SEQ_FIELD}: {component} has {seq!r:.40}, not a seq of 1 or more")
    return dict(floors)


def check_successor(old: Targets, new: Targets, product: str) -> None:
    """Raise TrustError where a new role forgets or alters firmware, or lowers a floor."""
    firmware_of(new, product)
    for path, target in old.targets.items():
        if path not in new.targets:
            raise ConflictingRoleError(f"{path} is missing: a role keeps all firmware of the version before")
        if new.targets[path] != target:
            raise TrustError(f"{path} is altered: firmware never changes once it is signed; sign a new version")
    floors = floors_of(new)
    for component, seq in floors_of(old).items():
        if floors.get(component, 0) < seq:
            raise TrustError(f"the floor of {component} would sink from {seq} to {floors.get(component, 0)}")
