"""Small images for tests of the slots: the same version is always the same bytes."""

import hashlib
from pathlib import Path

from device_agent.slots import records
from device_agent.slots.files import FilesSlots
from protocol.values import FirmwareRef

CHUNK = 4096
COMPONENT = "app"


def image(version: str, size_bytes: int = 3 * CHUNK + 100) -> bytes:
    """Return a version's image: bytes that repeat nowhere, so that a chunk in the wrong place shows."""
    return hashlib.shake_128(version.encode()).digest(size_bytes)


def firmware(version: str, content: bytes | None = None) -> FirmwareRef:
    content = image(version) if content is None else content
    return FirmwareRef(
        component=COMPONENT,
        version=version,
        build=1,
        seq=1,
        digest=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        hardware_models=("*",),
    )


def download(slots: FilesSlots, version: str) -> None:
    """Write a version's image into the target, as a download would, and hash it."""
    content = image(version)
    target = slots.open_target(firmware(version))
    for offset in range(0, len(content), CHUNK):
        target.write(offset, content[offset : offset + CHUNK])
    assert target.digest() == firmware(version).digest
    target.close()


def install(slots: FilesSlots, version: str) -> None:
    """Bring a version to its trial."""
    download(slots, version)
    slots.stage(firmware(version))
    slots.activate(firmware(version))
    slots.apply(firmware(version))


def update(slots: FilesSlots, version: str) -> None:
    """Bring a version through its trial."""
    install(slots, version)
    slots.confirm(firmware(version))


def running(slots: FilesSlots) -> str | None:
    """Return the version that the next start starts, if its image is that version's, byte for byte."""
    view = slots.inspect()
    if view.running is None or view.running_image is None:
        return None
    assert view.running_image.read_bytes() == image(view.running.version)
    assert view.running.digest == firmware(view.running.version).digest
    return view.running.version


def damage(path: Path) -> None:
    """Flip the last byte of a file, whose size stays."""
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def golden(tmp_path: Path, version: str = "0.9.0") -> Path:
    """Return a directory with a golden image."""
    directory = tmp_path / "golden"
    directory.mkdir()
    (directory / "image").write_bytes(image(version))
    records.store(directory / "slot.json", records.SlotRecord.of(firmware(version)))
    return directory
