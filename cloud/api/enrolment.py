"""Enrolment as devices do it (docs/protocol.md): whom to trust, the first certificate for a token, and the next one.

No bearer token is asked for here: the token in the request, or the key of the present certificate, is what counts.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from cloud.access.limits import network_of
from cloud.api.backend import Backend, Server
from cloud.api.limiting import Tries
from cloud.api.middleware import origin_of
from cloud.api.problems import ApiError
from cloud.credentials import CertificateView
from cloud.pki.authorities import Authorities, IssuedCertificate
from cloud.pki.requests import CertificateError, certified_key_sha256, has_signed, read_certificate, read_request
from cloud.roles import ROOT
from cloud.store.errors import RefusedError
from protocol.codec import decode, to_plain
from protocol.enrolment import RENEWAL_CONTEXT, Enrolled, EnrolmentRequest, RenewalRequest, TrustDocument
from protocol.errors import ProtocolError

_log = logging.getLogger(__name__)
_JSON_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}
STATUSES: Final = {
    "name_taken": HTTPStatus.CONFLICT,
    "key_taken": HTTPStatus.CONFLICT,
    "too_many_certificates": HTTPStatus.TOO_MANY_REQUESTS,
}
"""What a refusal is answered with; any other with 403."""
REFUSED: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.CONFLICT})
"""What counts against the address that it is answered to."""
DAY_MS: Final = 24 * 3600 * 1000
MAX_REQUEST_BYTES: Final = 64 * 1024
AT_ONCE: Final = 4
"""How many requests are worked on at once: the others' share of threads, processors and disk stays theirs."""
MAX_WAITING: Final = 512
T = TypeVar("T")

router = APIRouter(tags=["enrolment"])


class TrustAnswer(BaseModel):
    """The authorities of the servers in PEM, newest first, and the text of every root metadata, oldest first."""

    ca: str
    roots: tuple[str, ...]


class EnrolledAnswer(BaseModel):
    """A device's certificate (PEM, itself alone), and what it needs to connect."""

    device_id: str
    product: str
    certificate: str
    ca: str
    broker_url: str
    topic_root: str
    not_before_ms: int
    not_after_ms: int


class Desk:
    """Works on a few of these requests at once and lets a bounded number wait: anybody may send them."""

    def __init__(self, *, at_once: int = AT_ONCE, max_waiting: int = MAX_WAITING) -> None:
        self._turns, self._present, self._max_present = asyncio.Semaphore(at_once), 0, at_once + max_waiting

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Return what `work`, which blocks, returns in a thread; raises ApiError when too many wait already."""
        if self._present >= self._max_present:
            message = "Too many devices ask at once. Nothing was changed; ask again later."
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", message)
        self._present += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._present -= 1


def _desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.enrolment_desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk_of)]


@router.get("/enrolment/trust")
async def show_trust(server: Server, desk: AtDesk) -> TrustAnswer:
    """Return what a device picks from by the hashes in its enrolment code."""
    return await desk.call(_trust, server)


@router.post("/enrolment", status_code=HTTPStatus.CREATED, openapi_extra=_JSON_BODY)
async def enrol(server: Server, desk: AtDesk, request: Request) -> EnrolledAnswer:
    """Give a device that has a token its first certificate; the server sets the name in it."""
    with _counted(request):
        wanted = decode(await request.body(), EnrolmentRequest)
        return await desk.call(_enrol, server, wanted)


@router.post("/enrolment/renewal", openapi_extra=_JSON_BODY)
async def renew(server: Server, desk: AtDesk, request: Request) -> EnrolledAnswer:
    """Give a device that has its present certificate's key the next one."""
    with _counted(request):
        wanted = decode(await request.body(), RenewalRequest)
        return await desk.call(_renew, server, wanted)


@contextmanager
def _counted(request: Request) -> Iterator[None]:
    """Refuse whoever was refused too often before; raises ApiError."""
    tries: Tries = request.app.state.enrolment_tries
    address = network_of(origin_of(request.scope).address)
    tries.check(address)
    try:
        yield
    except (ApiError, ProtocolError) as error:
        if not isinstance(error, ApiError) or error.status in REFUSED:
            tries.count(address)
        raise


def _trust(server: Backend) -> TrustAnswer:
    return TrustAnswer(**to_plain(TrustDocument(ca=_bundle(server), roots=show_roots(server))))


def show_roots(server: Backend) -> tuple[str, ...]:
    """Return the text of every root metadata, oldest first."""
    names = [f"{version}.{ROOT}.json" for version in range(1, server.repository.root_version + 1)]
    found = [server.repository.metadata(name) for name in names]
    return tuple(root.decode() for root in found if root is not None)


def authorities_of(server: Backend) -> Authorities:
    """Return the server's authorities; raises ApiError where there are none."""
    if server.authorities is None:
        message = "This server works without TLS, on one machine alone, and gives out no certificates."
        raise ApiError(HTTPStatus.CONFLICT, "no_certificates", message)
    return server.authorities


def _enrol(server: Backend, wanted: EnrolmentRequest) -> EnrolledAnswer:
    authorities, csr = authorities_of(server), wanted.csr.encode()
    token = hashlib.sha256(wanted.token.encode()).hexdigest()

    def give() -> CertificateView:
        key = read_request(csr).key_sha256
        return server.store.enrolment.enrol(
            token, wanted.device_id, wanted.hardware_model, key, _issuer(authorities, csr)
        )

    return _answer(server, _refusing(give, "enrolment", wanted.device_id))


def _renew(server: Backend, wanted: RenewalRequest) -> EnrolledAnswer:
    authorities, csr = authorities_of(server), wanted.csr.encode()

    def give() -> CertificateView:
        request = read_request(csr)
        present = read_certificate(wanted.certificate.encode())
        if not has_signed(present, _signature(wanted.signature), RENEWAL_CONTEXT + request.der):
            raise RefusedError("bad_signature", "The present certificate's key did not sign this request.")
        return server.store.certificates.renew(
            present.serial_number,
            certified_key_sha256(present),
            request.key_sha256,
            _issuer(authorities, csr),
            grace_ms=server.settings.devices.renewal_grace_days * DAY_MS,
        )

    return _answer(server, _refusing(give, "renewal", "a device"))


def _issuer(authorities: Authorities, csr: bytes) -> Callable[[str], IssuedCertificate]:
    return lambda device_id: authorities.issue_device(csr, device_id)


def _refusing(give: Callable[[], T], what: str, who: str) -> T:
    try:
        return give()
    except (RefusedError, CertificateError) as error:
        _log.info("%s of %s was refused: %s", what, who, error.code)
        if isinstance(error, CertificateError):
            status = HTTPStatus.UNPROCESSABLE_ENTITY
        else:
            status = STATUSES.get(error.code, HTTPStatus.FORBIDDEN)
        raise ApiError(status, error.code, str(error)) from None


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _answer(server: Backend, certificate: CertificateView) -> EnrolledAnswer:
    enrolled = Enrolled(
        device_id=certificate.device_id,
        product=certificate.product,
        certificate=certificate.pem,
        ca=_bundle(server),
        broker_url=server.broker_url,
        topic_root=server.settings.broker.topic_root,
        not_before_ms=certificate.not_before_ms,
        not_after_ms=certificate.not_after_ms,
    )
    return EnrolledAnswer(**to_plain(enrolled))


def _bundle(server: Backend) -> str:
    return authorities_of(server).trusted("services").decode("ascii")
