"""Where a repository stands: what is current, who signs it, when it expires."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Role, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.attention import MetadataNeed
from cloud.keys.public_keys import label_of
from cloud.metadata_files import MetadataFile
from cloud.roles import (
    ROOT,
    SNAPSHOT,
    SNAPSHOT_LIFETIME,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_LIFETIME,
    WARN_BEFORE,
    signers_of,
)

_FOR_ALL: Final = frozenset({ROOT, TARGETS, SNAPSHOT, TIMESTAMP})


class Standing(NamedTuple):
    """What is current in a repository, and the keys that its server signs with."""

    root: MetadataFile
    offline: Mapping[str, MetadataFile]
    snapshot: MetadataFile
    timestamp: MetadataFile
    online_key: Key
    next_online_key: Key | None


class Expiry(NamedTuple):
    """When metadata stops being taken, and whether somebody must do something about it now."""

    name: str
    version: int
    expires_at: datetime
    renewed_by: str
    """`operator`, with a keyring, or `server`, by itself."""
    due: bool


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key that signs for a role."""

    keyid: str
    label: str
    scheme: str
    signed: bool
    """Whether its good signature is on the current version."""


@dataclass(frozen=True, slots=True)
class RoleView:
    """A role: its version, when it expires, and who signs it."""

    role: str
    version: int
    expires_at_ms: int
    renewed_by: str
    due: bool
    threshold: int
    keys: tuple[KeyView, ...]


def expiries(standing: Standing, now: datetime) -> tuple[Expiry, ...]:
    """Return when each piece of current metadata expires, soonest first.

    What the operator signs is due two months before, what the server signs when it failed to sign it in time.
    """
    offline = [(ROOT, standing.root), *standing.offline.items()]
    found = [
        Expiry(name, file.version, expires, "operator", due=expires - now < WARN_BEFORE)
        for name, file in offline
        for expires in (file.metadata.signed.expires,)
    ]
    online = ((SNAPSHOT, standing.snapshot, SNAPSHOT_LIFETIME), (TIMESTAMP, standing.timestamp, TIMESTAMP_LIFETIME))
    for name, file, lifetime in online:
        expires = file.metadata.signed.expires
        found.append(Expiry(name, file.version, expires, "server", due=expires - now < lifetime / 4))
    return tuple(sorted(found, key=lambda item: item.expires_at))


def metadata_needs(standing: Standing, now: datetime) -> tuple[MetadataNeed, ...]:
    """Return what is due, soonest first: devices take nothing by metadata that has expired."""
    return tuple(_need(item, now) for item in expiries(standing, now) if item.due)


def _need(item: Expiry, now: datetime) -> MetadataNeed:
    product = "" if item.name in _FOR_ALL else item.name
    has_expired = item.expires_at <= now
    of = f"firmware of {product}" if product else "firmware of any product"
    until = "until it is renewed" if has_expired else "once it has expired"
    by_hand = item.renewed_by == "operator"
    mend = "Renew it where its keys are." if by_hand else "The server renews it, and could not: its log says why."
    return MetadataNeed(
        role=item.name,
        product=product,
        version=item.version,
        expires_at_ms=int(item.expires_at.timestamp() * 1000),
        has_expired=has_expired,
        why=f"Devices take no {of} {until}. {mend}",
        command=f"fleetlift key renew {item.name}" if by_hand else "fleetlift key list",
    )


def roles_of(standing: Standing, now: datetime) -> tuple[RoleView, ...]:
    """Return every role: root, targets, the products', snapshot and timestamp."""
    due = {item.name: item for item in expiries(standing, now)}
    root, targets = standing.root.metadata, standing.offline[TARGETS].metadata
    files: dict[str, MetadataFile] = {ROOT: standing.root, **standing.offline}
    files |= {SNAPSHOT: standing.snapshot, TIMESTAMP: standing.timestamp}
    top = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
    return tuple(role_view(root if name in top else targets, name, file, due[name]) for name, file in files.items())


def role_view(delegator: Metadata[Root] | Metadata[Targets], name: str, file: MetadataFile, expiry: Expiry) -> RoleView:
    """Return one role as its delegator describes it."""
    role = delegator.signed.get_delegated_role(name)
    signed = signers_of(delegator, name, file.metadata)
    keys = [delegator.signed.get_key(keyid) for keyid in role.keyids]
    return RoleView(
        role=name,
        version=file.version,
        expires_at_ms=int(expiry.expires_at.timestamp() * 1000),
        renewed_by=expiry.renewed_by,
        due=expiry.due,
        threshold=role.threshold,
        keys=tuple(KeyView(key.keyid, label_of(key), key.scheme, key.keyid in signed) for key in keys),
    )


def summary(standing: Standing, name: str, file: MetadataFile) -> dict[str, Any]:
    """Return what the audit keeps of a piece of metadata: which it is, who signed it, whom it lets sign."""
    root, targets = standing.root.metadata, standing.offline[TARGETS].metadata
    delegator = root if name in (ROOT, TARGETS) else targets
    said: dict[str, Any] = {
        "version": file.version,
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "expires_at_ms": int(file.metadata.signed.expires.timestamp() * 1000),
        "signed_by": list(signers_of(delegator, name, file.metadata)),
    }
    delegations = targets.signed.delegations
    if name == ROOT:
        said["roles"] = {role: _keys(root.signed.roles[role]) for role in sorted(root.signed.roles)}
    elif name == TARGETS and delegations is not None:
        said["roles"] = {role: _keys(delegated) for role, delegated in sorted((delegations.roles or {}).items())}
    return said


def _keys(role: Role) -> dict[str, Any]:
    return {"threshold": role.threshold, "keyids": sorted(role.keyids)}
