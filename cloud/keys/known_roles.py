"""The roles as a keyring knows them, without asking the server."""

from datetime import datetime

from tuf.api.metadata import Root, Targets  # type: ignore[attr-defined]  # tuf exports them without saying so

from cloud.keys.known_metadata import KnownMetadata
from cloud.keys.public_keys import label_of
from cloud.metadata_files import MetadataFile
from cloud.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, WARN_BEFORE, parse
from cloud.standing import Expiry, KeyView, RoleView, role_view


def known_roles(known: KnownMetadata, now: datetime) -> tuple[RoleView, ...]:
    """Return root, targets, the products' roles and, without their versions, snapshot and timestamp."""
    root = MetadataFile(known.root(), known.read_root())
    targets = MetadataFile(known.targets(), known.read_targets())
    files: dict[str, MetadataFile] = {ROOT: root, TARGETS: targets}
    for product in known.products():
        if (data := known.role(product)) is not None:
            files[product] = MetadataFile(data, parse(data, Targets, product))
    views = []
    for name, file in files.items():
        expires = file.metadata.signed.expires
        expiry = Expiry(name, file.version, expires, "operator", due=expires - now < WARN_BEFORE)
        views.append(role_view(root.metadata if name in (ROOT, TARGETS) else targets.metadata, name, file, expiry))
    return (*views, *(_online(root.metadata.signed, name) for name in (SNAPSHOT, TIMESTAMP)))


def _online(root: Root, name: str) -> RoleView:
    role = root.roles[name]
    keys = tuple(KeyView(keyid, label_of(root.keys[keyid]), root.keys[keyid].scheme, False) for keyid in role.keyids)
    return RoleView(name, 0, 0, "server", False, role.threshold, keys)
