"""Changes of keys, thresholds and expiries, as a draft that nobody has signed yet.

A change of root or of a delegation carries with it whatever else must be signed anew: new keys of targets sign targets,
a product whose signer is gone is signed by one who remains. All of it is one draft, published at once.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Role, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.keys.drafts import Draft
from cloud.keys.known_metadata import KeyringError, KnownMetadata
from cloud.keys.public_keys import label_of, shown_keyid
from cloud.roles import (
    OFFLINE_LIFETIME,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TrustError,
    check_product,
    delegated_products,
    parse,
    utc_now,
    verify,
)

ONLINE: Final = "online"
"""What snapshot and timestamp are called together: the same keys sign both."""
MAX_KEYS: Final = 16
"""How many keys a role may have: each is read, and perhaps tried, by every device."""


class Changes:
    """Gathers changes on top of what a keyring knows, or of a draft (whose signatures they void)."""

    def __init__(
        self, known: KnownMetadata, draft: Draft | None = None, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._known, self._now = known, now
        self._pieces: dict[str, Metadata[Any]] = dict(draft.pieces) if draft is not None else {}

    def add_key(self, role: str, key: Key) -> None:
        """Let another key sign for a role; raises KeyringError if it does already."""
        piece, there = self._delegation(role)
        if key.keyid in there.keyids:
            raise KeyringError(f"the key {shown_keyid(key.keyid)} signs for {role} already; nothing was changed")
        if len(there.keyids) >= MAX_KEYS:
            raise KeyringError(f"{role} has {MAX_KEYS} keys, which is as many as may be; nothing was changed")
        for name in self._names(role):
            piece.signed.add_key(key, name)

    def revoke_key(self, role: str, keyid: str) -> None:
        """Let a key no longer sign for a role; raises KeyringError if too few would be left."""
        piece, there = self._delegation(role)
        if keyid not in there.keyids:
            raise KeyringError(f"the key {shown_keyid(keyid)} does not sign for {role}; nothing was changed")
        if len(there.keyids) - 1 < there.threshold:
            raise KeyringError(
                f"{role} needs {there.threshold} of its {len(there.keyids)} keys, so none can go. Nothing was changed. "
                "Replace it (`fleetlift key replace`), or add another first"
            )
        for name in self._names(role):
            piece.signed.revoke_key(keyid, name)

    def replace_key(self, role: str, keyid: str, key: Key) -> None:
        """Put a key in another's place."""
        self.add_key(role, key)
        self.revoke_key(role, keyid)

    def set_threshold(self, role: str, threshold: int) -> None:
        """Change how many keys must sign for a role; raises KeyringError for what cannot be."""
        piece, there = self._delegation(role)
        if role == ONLINE:
            raise KeyringError("the server signs with one key at a time; nothing was changed")
        if not 1 <= threshold <= len(there.keyids):
            raise KeyringError(
                f"{role} has {len(there.keyids)} keys, so {threshold} of them cannot be needed; nothing was changed"
            )
        if there.threshold == threshold:
            raise KeyringError(f"{role} needs {threshold} already; nothing was changed")
        for name in self._names(role):
            piece.signed.get_delegated_role(name).threshold = threshold

    def renew(self, role: str) -> None:
        """Give a role another year."""
        if role not in (ROOT, TARGETS):
            check_product(role)
        self._piece(role)

    def draft(self) -> Draft:
        """Return the draft, with everything that has to be signed anew because of it; raises TrustError."""
        if not self._pieces:
            raise KeyringError("nothing is to be changed")
        root = self._pieces.get(ROOT) or self._known.read_root()
        if TARGETS not in self._pieces and not _is_good(root, TARGETS, self._known.read_targets()):
            self._piece(TARGETS)
        targets = self._pieces.get(TARGETS) or self._known.read_targets()
        for product in delegated_products(targets.signed):
            seen = self._known.role(product)
            is_seen = product not in self._pieces and seen is not None
            if is_seen and not _is_good(targets, product, parse(seen or b"", Targets, product)):
                self._piece(product)
        for piece in self._pieces.values():
            piece.signatures.clear()
            piece.signed.expires = self._now().replace(microsecond=0) + OFFLINE_LIFETIME
        pieces = dict(self._pieces)
        return Draft(pieces.pop(ROOT, None), pieces.pop(TARGETS, None), pieces)

    def holders(self, role: str) -> dict[str, Key]:
        """Return the keys that sign for a role now, by id."""
        delegator, name = self._delegator(role)
        keyids = delegator.signed.get_delegated_role(name).keyids
        return {keyid: delegator.signed.get_key(keyid) for keyid in keyids}

    def find(self, role: str, text: str) -> str:
        """Return the id of the key of a role that is meant by the beginning of its id, or by whose it is."""
        keys = self.holders(role)
        found = [keyid for keyid, key in keys.items() if keyid.startswith(text.lower()) or label_of(key) == text]
        if len(found) == 1:
            return found[0]
        named = ", ".join(f"{shown_keyid(keyid)} {label_of(key)}".strip() for keyid, key in keys.items())
        what = "no key" if not found else f"{len(found)} keys"
        raise KeyringError(f"{what} of {role} can be meant by {text!r:.80}; nothing was changed. It has: {named}")

    def _names(self, role: str) -> tuple[str, ...]:
        return (SNAPSHOT, TIMESTAMP) if role == ONLINE else (role,)

    def _delegator(self, role: str) -> tuple[Metadata[Any], str]:
        if role in (ROOT, TARGETS, ONLINE):
            return self._pieces.get(ROOT) or self._known.read_root(), TIMESTAMP if role == ONLINE else role
        targets = self._pieces.get(TARGETS) or self._known.read_targets()
        if check_product(role) not in delegated_products(targets.signed):
            raise KeyringError(
                f"{role!r} is neither root, targets, online nor a product that this keyring knows "
                f"({', '.join(delegated_products(targets.signed)) or 'it knows none'}); nothing was changed"
            )
        return targets, role

    def _delegation(self, role: str) -> tuple[Metadata[Any], Role]:
        """Return the piece that names a role's keys, about to change, and the role in it."""
        _, name = self._delegator(role)
        piece = self._piece(ROOT if role in (ROOT, TARGETS, ONLINE) else TARGETS)
        return piece, piece.signed.get_delegated_role(name)

    def _piece(self, name: str) -> Metadata[Any]:
        """Return the next version of root, targets or a product's role, as it is so far."""
        if name not in self._pieces:
            if name == ROOT:
                piece: Metadata[Any] = self._known.read_root()
            elif name == TARGETS:
                piece = self._known.read_targets()
            else:
                seen = self._known.role(name)
                if seen is None:
                    raise KeyringError(f"this keyring has seen no role of product {name}; nothing was changed")
                piece = parse(seen, Targets, name)
            piece.signed.version += 1
            self._pieces[name] = piece
        return self._pieces[name]


def _is_good(delegator: Metadata[Root] | Metadata[Targets], name: str, piece: Metadata[Any]) -> bool:
    try:
        verify(delegator, name, piece)
    except TrustError:
        return False
    return True
