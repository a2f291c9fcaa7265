"""Drafts: changes of root, targets or products' roles that collect signatures until they may be published.

A draft is one file that travels between people: each looks at what it changes, signs with the keys that are his, and
hands it on. Nothing in it is taken on trust: it is checked against what the signer's own keyring knows. Two copies that
were signed apart are laid together again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.keys.known_metadata import KeyringError, KnownMetadata
from cloud.keys.signing import add_signature
from cloud.roles import (
    MAX_OFFLINE_BYTES,
    ROOT,
    TARGETS,
    TrustError,
    check_fresh,
    check_product,
    check_root,
    check_separate,
    check_successor,
    check_targets,
    delegated_products,
    parse,
    verify,
)

FORMAT: Final = "fleetlift-draft"
FORMAT_VERSION: Final = 1
MAX_BYTES: Final = 4 * MAX_OFFLINE_BYTES

FindSigners = Callable[[str, list[str], int | None], list[Signer]]
"""Returns signers of a role for some of these key ids, at most so many."""


class Demand(NamedTuple):
    """Signatures that a piece of a draft needs: `threshold` of `keyids`, by the word of `by`."""

    piece: str
    by: str
    threshold: int
    keyids: tuple[str, ...]
    signed: tuple[str, ...]

    @property
    def is_met(self) -> bool:
        """Whether enough have signed."""
        return len(self.signed) >= self.threshold

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not signed."""
        return tuple(keyid for keyid in self.keyids if keyid not in self.signed)


