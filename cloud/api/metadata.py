"""The signed metadata: who signs what until when, and the way in for what offline keys signed."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so

from cloud.acceptance import Incoming
from cloud.access.roles import Caller
from cloud.api.access import may_see
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import Document
from cloud.api.naming import find_product
from cloud.api.problems import ApiError
from cloud.roles import utc_now
from cloud.standing import RoleView, roles_of

router = APIRouter(tags=["metadata"])
MAX_ROLES: Final = 1000
_METADATA: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {"content": {"application/json": {"schema": {"type": "object"}}}}
}


class KeyDocument(BaseModel):
    """A public key as TUF metadata holds it, with its id."""

    keyid: str
    keytype: str
    scheme: str
    keyval: dict[str, Any]


class MetadataPage(BaseModel):
    """Every role with its keys, and the keys that the server signs with."""

    root_version: int
    roles: tuple[RoleView, ...]
    online_key: KeyDocument
    next_online_key: KeyDocument | None
    """Made, and not yet in its place; it signs too as soon as root names it."""


class SignedMetadata(Document):
    """What offline keys signed, to be taken together or not at all: the signed files' exact texts."""

    root: str | None = None
    targets: str | None = None
    roles: Annotated[dict[str, str], Field(max_length=MAX_ROLES, default_factory=dict)]


class MetadataAccepted(BaseModel):
    """What was new, by role; and how everything stands now."""

    accepted: tuple[str, ...]
    metadata: MetadataPage


@router.get("/metadata")
def show_standing(server: Server, caller: CallerDep) -> MetadataPage:
    """Return every role: its version, its keys, when it expires and what is due."""
    standing = server.repository.standing()
    following = standing.next_online_key
    hidden = _hidden(server, caller)
    return MetadataPage(
        root_version=standing.root.version,
        roles=tuple(it for it in roles_of(standing, utc_now()) if it.role not in hidden),
        online_key=_document(standing.online_key),
        next_online_key=None if following is None else _document(following),
    )


@router.put("/metadata")
def accept_metadata(server: Server, caller: CallerDep, body: SignedMetadata) -> MetadataAccepted:
    """Take a new root, targets or products' roles, signed by as many keys as must; each step is audited."""
    for product in body.roles:
        find_product(server.store, product)
    incoming = Incoming(
        None if body.root is None else body.root.encode(),
        None if body.targets is None else body.targets.encode(),
        {product: role.encode() for product, role in body.roles.items()},
    )
    accepted = server.intake.accept(incoming, by=caller.name)
    return MetadataAccepted(accepted=accepted, metadata=show_standing(server, caller))


@router.post("/metadata/online-key", status_code=HTTPStatus.CREATED)
def prepare_online_key(server: Server, actor: Actor) -> KeyDocument:
    """Have the server make the key that it signs with next, unless there is one; return its public part."""
    return _document(server.intake.prepare_online_key(by=actor))


@router.get("/metadata/{name}", response_class=Response, responses=_METADATA)
def show_metadata(server: Server, caller: CallerDep, name: str) -> Response:
    """Return a file of the TUF metadata, byte for byte."""
    shown = name.removesuffix(".json").rpartition(".")[2] not in _hidden(server, caller)
    content = server.repository.metadata(name) if shown else None
    if content is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "not_found", f"There is no metadata file {name!r:.80}.")
    return Response(content, media_type="application/json")


def _hidden(server: Server, caller: Caller) -> frozenset[str]:
    """Return the roles of products that the caller may not look at."""
    return frozenset(it.product for it in server.store.catalog.products() if not may_see(caller, it.product))


def _document(key: Key) -> KeyDocument:
    return KeyDocument(keyid=key.keyid, keytype=key.keytype, scheme=key.scheme, keyval=key.keyval)
