"""Enrolment as operators prepare it: tokens, and devices that are made known together with theirs."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, FailFast, Field

from cloud.api.access import may_see
from cloud.api.backend import Actor, CallerDep, Server
from cloud.api.documents import Document, Groups
from cloud.api.naming import find_group, find_product
from cloud.credentials import (
    DEFAULT_LIFETIME_S,
    MAX_LIFETIME_S,
    MAX_USES,
    DeviceDraft,
    EnrolmentTokenView,
    TokenDraft,
)

MAX_BATCH: Final = 2000
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Lifetime = Annotated[int, Field(strict=True, ge=1, le=MAX_LIFETIME_S)]

router = APIRouter(tags=["enrolment"])


class NewEnrolmentToken(Document):
    """A token, by the SHA-256 of its 22 characters: its text never comes here before a device uses it."""

    token_sha256: Digest
    product: str
    hardware_model: str | None = None
    device_id: str | None = None
    groups: Groups = ()
    uses: Annotated[int, Field(strict=True, ge=1, le=MAX_USES)] = 1
    lifetime_s: Lifetime = DEFAULT_LIFETIME_S
    name: str | None = None


class PreparedDevice(Document):
    """A device, and the token that is for it alone; `line` is where a file names it, for errors."""

    device_id: str
    hardware_model: str
    groups: Groups = ()
    token_sha256: Digest | None = None
    line: Annotated[int, Field(strict=True, ge=1)] | None = None


class DeviceBatch(Document):
    """Devices that are made known together, or not at all; `again` takes those that are known, too."""

    product: str
    devices: Annotated[list[PreparedDevice], Field(min_length=1, max_length=MAX_BATCH), FailFast()]
    lifetime_s: Lifetime = DEFAULT_LIFETIME_S
    again: Annotated[bool, Field(strict=True)] = False


class PreparedAnswer(BaseModel):
    """A device that is known now."""

    device_id: str
    new: bool


@router.get("/enrolment-tokens")
def list_enrolment_tokens(server: Server, caller: CallerDep) -> tuple[EnrolmentTokenView, ...]:
    """Return enrolment tokens, newest first."""
    return tuple(it for it in server.store.enrolment.tokens() if may_see(caller, it.product))


@router.post("/enrolment-tokens", status_code=HTTPStatus.CREATED)
def create_enrolment_token(server: Server, actor: Actor, body: NewEnrolmentToken) -> EnrolmentTokenView:
    """Make a token that lets devices enrol."""
    find_product(server.store, body.product)
    for group in body.groups:
        find_group(server.store, body.product, group)
    draft = TokenDraft(
        sha256=body.token_sha256,
        product=body.product,
        hardware_model=body.hardware_model,
        device_id=body.device_id,
        groups=body.groups,
        uses=body.uses,
        lifetime_s=body.lifetime_s,
        name=body.name,
    )
    return server.store.enrolment.add(draft, by=actor)


@router.delete("/enrolment-tokens/{name}")
def revoke_enrolment_token(server: Server, actor: Actor, name: str) -> EnrolmentTokenView:
    """Take a token back; devices that it enrolled stay."""
    return server.store.enrolment.revoke(name, by=actor)


@router.post("/device-batches", status_code=HTTPStatus.CREATED)
def prepare_devices(server: Server, actor: Actor, body: DeviceBatch) -> tuple[PreparedAnswer, ...]:
    """Make devices known, each with its token: all of them, or none."""
    find_product(server.store, body.product)
    for group in body.devices[0].groups if len(body.devices) == 1 else ():
        find_group(server.store, body.product, group)
    drafts = [
        DeviceDraft(
            device_id=item.device_id,
            hardware_model=item.hardware_model,
            groups=item.groups,
            token_sha256=item.token_sha256,
            line=item.line,
        )
        for item in body.devices
    ]
    made = server.store.enrolment.prepare(body.product, drafts, lifetime_s=body.lifetime_s, again=body.again, by=actor)
    return tuple(PreparedAnswer(device_id=it.device_id, new=new) for it, new in zip(drafts, made, strict=True))
