"""Images and their other forms, by digest: streamed to the disk, never held in memory."""

import asyncio
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from cloud.api.backend import Actor, Backend, Server
from cloud.api.documents import BlobPage
from cloud.api.middleware import MAX_DIGITS
from cloud.api.problems import ApiError
from cloud.artifacts import Incoming
from protocol.chunks import BlobRef

router = APIRouter(tags=["blobs"])
WRITE_BYTES: Final = 1024 * 1024
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/blobs/{digest}")
def show_blob(server: Server, digest: str) -> BlobPage:
    """Return a blob's size and chunk lists."""
    ref = server.artifacts.find(digest)
    if ref is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "not_found", f"Blob {digest} is not here.")
    return _page(ref)


@router.put("/blobs/{digest}", openapi_extra=_BODY)
async def put_blob(server: Server, actor: Actor, digest: str, request: Request) -> BlobPage:
    """Store the body as the blob of this digest; idempotent. What does not have the digest is not stored."""
    limit = server.settings.server.max_image_bytes
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > MAX_DIGITS or int(declared) > limit):
        message = f"An image of more than {limit} bytes, the most that is taken (max_image_bytes). Nothing was stored."
        raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
    there = await asyncio.to_thread(server.artifacts.find, digest)
    incoming = await asyncio.to_thread(server.artifacts.incoming, digest, limit)
    try:
        ref = await _receive(incoming, request)
    except ClientDisconnect:
        raise ApiError(HTTPStatus.BAD_REQUEST, "cut_off", "The upload was cut off. Nothing was stored.") from None
    finally:
        await asyncio.to_thread(incoming.__exit__, None, None, None)
    await asyncio.to_thread(_publish, server, actor, ref if there is None else None)
    return _page(ref)


async def _receive(incoming: Incoming, request: Request) -> BlobRef:
    pending = bytearray()
    async for block in request.stream():
        pending += block
        if len(pending) >= WRITE_BYTES:
            await asyncio.to_thread(incoming.write, pending)
            pending = bytearray()
    await asyncio.to_thread(incoming.write, pending)
    return await asyncio.to_thread(incoming.finish)


def _publish(server: Backend, actor: str, stored: BlobRef | None) -> None:
    if stored is not None:
        after = {"size_bytes": stored.size_bytes}
        server.store.audit.record(actor, "blob.stored", f"blob/{stored.digest}", after=after)
    server.intake.reconcile(by=actor)


def _page(ref: BlobRef) -> BlobPage:
    return BlobPage(digest=ref.digest, size_bytes=ref.size_bytes, lists=ref.lists)
