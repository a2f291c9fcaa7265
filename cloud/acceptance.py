"""What a repository takes of what offline keys signed: exactly what every device would take too.

Pure: from what is trusted and what comes to what is trusted then, or a TrustError that names the rule.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # tuf exports them without saying so

from cloud.metadata_files import MetadataFile
from cloud.roles import (
    ROOT,
    TARGETS,
    ConflictingRoleError,
    TrustError,
    check_fresh,
    check_product,
    check_root,
    check_separate,
    check_successor,
    check_targets,
    delegated_products,
    firmware_of,
    floors_of,
    parse,
    verify,
)

MAX_VERSION_STEP: Final = 1000
"""How many versions an offline role may skip: more is a slip, and would use up the versions there are."""


class Offline(NamedTuple):
    """What offline keys signed: root, and targets and the products' roles by name."""

    root: MetadataFile
    roles: Mapping[str, MetadataFile]

    def products(self) -> tuple[str, ...]:
        """Return the products whose role is here."""
        return tuple(name for name in self.roles if name != TARGETS)


class Incoming(NamedTuple):
    """What somebody sends: each piece's exact bytes, to be taken together or not at all."""

    root: bytes | None = None
    targets: bytes | None = None
    roles: Mapping[str, bytes] = {}


def accept(there: Offline, incoming: Incoming, now: datetime) -> Offline:
    """Return what is trusted when `incoming` is taken; what is current already is taken again.

    Raises:
        ConflictingRoleError: a version does not follow the current one, or lacks firmware that it has.
        TrustError: a piece is not signed, laid out or dated as it must be, or what stays would lose its signers.
    """
    root = _accept_root(there, incoming.root, now) if incoming.root is not None else there.root
    roles = dict(there.roles)
    if incoming.targets is not None:
        roles[TARGETS] = _accept_targets(there, root, incoming.targets, now)
    targets = roles[TARGETS].metadata
    if root is not there.root:
        verify(root.metadata, TARGETS, targets)
    check_separate(root.metadata.signed, targets.signed)
    for product, data in incoming.roles.items():
        roles[product] = _accept_role(there, targets, product, data, now)
    for product in there.products():
        if product not in incoming.roles:
            verify(targets, product, roles[product].metadata)
    return Offline(root, roles)


def _accept_root(there: Offline, data: bytes, now: datetime) -> MetadataFile:
    if data == there.root.data:
        return there.root
    root = parse(data, Root, ROOT)
    if root.signed.version != there.root.version + 1:
        raise ConflictingRoleError(
            f"root is version {root.signed.version}, {there.root.version + 1} comes next; nothing was changed"
        )
    verify(there.root.metadata, ROOT, root)
    verify(root, ROOT, root)
    check_fresh(ROOT, root, now)
    check_root(root.signed)
    return MetadataFile(data, root)


def _accept_targets(there: Offline, root: MetadataFile, data: bytes, now: datetime) -> MetadataFile:
    current = there.roles[TARGETS]
    if data == current.data:
        return current
    new = parse(data, Targets, TARGETS)
    verify(root.metadata, TARGETS, new)
    check_fresh(TARGETS, new, now)
    _check_step(TARGETS, current.version, new.signed.version)
    check_targets(new.signed)
    gone = set(there.products()) - set(delegated_products(new.signed))
    if gone:
        raise TrustError(f"targets no longer delegates to {', '.join(sorted(gone))}; nothing was changed")
    return MetadataFile(data, new)


def _accept_role(there: Offline, targets: Metadata[Targets], product: str, data: bytes, now: datetime) -> MetadataFile:
    if check_product(product) not in delegated_products(targets.signed):
        raise TrustError(f"targets does not delegate to product {product!r}; nothing was changed")
    current = there.roles.get(product)
    if current is not None and current.data == data:
        verify(targets, product, current.metadata)
        return current
    new = parse(data, Targets, product)
    verify(targets, product, new)
    check_fresh(product, new, now)
    _check_step(product, current.version if current else 0, new.signed.version)
    firmware_of(new.signed, product)
    floors_of(new.signed)
    if current is not None:
        check_successor(current.metadata.signed, new.signed, product)
    return MetadataFile(data, new)


def _check_step(name: str, current: int, new: int) -> None:
    if new <= current:
        raise ConflictingRoleError(
            f"{name} is version {new}, and version {current} is here already: fetch that, sign on top of it, send "
            "it again. Nothing was changed"
        )
    if new > current + MAX_VERSION_STEP:
        raise TrustError(f"{name} jumps from version {current} to {new}, at most {MAX_VERSION_STEP} are skipped")
