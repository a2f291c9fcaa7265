"""Thermostats of any version: the sample's own image, with other numbers, parameters and sizes in it."""

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from firmware_samples.build import build

BASE = "thermostat-1.0.0"
INTERPRETER = b"#!/usr/bin/env python3\n"
ABOUT = "firmware_samples/version.json"
CHUNK_BYTES = 65536


@dataclass(frozen=True)
class Image:
    """One image on the operator's disk, and what it is by this file's own reckoning."""

    version: str
    build: int
    path: Path
    digest: str
    size_bytes: int

    @property
    def chunks(self) -> int:
        return -(-self.size_bytes // CHUNK_BYTES)


@dataclass
class Images:
    """Builds images, each once."""

    directory: Path
    _built: dict[str, Image] = field(default_factory=dict)

    def thermostat(
        self,
        version: str,
        *,
        number: int | None = None,
        filler_bytes: int = 0,
        hardware: tuple[str, ...] = ("raspberrypi4",),
        **parameters: object,
    ) -> Image:
        """Return a thermostat's image; by default its build number is 110 for 1.1.0.

        Of the parameters, `fails_after_s` makes it unhealthy so long after its start, `crashes` why it ends at once.
        """
        path = self.directory / f"thermostat-{version}"
        if path.name not in self._built:
            number = int(version.partition("-")[0].replace(".", "")) if number is None else number
            self._write(path, version, number, filler_bytes, parameters)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            description = {
                "product": "thermostat",
                "component": "app",
                "version": version,
                "digest": digest,
                "size_bytes": path.stat().st_size,
                "build": number,
                "hardware_models": hardware,
            }
            path.with_name(f"{path.name}.json").write_text(json.dumps(description))
            self._built[path.name] = Image(version, number, path, digest, path.stat().st_size)
        return self._built[path.name]

    def _write(self, path: Path, version: str, number: int, filler_bytes: int, parameters: dict[str, object]) -> None:
        base = self.directory / "base" / BASE
        if not base.exists():
            build(BASE, base.parent)
        with zipfile.ZipFile(base) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(entries[ABOUT])
        about |= {"version": version, "build": number, "parameters": about["parameters"] | parameters}
        entries[ABOUT] = json.dumps(about).encode()
        if filler_bytes:
            entries["filler"] = hashlib.shake_256(version.encode()).digest(filler_bytes)
        with path.open("wb") as file:
            file.write(INTERPRETER)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in entries.items():
                    archive.writestr(zipfile.ZipInfo(name), content)
