"""Builds the sample images: `python -m firmware_samples.build [--output DIR] [--only NAME ...] [--size-mib N]`.

An image is one file, a zipapp (PEP 441): `python3 image` runs it, and nothing is unpacked. The same sources give the
same bytes with every Python on every machine: entries are stored uncompressed, in order, all of one date and mode.
Beside it lies `<image>.json`, which describes it to `fleetlift release push`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

SOURCES: Final = Path(__file__).parent
SDK: Final = SOURCES.parent / "device_agent" / "sdk.py"
SUMS: Final = SOURCES / "SHA256SUMS"
DEFAULT_OUTPUT: Final = Path("build/images")
INTERPRETER: Final = b"#!/usr/bin/env python3\n"
FILLER: Final = "voice_prompts.bin"
_MIB: Final = 1024 * 1024
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest date that the format can state
_UNIX: Final = 3
_FILE_MODE: Final = 0o100644 << 16
_MAIN: Final = '"""Starts the application."""\n\nfrom firmware_samples.{sources}.application import main\n\nmain()\n'
_PACKAGE: Final = '"""The SDK: a copy, as any application may have one."""\n'


class UnknownSampleError(LookupError):
    """There is no sample image of this name."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of the catalogue. A `size_mib` of 0 is as small as it gets."""

    sources: str
    component: str
    version: str
    build: int
    hardware_models: tuple[str, ...]
    notes: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    size_mib: int = 0
    data_schema: int | None = None
    reads_schemas: tuple[int, ...] = ()

    @property
    def product(self) -> str:
        """The product that it is firmware of."""
        return self.sources.replace("_", "-")

    @property
    def name(self) -> str:
        """The image's file name."""
        return f"{self.product}-{self.version}"


def catalogue() -> dict[str, Sample]:
    """Return every sample by name, in the catalogue's order."""
    table = tomllib.loads((SOURCES / "catalogue.toml").read_text(encoding="utf-8"))
    samples = [Sample(**table["defaults"] | image) for image in table["image"]]
    return {sample.name: sample for sample in samples}


def build(name: str, output: Path, *, size_mib: int | None = None) -> Path:
    """Build one image and its description into `output`; return the image's path.

    `size_mib` replaces the size of a large image; the others have none to replace. Raises UnknownSampleError, or
    OSError with the image that was there left as it was.
    """
    samples = catalogue()
    if name not in samples:
        raise UnknownSampleError(f"there is no sample {name!r}, only {', '.join(samples)}")
    sample = samples[name]
    output.mkdir(parents=True, exist_ok=True)
    path = output / name
    beside = output / f".{name}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            _write_image(file, sample, (size_mib or sample.size_mib) * _MIB if sample.size_mib else 0)
        beside.chmod(0o644)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    path.with_name(f"{name}.json").write_text(_describe(sample, path), encoding="utf-8")
    return path


def build_all(output: Path, *, size_mib: int | None = None) -> dict[str, Path]:
    """Build every image of the catalogue into `output`; return their paths by name."""
    return {name: build(name, output, size_mib=size_mib) for name in catalogue()}


def sums(output: Path) -> str:
    """Return what SHA256SUMS says of the images and descriptions in `output` (`sha256sum -c` reads it)."""
    names = [name for image in catalogue() for name in (image, f"{image}.json")]
    return "".join(f"{_digest(output / name)}  {name}\n" for name in sorted(names))


def _write_image(file: BinaryIO, sample: Sample, size_bytes: int) -> None:
    entries = _entries(sample)
    if not size_bytes:
        _write_zip(file, entries, None)
        return
    measured = io.BytesIO()
    _write_zip(measured, entries, 0)
    filler_bytes = size_bytes - len(measured.getvalue())
    if filler_bytes < 0:
        raise ValueError(f"{sample.name} does not fit into {size_bytes} bytes")
    _write_zip(file, entries, filler_bytes)


def _entries(sample: Sample) -> dict[str, bytes]:
    """Return what the image holds: the application, what every appliance has, the SDK, and the version's parameters."""
    version = {
        "product": sample.product,
        "version": sample.version,
        "build": sample.build,
        "parameters": sample.parameters,
    } | _schemas(sample)
    entries = {
        "__main__.py": _MAIN.format(sources=sample.sources).encode(),
        "device_agent/__init__.py": _PACKAGE.encode(),
        "device_agent/sdk.py": SDK.read_bytes(),
        "firmware_samples/version.json": json.dumps(version, sort_keys=True).encode(),
    }
    own = [SOURCES / "__init__.py", SOURCES / "appliance.py", *(SOURCES / sample.sources).glob("*.py")]
    return entries | {f"firmware_samples/{path.relative_to(SOURCES).as_posix()}": path.read_bytes() for path in own}


def _write_zip(file: BinaryIO, entries: Mapping[str, bytes], filler_bytes: int | None) -> None:
    file.write(INTERPRETER)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            archive.writestr(_entry(name), entries[name])
        if filler_bytes is not None:
            entry = _entry(FILLER)
            entry.file_size = filler_bytes  # said before, so that no header depends on how it is written
            with archive.open(entry, "w") as filler:
                for block in _noise(filler_bytes):
                    filler.write(block)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = _UNIX, _FILE_MODE
    return entry


def _noise(size_bytes: int) -> Iterator[bytes]:
    """Yield bytes that nothing can compress, and that are always the same."""
    for offset in range(0, size_bytes, _MIB):
        yield hashlib.shake_256(f"fleetlift voice prompts {offset}".encode()).digest(min(_MIB, size_bytes - offset))


def _describe(sample: Sample, image: Path) -> str:
    description = {
        "product": sample.product,
        "component": sample.component,
        "version": sample.version,
        "digest": _digest(image),
        "size_bytes": image.stat().st_size,
        "build": sample.build,
        "hardware_models": sample.hardware_models,
        "notes": sample.notes,
    } | _schemas(sample)
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _schemas(sample: Sample) -> dict[str, object]:
    """Return what is said of the data of an application that keeps some."""
    if sample.data_schema is None:
        return {}
    return {"data_schema": sample.data_schema, "reads_schemas": list(sample.reads_schemas)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m firmware_samples.build", description="Build the sample images.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--only", action="append", choices=list(catalogue()), metavar="NAME", help="may be repeated")
    parser.add_argument("--size-mib", type=int, metavar="N", help="the size of the large image, in place of 64")
    parser.add_argument("--write-sums", action="store_true", help="also renew firmware_samples/SHA256SUMS")
    options = parser.parse_args()
    if options.size_mib is not None and not 1 <= options.size_mib <= 1024:
        parser.error("--size-mib is 1 to 1024")
    if options.write_sums and (options.only or options.size_mib):
        parser.error("--write-sums takes every image as it is: leave --only and --size-mib out")
    for name in options.only or catalogue():
        path = build(name, options.output, size_mib=options.size_mib)
        print(f"{path}  {path.stat().st_size} bytes")
    if options.write_sums:
        SUMS.write_text(sums(options.output), encoding="utf-8")
        print(f"{SUMS} renewed")


if __name__ == "__main__":
    main()
