"""Values that tests of the device's wing build updates from."""

import hashlib

from device_agent.events import Attempt
from protocol.values import FirmwareRef, Urgency, Via


def digest_of(text: str) -> str:
    """A digest that is one, told apart by a word."""
    return hashlib.sha256(text.encode()).hexdigest()


def firmware(version: str = "1.1.0", *, component: str = "app", seq: int = 2, size_bytes: int = 1000) -> FirmwareRef:
    return FirmwareRef(
        component=component,
        version=version,
        build=seq,
        seq=seq,
        digest=digest_of(f"{component} {version}"),
        size_bytes=size_bytes,
        hardware_models=("*",),
    )


def attempt(
    image: FirmwareRef | None = None,
    *,
    attempt_id: str = "a1",
    order: int = 7,
    forced: bool = False,
    mandatory: bool = False,
) -> Attempt:
    return Attempt(
        attempt_id=attempt_id,
        source_id="r1",
        via=Via.RELEASE,
        order=order,
        firmware=image or firmware(),
        urgency=Urgency.GRADUAL,
        mandatory=mandatory,
        forced=forced,
        from_version="1.0.0",
        from_digest=digest_of("app 1.0.0"),
    )
