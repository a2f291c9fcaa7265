"""Metadata that offers what nobody released."""

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # exported without saying so

from protocol.chunks import describe
from protocol.manifest import Blob, Manifest, to_custom
from tests.support.images import Image

ONLINE = {"timestamp.json", "snapshot.json"}
"""What the stolen online key may sign, and so may be on the device's disk when the rest of it is refused."""


def evil_target(image: Image, *, product: str = "thermostat") -> Manifest:
    ref = describe([image.path.read_bytes()])[0]
    return Manifest(
        product=product,
        component="app",
        version=image.version,
        build=image.build,
        seq=10**6,
        hardware_models=("raspberrypi4",),
        blobs=(Blob(encoding="identity", ref=ref),),
    )


def with_target(role: Targets, manifest: Manifest) -> Targets:
    """A role that offers one firmware more."""
    ref = manifest.blobs[0].ref
    data = {"length": ref.size_bytes, "hashes": {"sha256": ref.digest}, "custom": to_custom(manifest)}
    role.targets[manifest.target_path] = TargetFile.from_dict(data, manifest.target_path)
    role.version += 1
    return role
