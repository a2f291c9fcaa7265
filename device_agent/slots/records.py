"""What the slots remember in small files: strict JSON, and what is not exactly right counts as not there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from device_agent.slots import durable
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.identity import check_digest, check_id, check_version
from protocol.values import ComponentState, FirmwareRef, check_number

MAX_RECORD_BYTES: Final = 4096

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
    """`slot.json`: the image beside it. Written last, so a slot without one is empty."""

    component: str
    version: str
    build: int
    digest: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_id(self.component, "component")
        check_version(self.version)
        check_digest(self.digest)
        check_number(self.build, "build")
        check_number(self.size_bytes, "size_bytes", 1)

    @classmethod
    def of(cls, firmware: FirmwareRef) -> SlotRecord:
        """Return the record of a firmware's image."""
        return cls(
            component=firmware.component,
            version=firmware.version,
            build=firmware.build,
            digest=firmware.digest,
            size_bytes=firmware.size_bytes,
        )

    @property
    def state(self) -> ComponentState:
        """What messages tell of it."""
        return ComponentState(component=self.component, version=self.version, build=self.build, digest=self.digest)


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
