"""Values that messages are made of, and the limits on everything that comes from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from protocol.errors import MessageError
from protocol.identity import MAX_INTEGER, Installed, VersionRange, check_digest, check_id, check_version
from protocol.manifest import MAX_HARDWARE_MODELS, MAX_SCHEMAS, Requirements

PROTOCOL_VERSION: Final = 1
MAX_TEXT: Final = 500
MAX_GROUPS: Final = 64
MAX_COMPONENTS: Final = 16
MAX_RELEASES: Final = 64
MAX_ENTRIES: Final = 64
MAX_HOLDS: Final = 64
MAX_FAILED: Final = 64
MAX_ATTRIBUTES: Final = 64
MAX_FILES: Final = 8
MAX_GAUGES: Final = 16
MAX_TIMEZONE: Final = 64
MAX_WANTED_CHUNKS: Final = 1024
MAX_WANTED_RANGES: Final = 512
_METADATA_NAME = re.compile(r"(?:[1-9][0-9]{0,9}\.)?[a-z0-9-]{1,64}\.json")


def check_text(value: str, name: str, limit: int = MAX_TEXT) -> None:
    """Raise MessageError for a text over the limit."""
    if len(value) > limit:
        raise MessageError(f"{name} has {len(value)} characters, at most {limit}")


def check_number(value: int, name: str, low: int = 0, high: int = MAX_INTEGER) -> None:
    """Raise MessageError for a number outside its bounds."""
    if not low <= value <= high:
        raise MessageError(f"{name} is {value}, not {low} to {high}")


def check_few(items: Sized, name: str, limit: int) -> None:
    """Raise MessageError for more items than the limit."""
    if len(items) > limit:
        raise MessageError(f"{name} has more than {limit} items")


class Urgency(StrEnum):
    """When a device takes a release: at the start of its next session or check, or at once."""

    GRADUAL = "gradual"
    IMMEDIATE = "immediate"


class Via(StrEnum):
    """What made a device want a firmware."""

    RELEASE = "release"
    OTA = "ota"
    PIN = "pin"


class Scope(StrEnum):
    """What a hold keeps from happening."""

    DOWNLOAD = "download"
    INSTALL = "install"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareRef:
    """A firmware as messages name it; the signed manifest must say the same, or the device refuses it."""

    component: str
    version: str
    build: int
    seq: int
    digest: str
    size_bytes: int
    hardware_models: tuple[str, ...]
    requires: Requirements = field(default_factory=Requirements)
    data_schema: int = 0
    reads_schemas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_version(self.version)
        check_digest(self.digest)
        check_number(self.build, "build")
        check_number(self.seq, "seq", 1)
        check_number(self.size_bytes, "size_bytes", 1)
        check_few(self.hardware_models, "hardware_models", MAX_HARDWARE_MODELS)
        check_number(self.data_schema, "data_schema")
        check_few(self.reads_schemas, "reads_schemas", MAX_SCHEMAS)

    def reads(self, schema: int) -> bool:
        """Tell whether it can work with data of a schema: its own, or one that it says so of."""
        return schema == self.data_schema or schema in self.reads_schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentState:
    """What a device runs of one component: the digest that booted, hashed by the device itself.

    `requires` (component to range) and `data_schema` are those of its signed manifest, as far as the device knows it.
    """

    component: str
    version: str
    build: int
    digest: str
    requires: Mapping[str, str] = field(default_factory=dict)
    data_schema: int = 0

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_version(self.version)
        check_digest(self.digest)
        check_number(self.build, "build")
        check_few(self.requires, "requires", MAX_COMPONENTS)
        for name, text in self.requires.items():
            check_id(name, "requires")
            VersionRange.parse(text)
        check_number(self.data_schema, "data_schema")

    @property
    def installed(self) -> Installed:
        """What ranges are matched against."""
        return Installed(version=self.version, build=self.build)


def check_metadata_name(name: str) -> str:
    """Return the name of a TUF metadata file (`3.root.json`, `timestamp.json`), else raise MessageError."""
    if not _METADATA_NAME.fullmatch(name):
        raise MessageError(f"{name!r:.80} is not the name of a metadata file")
    return name
