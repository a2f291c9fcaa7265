"""A small enrolment server over real HTTPS and real authorities, that can be told to lose answers, lie and dawdle."""

import base64
import dataclasses
import hashlib
import json
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

from cloud.pki.issuing import DEVICE_LIFETIME
from cloud.pki.requests import certified_key_sha256, has_signed, read_certificate, read_request
from protocol.codec import decode, encode
from protocol.enrolment import (
    RENEWAL_CONTEXT,
    Enrolled,
    EnrolmentCode,
    EnrolmentRequest,
    RenewalRequest,
    TrustDocument,
    make_token,
)
from tests.support.certificates import LOOPBACK_NAMES, Fleet

PRODUCT = "thermostat"
TOKEN = make_token(b"sixteen secrets!")


class EnrolmentDesk:
    """Answers as the protocol says; the attributes change how, at any time. `asked` remembers what was asked."""

    def __init__(self, fleet: Fleet, *roots: bytes, broker_url: str = "mqtts://127.0.0.1:8883") -> None:
        self.fleet = fleet
        self.roots = [root.decode() for root in roots or (b'{"signed": "1"}', b'{"signed": "2"}')]
        self.broker_url = broker_url
        self.lifetime: timedelta = DEVICE_LIFETIME
        self.lost_answers = 0
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.raw: Callable[[Any], None] | None = None
        self.change: Callable[[Enrolled], Enrolled] = lambda answer: answer
        self.ca: str | None = None
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.issued: dict[str, Enrolled] = {}
        self.used: dict[str, str] = {}
        self.revoked: set[str] = set()
        self.issuer = fleet.authorities
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def code(self) -> EnrolmentCode:
        der = ssl.PEM_cert_to_DER_cert(self.fleet.authorities.trusted("services").decode())
        return EnrolmentCode(
            TOKEN, hashlib.sha256(der).hexdigest(), hashlib.sha256(self.roots[-1].encode()).hexdigest()
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, names: tuple[str, ...] = LOOPBACK_NAMES, pem: bytes | None = None) -> None:
        """Serve, on the same port as before, with a new certificate for `names` (or with `pem`)."""
        path = Path(self.fleet.directory, "desk.pem")
        path.write_bytes(pem or self.fleet.authorities.issue_service("desk", names, server=True))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        handler = type("Handler", (_Handler,), {"desk": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._server.context = context
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="desk").start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, body: bytes) -> object:
        if path == "/trust":
            ca = self.ca or self.fleet.authorities.trusted("services").decode()
            return TrustDocument(ca=ca, roots=tuple(self.roots))
        if path == "/renewal":
            return self._renewed(decode(body, RenewalRequest))
        return self._enrolled(decode(body, EnrolmentRequest))

    def _enrolled(self, wanted: EnrolmentRequest) -> object:
        if wanted.token != TOKEN:
            return 403, {"error": "unknown_token", "message": "This server does not know the token."}
        key = read_request(wanted.csr.encode()).key_sha256
        if self.used.setdefault(wanted.token, key) != key:
            return 403, {"error": "token_used", "message": "The token was used up."}
        return self._certify(wanted.csr, key, wanted.device_id)

    def _renewed(self, wanted: RenewalRequest) -> object:
        request, present = read_request(wanted.csr.encode()), read_certificate(wanted.certificate.encode())
        if not has_signed(present, base64.b64decode(wanted.signature), RENEWAL_CONTEXT + request.der):
            return 403, {"error": "bad_signature", "message": "That is not its signature."}
        before = next(it for key, it in self.issued.items() if key == certified_key_sha256(present))
        if before.device_id in self.revoked:
            return 403, {"error": "revoked", "message": "The device was revoked."}
        return self._certify(wanted.csr, request.key_sha256, before.device_id)

    def _certify(self, csr: str, key: str, device_id: str) -> Enrolled:
        if key not in self.issued:
            made = self.issuer.issue_device(csr.encode(), device_id, lifetime=self.lifetime)
            self.issued[key] = Enrolled(
                device_id=device_id,
                product=PRODUCT,
                certificate=made.pem.decode(),
                ca=self.ca or self.fleet.authorities.trusted("services").decode(),
                broker_url=self.broker_url,
                topic_root="fleetlift/v1",
                not_before_ms=int(made.not_before.timestamp() * 1000),
                not_after_ms=int(made.not_after.timestamp() * 1000),
            )
        return self.issued[key]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(10)
        try:
            with self.context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:  # the client did not like what it saw
            request.close()


class _Handler(BaseHTTPRequestHandler):
    desk: ClassVar[EnrolmentDesk]

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def _do(self) -> None:
        desk = self.desk
        path = self.path.removeprefix("/api/v1/enrolment")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        desk.asked.append((self.command, path))
        desk.bodies.append(body)
        if desk.raw is not None:
            desk.raw(self)
            return
        answer = desk.refusal if desk.refusal is not None and path != "/trust" else desk.answer(path, body)
        if isinstance(answer, Enrolled):
            answer = dataclasses.replace(desk.change(answer))
            if desk.lost_answers:
                desk.lost_answers -= 1
                self.close_connection = True
                return
        status, payload = (
            (answer[0], json.dumps(answer[1]).encode()) if isinstance(answer, tuple) else (200, encode(answer))
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass
