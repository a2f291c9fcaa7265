"""What the slots remember in small files: strict JSON, and what is not exactly right counts as not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from device_agent.slots import durable
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.identity import check_digest
from protocol.manifest import MAX_SCHEMAS
from protocol.values import MAX_COMPONENTS, ComponentState, FirmwareRef, check_few, check_number

MAX_RECORD_BYTES: Final = 32 * 1024

T = TypeVar("T")


class SlotName(StrEnum):
    """The two slots; the only directory names there are, whatever comes from the network."""

    A = "a"
    B = "b"

    @property
    def beside(self) -> SlotName:
        """The one beside it."""
        return SlotName.B if self is SlotName.A else SlotName.A


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """`slot.json`: the image beside it. Written last, so a slot without one is empty.

    `requires` (component to range), `data_schema` and `reads_schemas` are those of the signed manifest; a golden image
    whose record does not state them needs nothing, and reads data of schema 0 alone.
    """

    component: str
    version: str
    build: int
    digest: str
    size_bytes: int
    requires: Mapping[str, str] = field(default_factory=dict)
    data_schema: int = 0
    reads_schemas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_number(self.size_bytes, "size_bytes", 1)
        check_few(self.reads_schemas, "reads_schemas", MAX_SCHEMAS)
        _ = self.state  # which checks the rest

    @classmethod
    def of(cls, firmware: FirmwareRef) -> SlotRecord:
        """Return the record of a firmware's image."""
        return cls(
            component=firmware.component,
            version=firmware.version,
            build=firmware.build,
            digest=firmware.digest,
            size_bytes=firmware.size_bytes,
            requires=dict(sorted(firmware.requires.components.items())[:MAX_COMPONENTS]),
            data_schema=firmware.data_schema,
            reads_schemas=firmware.reads_schemas,
        )

    @property
    def state(self) -> ComponentState:
        """What messages tell of it."""
        return ComponentState(
            component=self.component,
            version=self.version,
            build=self.build,
            digest=self.digest,
            requires=self.requires,
            data_schema=self.data_schema,
        )


def state_of(firmware: FirmwareRef, digest: str) -> ComponentState:
    """Return what a component runs that was started as this firmware, from an image of this digest."""
    return replace(SlotRecord.of(firmware).state, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """`committed.json`: what was confirmed last, in which slot, and what was confirmed before that, in the other."""

    slot: SlotName
    image: SlotRecord
    previous: SlotRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`trial.json`: the slot and digest that are tried and not confirmed."""

    slot: SlotName
    digest: str

    def __post_init__(self) -> None:
        check_digest(self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """`target.json`: the image that `target` is to become. Written after `target` has its full size."""

    digest: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_digest(self.digest)
        check_number(self.size_bytes, "size_bytes", 1)


def load(path: Path, kind: type[T]) -> T | None:
    """Return a record, or None if there is none that is exactly right."""
    content = durable.read_file(path, MAX_RECORD_BYTES)
    if content is None:
        return None
    try:
        return decode(content, kind)
    except ProtocolError:
        return None


def store(path: Path, record: object) -> None:
    """Make a record durable; raises OSError."""
    durable.write_file(path, encode(record) + b"\n")
