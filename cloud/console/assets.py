"""Static files: read once, gzipped once, at addresses that change with their contents, so that browsers keep them."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

ROOT: Final = Path(__file__).parent / "static"
PREFIX: Final = "/static"
SERVED: Final = frozenset({".css", ".js", ".svg", ".png", ".ico"})
_KEEP: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
_NAME_BYTES: Final = 8

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    content: bytes
    gzipped: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file that may be sent, by its path below `static`."""
    found = {}
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in SERVED:
            content = path.read_bytes()
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            tag = hashlib.sha256(content).hexdigest()[: 2 * _NAME_BYTES]
            found[path.relative_to(ROOT).as_posix()] = Asset(content, gzip.compress(content, 9, mtime=0), kind, tag)
    return found


def address(name: str) -> str:
    """Return where a static file is; KeyError for one that does not exist."""
    return f"{PREFIX}/{assets()[name].tag}/{name}"


@router.get(PREFIX + "/{tag}/{name:path}")
def send_asset(request: Request, tag: str, name: str) -> Response:
    """Send a static file; one of another content is not kept by anybody."""
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    headers = dict(_KEEP) if tag == asset.tag else {"Cache-Control": "no-store"}
    headers["Vary"] = "Accept-Encoding"
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.gzipped, media_type=asset.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(asset.content, media_type=asset.media_type, headers=headers)