@dataclass(frozen=True, slots=True)
class Draft:
    """Metadata on its way. Its pieces belong together: they are published at once or not at all."""

    root: Metadata[Root] | None = None
    targets: Metadata[Targets] | None = None
    roles: Mapping[str, Metadata[Targets]] = field(default_factory=dict)
    plain: bool = False
    """Whether its file is the one piece of metadata itself."""

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Draft":
        """Return the draft of a file, or of a product's role that `firmware sign` wrote; raises KeyringError."""
        if len(data) > MAX_BYTES:
            raise KeyringError(f"{where} has more than {MAX_BYTES} bytes; nothing was signed")
        try:
            document = json.loads(data)
            json.dumps(document, ensure_ascii=False).encode()  # half a character could not be written again
            if "signed" in document:
                return cls._of_role(document, data)
            if document[FORMAT] != FORMAT_VERSION:
                raise KeyringError(f"{where} is a draft of another version of Fleetlift; nothing was signed")
            pieces = {name: json.dumps(piece).encode() for name, piece in document["roles"].items()}
            root, targets = (document.get(name) for name in (ROOT, TARGETS))
            return cls(
                None if root is None else parse(json.dumps(root).encode(), Root, ROOT),
                None if targets is None else parse(json.dumps(targets).encode(), Targets, TARGETS),
                {check_product(name): parse(piece, Targets, name) for name, piece in pieces.items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise KeyringError(f"{where} is not a draft ({type(error).__name__}); nothing was signed") from None

    @classmethod
    def _of_role(cls, document: Mapping[str, Any], data: bytes) -> "Draft":
        kind = document["signed"]["_type"]
        if kind == Root.type:
            return cls(root=parse(data, Root, ROOT), plain=True)
        role = parse(data, Targets, TARGETS)
        products = {path.partition("/")[0] for path in role.signed.targets}
        if role.signed.delegations is not None:
            return cls(targets=role, plain=True)
        if len(products) != 1:
            raise KeyringError("which product's role this is cannot be told: it has no firmware; nothing was signed")
        return cls(roles={check_product(products.pop()): role}, plain=True)

    def to_bytes(self) -> bytes:
        """Return the draft as a file."""
        if self.plain:
            (piece,) = self.pieces.values()
            return piece.to_bytes()
        document: dict[str, Any] = {FORMAT: FORMAT_VERSION, "roles": {}}
        if self.root is not None:
            document[ROOT] = self.root.to_dict()
        if self.targets is not None:
            document[TARGETS] = self.targets.to_dict()
        document["roles"] = {name: role.to_dict() for name, role in self.roles.items()}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def pieces(self) -> dict[str, Metadata[Any]]:
        """What is in it, by role."""
        named: dict[str, Metadata[Any] | None] = {ROOT: self.root, TARGETS: self.targets, **self.roles}
        return {name: piece for name, piece in named.items() if piece is not None}

    @property
    def name(self) -> str:
        """What its file may be called."""
        return "-".join(f"{name}-{piece.signed.version}" for name, piece in self.pieces.items())

    def demands(self, known: KnownMetadata) -> tuple[Demand, ...]:
        """Return whose signatures are needed and there."""
        now, targets = known.read_root(), known.read_targets()
        found: list[Demand] = []
        if self.root is not None:
            found.append(_demand(now, ROOT, self.root, f"root {now.signed.version}"))
            found.append(_demand(self.root, ROOT, self.root, f"root {self.root.signed.version}"))
        if self.targets is not None:
            by = self.root or now
            found.append(_demand(by, TARGETS, self.targets, f"root {by.signed.version}"))
        by_targets = self.targets or targets
        found += [
            _demand(by_targets, product, role, f"targets {by_targets.signed.version}")
            for product, role in self.roles.items()
        ]
        return tuple(found)

    def is_complete(self, known: KnownMetadata) -> bool:
        """Tell whether all have signed who must."""
        return all(demand.is_met for demand in self.demands(known))

    def check(self, known: KnownMetadata, now: datetime) -> None:
        """Raise unless this may follow on what the keyring knows, whoever has signed it.

        Raises:
            KeyringError: it stands on another version than the keyring's.
            TrustError: it is not laid out or dated as it must be, forgets firmware, or leaves roles unsigned.
        """
        if not self.pieces:
            raise KeyringError("the draft is empty; nothing was signed")
        before_root, before_targets = known.read_root(), known.read_targets()
        _check_version(ROOT, self.root, before_root.signed.version, exact=True)
        _check_version(TARGETS, self.targets, before_targets.signed.version)
        root, targets = self.root or before_root, self.targets or before_targets
        check_root(root.signed)
        check_targets(targets.signed)
        check_separate(root.signed, targets.signed)
        gone = set(delegated_products(before_targets.signed)) - set(delegated_products(targets.signed))
        if gone:
            raise TrustError(f"targets no longer delegates to {', '.join(sorted(gone))}; nothing was signed")
        for name, piece in self.pieces.items():
            check_fresh(name, piece, now)
        for product, role in self.roles.items():
            if product not in delegated_products(targets.signed):
                raise TrustError(f"targets does not delegate to product {product!r}; nothing was signed")
            if (seen := known.role(product)) is not None:
                old = parse(seen, Targets, product)
                _check_version(product, role, old.signed.version)
                check_successor(old.signed, role.signed, product)
        if self.targets is None:
            verify(root, TARGETS, before_targets)
        for product in set(known.products()) - set(self.roles):
            if (seen := known.role(product)) is not None:
                verify(targets, product, parse(seen, Targets, product))

    def signed(self, known: KnownMetadata, find: FindSigners) -> tuple["Draft", tuple[str, ...]]:
        """Return the draft with the signatures that `find`'s signers can add, and the ids of those that did.

        Of targets and products' roles no more signatures are made than are needed: they travel to every device.
        """
        pieces = {name: _copy(piece) for name, piece in self.pieces.items()}
        signers_used: dict[str, None] = {}
        for demand in self.demands(known):
            wanted = demand.threshold - len(demand.signed)
            limit = None if demand.piece == ROOT else wanted
            if limit is not None and limit <= 0:
                continue
            missing = [keyid for keyid in demand.missing if keyid not in pieces[demand.piece].signatures]
            for signer in find(demand.piece, missing, limit):
                add_signature(pieces[demand.piece], signer)
                signers_used[signer.public_key.keyid] = None
        return replace(self, **_fields(pieces)), tuple(signers_used)

    def merged(self, other: "Draft") -> "Draft":
        """Return this draft with the signatures of another copy too; raises KeyringError for another draft."""
        mine, theirs = self.pieces, other.pieces
        if mine.keys() != theirs.keys() or any(mine[name].signed != theirs[name].signed for name in mine):
            raise KeyringError("these are copies of different drafts; nothing was signed or sent")
        pieces = {name: _copy(piece) for name, piece in mine.items()}
        for name, piece in theirs.items():
            pieces[name].signatures.update(piece.signatures)
        return replace(self, **_fields(pieces))


def _fields(pieces: dict[str, Metadata[Any]]) -> dict[str, Any]:
    roles = {name: piece for name, piece in pieces.items() if name not in (ROOT, TARGETS)}
    return {"root": pieces.get(ROOT), "targets": pieces.get(TARGETS), "roles": roles}


def _demand(delegator: Metadata[Root] | Metadata[Targets], name: str, piece: Metadata[Any], by: str) -> Demand:
    try:
        role = delegator.signed.get_delegated_role(name)
        result = delegator.signed.get_verification_result(name, piece.signed_bytes, piece.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"{name} cannot be signed: {error}. Nothing was changed") from None
    return Demand(name, by, role.threshold, tuple(role.keyids), tuple(sorted(result.signed)))


def _check_version(name: str, piece: Metadata[Any] | None, known: int, *, exact: bool = False) -> None:
    if piece is None:
        return
    version = piece.signed.version
    if version <= known or (exact and version != known + 1):
        raise KeyringError(
            f"the draft makes {name} version {version}, and this keyring knows version {known}. Nothing was signed. "
            "Bring the keyring up to date with `fleetlift key fetch`; a draft that came too late is made anew"
        )


def _copy(piece: Metadata[Any]) -> Metadata[Any]:
    return Metadata.from_bytes(piece.to_bytes())
