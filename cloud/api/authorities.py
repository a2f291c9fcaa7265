"""The fleet's certificates as operators see to them: authorities that change over, devices that are shut out."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.api.backend import Actor, Backend, Server
from cloud.api.documents import Document
from cloud.api.enrolment import authorities_of
from cloud.api.naming import find_device
from cloud.api.problems import ApiError
from cloud.credentials import CertificateView
from cloud.pki.authorities import KINDS, AuthorityError, AuthorityView, Kind
from cloud.pki.issuing import BACKDATE
from cloud.store.certificates import BROKER
from cloud.values import OutboxKind
from protocol.values import MAX_TEXT

SHOWN: Final = 5
ROUNDED: Final = timedelta(seconds=1)
"""Certificates tell time in whole seconds."""
router = APIRouter(tags=["certificates"])


class AuthorityPage(BaseModel):
    """A trusted authority.

    `needed_by` are the devices that could not connect without it: those whose present certificate it signed
    (`devices`), or that have not heard of a newer one (`services`; of the newest, nobody).
    """

    kind: Kind
    name: str
    sha256: str
    issuing: bool
    not_before_ms: int
    not_after_ms: int
    needed_by: int


class AuthoritiesPage(BaseModel):
    """The authorities of a kind, newest first, and their certificates in PEM."""

    kind: Kind
    authorities: tuple[AuthorityPage, ...]
    bundle: str


class Retirement(Document):
    """Whether to retire an authority that devices still need; they have to enrol or renew then."""

    force: Annotated[bool, Field(strict=True)] = False


class Revocation(Document):
    """Why a device is shut out."""

    reason: Annotated[str, Field(max_length=MAX_TEXT)] = ""


class Revoked(BaseModel):
    """A device that is shut out, and how many certificates of it were good."""

    device_id: str
    revoked_at_ms: int | None
    certificates: int


@router.get("/authorities")
def list_authorities(server: Server) -> tuple[AuthoritiesPage, ...]:
    """Return the trusted authorities of both kinds."""
    authorities_of(server)
    return tuple(_page(server, kind) for kind in KINDS)


@router.get("/authorities/{kind}/{name}/devices")
def list_dependants(server: Server, kind: Kind, name: str) -> tuple[str, ...]:
    """Return the devices that need a trusted authority."""
    for view in authorities_of(server).views(kind):
        if view.name == name:
            return _needed_by(server, view)
    message = f"There is no trusted authority {name!r:.80} for {kind}."
    raise ApiError(HTTPStatus.NOT_FOUND, "not_found", message)


@router.post("/authorities/{kind}/rotate", status_code=HTTPStatus.CREATED)
def rotate_authority(server: Server, actor: Actor, kind: Kind) -> AuthoritiesPage:
    """Make the next authority of a kind; those before it stay trusted."""
    with _conflicts():
        rotation = authorities_of(server).rotate(kind)
    server.store.audit.record(actor, "authority.rotated", f"authority/{rotation.trusted[0].name}")
    server.store.outbox.mark(OutboxKind.ACCESS, BROKER)
    return _page(server, kind)


@router.post("/authorities/{kind}/retire")
def retire_authority(server: Server, actor: Actor, kind: Kind, body: Retirement) -> AuthoritiesPage:
    """Trust the newest authority of a kind alone."""
    authorities = authorities_of(server)
    needed_by = sorted({it for view in authorities.views(kind)[1:] for it in _needed_by(server, view)})
    if needed_by and not body.force:
        some = ", ".join(needed_by[:SHOWN]) + (", ..." if len(needed_by) > SHOWN else "")
        message = (
            f"{len(needed_by)} of the devices still need the old authority ({some}); they change over when they renew "
            "their certificates. Nothing was changed. --force retires it all the same, and shuts them out."
        )
        raise ApiError(HTTPStatus.CONFLICT, "still_needed", message)
    with _conflicts():
        rotation = authorities.retire(kind)
    after = {"shut_out": len(needed_by)}
    for view in rotation.retired:
        server.store.audit.record(actor, "authority.retired", f"authority/{view.name}", after=after)
    server.store.outbox.mark(OutboxKind.ACCESS, BROKER)
    return _page(server, kind)


@router.get("/devices/{device_id}/certificates")
def list_certificates(server: Server, device_id: str) -> tuple[CertificateView, ...]:
    """Return a device's certificates, newest first."""
    find_device(server.store, device_id)
    return server.store.certificates.of(device_id)


@router.post("/devices/{device_id}/revoke")
def revoke_device(server: Server, actor: Actor, device_id: str, body: Revocation) -> Revoked:
    """Shut a device out: its certificates, its tokens, and whatever session it has."""
    find_device(server.store, device_id)
    count = server.store.certificates.revoke_device(device_id, body.reason, by=actor)
    device = server.store.devices.device(device_id)
    return Revoked(device_id=device_id, revoked_at_ms=device.revoked_at_ms, certificates=count)


def _page(server: Backend, kind: Kind) -> AuthoritiesPage:
    authorities = authorities_of(server)
    pages = tuple(
        AuthorityPage(
            kind=kind,
            name=view.name,
            sha256=view.sha256,
            issuing=view.issuing,
            not_before_ms=_ms(view.not_before),
            not_after_ms=_ms(view.not_after),
            needed_by=len(_needed_by(server, view)),
        )
        for view in authorities.views(kind)
    )
    return AuthoritiesPage(kind=kind, authorities=pages, bundle=authorities.trusted(kind).decode("ascii"))


def _needed_by(server: Backend, view: AuthorityView) -> tuple[str, ...]:
    if view.kind == "devices":
        return server.store.certificates.holders(view.name)
    newest = authorities_of(server).views("services")[0]
    if view.name == newest.name:
        return ()
    made = newest.not_before + BACKDATE + ROUNDED
    return server.store.certificates.informed_before(_ms(made))


@contextmanager
def _conflicts() -> Iterator[None]:
    """Answer with a conflict what the authorities cannot do."""
    try:
        yield
    except AuthorityError as error:
        raise ApiError(HTTPStatus.CONFLICT, "conflict", f"{error}.") from error


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
