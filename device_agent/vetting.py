"""Whether a firmware is to the letter what was wanted, and fit for this device, by what offline keys signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from device_agent.trust import SignedFirmware
from protocol.chunks import BlobRef
from protocol.errors import FleetliftError
from protocol.facts import DeviceFacts, broken_requirement, unmet_requirement, unreadable_data
from protocol.phases import Reason
from protocol.values import FirmwareRef

ENCODINGS: Final = ("identity",)
"""The blob encodings that this agent can decode, best first."""


class RefusedFirmwareError(FleetliftError):
    """A firmware that this device must not take; `reason` is what the attempt fails of."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def vetted(wanted: FirmwareRef, signed: SignedFirmware, facts: DeviceFacts, floors: Mapping[str, int]) -> BlobRef:
    """Return the blob to fetch of a firmware that is signed and fit for this device; raises RefusedFirmwareError."""
    manifest = signed.manifest
    differing = [name for name, (said, is_signed) in _compared(wanted, signed).items() if said != is_signed]
    if differing:
        raise RefusedFirmwareError(
            Reason.UNTRUSTED, f"what is wanted and what is signed differ in {', '.join(differing)}: not downloaded"
        )
    floor = floors.get(manifest.component, 0)
    if manifest.seq < floor:
        raise RefusedFirmwareError(Reason.BELOW_FLOOR, f"its seq is {manifest.seq}, and the floor {floor}")
    if not manifest.admits_hardware(facts.hardware_model):
        raise RefusedFirmwareError(Reason.INCOMPATIBLE, f"it is not for {facts.hardware_model}")
    for unfit in (unmet_requirement(facts, wanted), unreadable_data(facts, wanted)):
        if unfit is not None:
            raise RefusedFirmwareError(Reason.INCOMPATIBLE, f"it {unfit}")
    broken = broken_requirement(facts, wanted)
    if broken is not None:
        raise RefusedFirmwareError(Reason.INCOMPATIBLE, broken)
    for blob in manifest.blobs:
        if blob.encoding in ENCODINGS:
            if (blob.ref.digest, blob.ref.size_bytes) != (wanted.digest, wanted.size_bytes):
                raise RefusedFirmwareError(Reason.UNTRUSTED, "its blob is not the image that is signed")
            return blob.ref
    raise RefusedFirmwareError(Reason.INCOMPATIBLE, f"it comes in none of {', '.join(ENCODINGS)}")


def _compared(wanted: FirmwareRef, signed: SignedFirmware) -> Mapping[str, tuple[object, object]]:
    manifest = signed.manifest
    return {
        "component": (wanted.component, manifest.component),
        "version": (wanted.version, manifest.version),
        "build": (wanted.build, manifest.build),
        "seq": (wanted.seq, manifest.seq),
        "digest": (wanted.digest, signed.sha256),
        "size_bytes": (wanted.size_bytes, signed.length),
        "hardware_models": (sorted(wanted.hardware_models), sorted(manifest.hardware_models)),
        "requires": (wanted.requires, manifest.requires),
        "data_schema": (wanted.data_schema, manifest.data_schema),
        "reads_schemas": (sorted(wanted.reads_schemas), sorted(manifest.reads_schemas)),
    }
