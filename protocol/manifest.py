"""What release managers sign about a firmware: the custom part of its TUF target, and the target's path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.chunks import BlobRef
from protocol.codec import check_encodable, structure, to_plain
from protocol.errors import ManifestError, ProtocolError
from protocol.identity import MAX_INTEGER, VersionRange, check_id, check_version

CUSTOM_FIELD: Final = "fleetlift"
"""The key of a target's `custom` object under which the manifest stands."""
MINIMUM_SEQ_FIELD: Final = "x-fleetlift-minimum-seq"
"""A field of a product's role: component to the lowest `seq` that may still be installed (the floor)."""
MAX_NOTES_LENGTH: Final = 2000
MAX_HARDWARE_MODELS: Final = 64
MAX_BLOBS: Final = 64
MAX_SCHEMAS: Final = 64
ANY_HARDWARE: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One way to have the image: fetch `ref` and decode it by `encoding`.

    `identity` is the image's own bytes. A device passes over encodings that it does not know.
    """

    encoding: str
    ref: BlobRef
    source_digest: str | None = None
    """The digest of the image that a patch starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What the device must have before it may take the firmware."""

    agent: str | None = None
    """The lowest version of the agent."""
    components: Mapping[str, str] = field(default_factory=dict)
    """Component to the range that its installed version must be in."""

    def __post_init__(self) -> None:
        if self.agent is not None:
            check_version(self.agent, "requires.agent")
        for name, text in self.components.items():
            check_id(name, "component")
            VersionRange.parse(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A firmware, as its release manager signed it.

    The TUF target around it states `length` (bytes) and `hashes.sha256` of the image itself. `seq` is the
    firmware's place in its component's history (1, 2, …): floors compare it, versions are for people.
    """

    product: str
    component: str
    version: str
    build: int
    seq: int
    hardware_models: tuple[str, ...]
    blobs: tuple[Blob, ...]
    requires: Requirements = field(default_factory=Requirements)
    notes: str = ""
    data_schema: int = 0
    """The schema of the data that it leaves behind."""
    reads_schemas: tuple[int, ...] = ()
    """Other schemas that it can take over, older or newer."""

    def __post_init__(self) -> None:
        check_id(self.product, "product")
        check_id(self.component, "component")
        check_version(self.version)
        if not 0 <= self.build <= MAX_INTEGER or not 1 <= self.seq <= MAX_INTEGER:
            raise ManifestError("build is 0 or more and seq 1 or more")
        if not 0 <= self.data_schema <= MAX_INTEGER:
            raise ManifestError("data_schema is 0 or more")
        if len(self.reads_schemas) > MAX_SCHEMAS or any(not 0 <= it <= MAX_INTEGER for it in self.reads_schemas):
            raise ManifestError(f"reads_schemas lists at most {MAX_SCHEMAS} schemas, each 0 or more")
        if not 1 <= len(self.hardware_models) <= MAX_HARDWARE_MODELS:
            raise ManifestError(f"hardware_models names 1 to {MAX_HARDWARE_MODELS} models, or '*'")
        for model in self.hardware_models:
            if model != ANY_HARDWARE:
                check_id(model, "hardware model")
        if not 1 <= len(self.blobs) <= MAX_BLOBS:
            raise ManifestError(f"blobs names 1 to {MAX_BLOBS} ways to have the image")
        if len(self.notes) > MAX_NOTES_LENGTH:
            raise ManifestError(f"notes has at most {MAX_NOTES_LENGTH} characters")

    @property
    def target_path(self) -> str:
        """The TUF target path: never a path of any file system."""
        return target_path(self.product, self.component, self.version)

    def admits_hardware(self, model: str) -> bool:
        """Tell whether a device of this hardware model may run it."""
        return ANY_HARDWARE in self.hardware_models or model in self.hardware_models


def target_path(product: str, component: str, version: str) -> str:
    """Return the TUF target path of a firmware: `<product>/<component>/<version>`."""
    return f"{product}/{component}/{version}"


def to_custom(manifest: Manifest) -> dict[str, Any]:
    """Return the `custom` object of the firmware's TUF target."""
    return {CUSTOM_FIELD: to_plain(manifest)}


def from_custom(custom: object, path: str) -> Manifest:
    """Return the manifest in a target's `custom` object; raises ManifestError, also if it is of another path."""
    inner = custom.get(CUSTOM_FIELD) if isinstance(custom, Mapping) else None
    if not isinstance(inner, dict):
        raise ManifestError(f"target {path!r:.200} has no {CUSTOM_FIELD!r} object in its custom field")
    try:
        check_encodable(inner, Manifest.__name__)
        manifest = structure(inner, Manifest)
    except ProtocolError as error:
        raise ManifestError(f"target {path!r:.200}: {error}") from error
    if manifest.target_path != path:
        raise ManifestError(f"target {path!r:.200} holds the manifest of {manifest.target_path!r:.200}")
    return manifest
