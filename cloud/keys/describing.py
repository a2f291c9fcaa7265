"""What a draft changes, in sentences: what somebody reads before signing it."""

from collections.abc import Mapping
from typing import Any

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.keys.changes import ONLINE
from cloud.keys.drafts import Draft
from cloud.keys.known_metadata import KnownMetadata
from cloud.keys.public_keys import PURE_PYTHON_SCHEME, label_of, shown_keyid
from cloud.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, delegated_products, firmware_of, floors_of, parse


def describe(draft: Draft, known: KnownMetadata) -> list[str]:
    """Return what the draft changes of what the keyring knows."""
    lines: list[str] = []
    root, targets = known.read_root(), known.read_targets()
    if draft.root is not None:
        lines.append(_headline(ROOT, root, draft.root))
        for role, name in ((ROOT, ROOT), (TARGETS, TARGETS), (ONLINE, TIMESTAMP), (ONLINE, SNAPSHOT)):
            changed = _delegation(role, name, root, draft.root)
            lines += [line for line in changed if line not in lines]
    if draft.targets is not None:
        lines.append(_headline(TARGETS, targets, draft.targets))
        there = delegated_products(targets.signed)
        for product in delegated_products(draft.targets.signed):
            if product in there:
                lines += _delegation(product, product, targets, draft.targets)
            else:
                lines.append(f"  {product} is a new product")
    for product, piece in draft.roles.items():
        seen = known.role(product)
        before = parse(seen, Targets, product) if seen is not None else None
        lines.append(_headline(product, before, piece))
        lines += _firmware(product, before, piece)
    return lines


def whose(key: Key) -> str:
    """Return a key as a person tells it apart."""
    label = label_of(key)
    scheme = "" if key.scheme == PURE_PYTHON_SCHEME else f", {key.scheme}"
    return f"{shown_keyid(key.keyid)}{f' ({label}{scheme})' if label or scheme else ''}".replace("(, ", "(")


def _headline(name: str, before: Metadata[Any] | None, after: Metadata[Any]) -> str:
    expires = f"expires on {after.signed.expires:%Y-%m-%d}"
    if before is None:
        return f"{name}: version {after.signed.version}, {expires}"
    was = f"{before.signed.expires:%Y-%m-%d}"
    return f"{name}: version {before.signed.version} → {after.signed.version}, {expires} (was {was})"


def _delegation(
    role: str, name: str, before: Metadata[Root] | Metadata[Targets], after: Metadata[Root] | Metadata[Targets]
) -> list[str]:
    old, new = before.signed.get_delegated_role(name), after.signed.get_delegated_role(name)
    lines = [f"  + {whose(after.signed.get_key(k))} signs for {role}" for k in new.keyids if k not in old.keyids]
    lines += [
        f"  - {whose(before.signed.get_key(keyid))} no longer signs for {role}"
        for keyid in old.keyids
        if keyid not in new.keyids
    ]
    if (old.threshold, len(old.keyids)) != (new.threshold, len(new.keyids)):
        was, now = (f"{role_.threshold} of {len(role_.keyids)}" for role_ in (old, new))
        lines.append(f"  {role} needs {now} keys (was {was})")
    return lines


def _firmware(product: str, before: Metadata[Targets] | None, after: Metadata[Targets]) -> list[str]:
    there = firmware_of(before.signed, product) if before is not None else {}
    lines = [
        f"  + firmware {path}, {item.length} bytes, sha256 {item.sha256}"
        for path, item in firmware_of(after.signed, product).items()
        if path not in there
    ]
    floors: Mapping[str, int] = floors_of(before.signed) if before is not None else {}
    lines += [
        f"  the floor of {component} rises to {seq}: nothing below it can be installed any more"
        for component, seq in floors_of(after.signed).items()
        if floors.get(component) != seq
    ]
    return lines
