"""Searching the server's files for a key that could sign firmware, as an auditor would."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud.demo.world import World


def keys_with_the_server(world: World) -> list[str]:
    """Return the server's files that hold a private key which root, targets or a product's role name."""
    signing = _offline_keys(world.home / "cloud" / "metadata")
    files = [path for part in ("cloud", "broker") for path in sorted((world.home / part).rglob("*"))]
    return [path.name for path in files if path.suffix in {".pem", ".key"} and _public_part(path) in signing]


def _offline_keys(metadata: Path) -> set[str]:
    keys: set[str] = set()
    for path in metadata.glob("*.json"):
        signed = json.loads(path.read_bytes())["signed"]
        holder = signed if signed["_type"] == "root" else signed.get("delegations", {"keys": {}})
        roles = signed.get("roles", {})
        online = {keyid for name in ("snapshot", "timestamp") for keyid in roles.get(name, {}).get("keyids", ())}
        keys |= {key["keyval"]["public"] for keyid, key in holder.get("keys", {}).items() if keyid not in online}
    return keys


def _public_part(path: Path) -> str | None:
    key = load_pem_private_key(path.read_bytes(), None)
    return key.public_key().public_bytes_raw().hex() if isinstance(key, Ed25519PrivateKey) else None
