"""Images before they are signed: one raw file each, and a JSON description that lies beside it.

A directory with a `__main__.py` becomes a zipapp (PEP 441). The same sources give the same bytes on every machine:
entries sorted, stored uncompressed (which also keeps patches small), all of one date and mode.
"""

import difflib
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from protocol.chunks import BlobRef, describe
from protocol.codec import decode_json, structure, to_plain
from protocol.errors import FleetliftError, ProtocolError, UserError
from protocol.identity import MAX_INTEGER, check_id, check_version
from protocol.manifest import ANY_HARDWARE, MAX_NOTES_LENGTH, MAX_SCHEMAS, Requirements
from protocol.values import MAX_COMPONENTS

DESCRIPTION_SUFFIX: Final = ".json"
SOURCE_DESCRIPTION: Final = "firmware.json"
"""In a directory of sources: what `firmware build` would otherwise be told by options. Not part of the image."""
INTERPRETER: Final = b"#!/usr/bin/env python3\n"
BLOCK_BYTES: Final = 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that the zip format can state
_MAIN = "__main__.py"
_FILE_MODE = 0o100644 << 16
_LEFT_OUT = re.compile(r"(?:\..*|__pycache__|.*\.py[co])")


class ImageError(FleetliftError):
    """An image or its description cannot be made or read; the text says why and what was not changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a release manager says of an image: all of the manifest but its place in the history and its blobs."""

    product: str
    component: str
    version: str
    digest: str
    size_bytes: int
    build: int = 0
    hardware_models: tuple[str, ...] = (ANY_HARDWARE,)
    requires: Requirements = field(default_factory=Requirements)
    notes: str = ""
    data_schema: int = 0
    reads_schemas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.product, "product")
        check_id(self.component, "component")
        check_version(self.version)
        for model in self.hardware_models:
            if model != ANY_HARDWARE:
                check_id(model, "hardware model")
        if not 0 <= self.build <= MAX_INTEGER:
            raise ProtocolError(f"build is {self.build}; 0 or more is possible")
        if not self.hardware_models:
            raise ProtocolError(f"hardware_models is empty; name at least one model, or {ANY_HARDWARE!r}")
        if any(not 0 <= schema <= MAX_INTEGER for schema in (self.data_schema, *self.reads_schemas)):
            raise ProtocolError("data_schema and reads_schemas are 0 or more")
        if len(self.reads_schemas) > MAX_SCHEMAS:
            raise ProtocolError(f"reads_schemas names more than {MAX_SCHEMAS}")
        if len(self.requires.components) > MAX_COMPONENTS:
            raise ProtocolError(f"requires names more than {MAX_COMPONENTS} components; no device has more")
        if len(self.notes) > MAX_NOTES_LENGTH:
            raise ProtocolError(f"notes has more than {MAX_NOTES_LENGTH} characters")


def pack(source: Path, destination: Path) -> None:
    """Write the image of a file (its bytes) or of a directory of Python sources (a zipapp); atomic.

    Raises:
        ImageError: the source is neither, holds a symbolic link, or the image cannot be written.
    """
    if not source.exists():
        raise ImageError(f"{source} does not exist. Nothing was built.")
    if source.is_dir() and not (source / _MAIN).is_file():
        raise ImageError(f"{source} has no {_MAIN}: a directory becomes an image as a zipapp. Nothing was built.")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=destination.parent, prefix=".image-", delete=False) as file:
            temporary = Path(file.name)
            try:
                if source.is_dir():
                    file.write(INTERPRETER)
                    _write_zip(source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
                else:
                    for block in read_blocks(source):
                        file.write(block)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                temporary.replace(destination)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ImageError(f"{destination} cannot be written: {error.strerror}. Nothing was built.") from error


def _write_zip(source: Path, archive: zipfile.ZipFile) -> None:
    with archive:
        for path in _sources(source):
            entry = zipfile.ZipInfo(path.relative_to(source).as_posix(), _EPOCH)
            entry.create_system, entry.external_attr = 3, _FILE_MODE  # Unix, whatever built it
            archive.writestr(entry, path.read_bytes())


def _sources(directory: Path) -> Iterator[Path]:
    found = []
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        if any(_LEFT_OUT.fullmatch(part) for part in parts) or parts == (SOURCE_DESCRIPTION,):
            continue
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError:
            raise ImageError(f"the name {os.fspath(path)!r} is not UTF-8, as names are. Nothing was built.") from None
        if path.is_symlink():
            raise ImageError(f"{path} is a symbolic link, which an image cannot hold. Nothing was built.")
        if path.is_file():
            found.append(path)
    return iter(sorted(found, key=lambda path: path.relative_to(directory).as_posix().encode()))


def read_blocks(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """Yield a file's bytes in blocks; raises ImageError."""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
                if progress:
                    progress(len(block))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from error


def measure(path: Path, progress: Callable[[int], None] | None = None) -> BlobRef:
    """Return the image's digest, size and chunk lists; raises ImageError."""
    try:
        return describe(read_blocks(path, progress))[0]
    except ProtocolError as error:
        raise ImageError(f"{path} cannot be an image: {error}. Nothing was changed.") from error


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; raises ImageError."""
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def description_path(image: Path) -> Path:
    """Return where an image's description lies: beside it, `.json` added to the name."""
    return image.with_name(image.name + DESCRIPTION_SUFFIX)


def write_description(image: Path, description: Description) -> Path:
    """Write the description beside the image; return its path; raises ImageError."""
    path = description_path(image)
    try:
        path.write_text(json.dumps(to_plain(description), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ImageError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def read_facts(path: Path) -> dict[str, Any]:
    """Return what a description says, or nothing where there is none; raises UserError for a key that is not known."""
    try:
        facts = decode_json(path.read_bytes(), path.name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from error
    except ProtocolError as error:
        raise UserError(f"{path}: {error}. Nothing was changed.") from None
    known = [item.name for item in fields(Description)]
    for key in facts:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"{path}: the key {key!r} is not known ({hint}). Nothing was changed.")
    return facts


def to_description(facts: dict[str, Any], origin: str) -> Description:
    """Return facts as a description; raises UserError that names what is missing or wrong."""
    try:
        return structure(facts, Description)
    except ProtocolError as error:
        raise UserError(f"{origin}: {error}. Nothing was changed.") from None
