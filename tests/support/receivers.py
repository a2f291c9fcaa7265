"""A webhook's receiver: a real HTTP server on loopback that answers as it is told, and keeps all that came."""

import base64
import hashlib
import hmac
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def kind(self) -> str:
        return str(self.event["type"]).removeprefix("io.fleetlift.")

    def is_signed_with(self, secret: str, now_s: float | None = None) -> bool:
        """Check the signature from the text of Standard Webhooks 1.0.0 alone, not by the code under test."""
        stamp = self.headers["webhook-timestamp"]
        if abs(int(stamp) - (time.time() if now_s is None else now_s)) > 300:
            return False
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        signed = f"{self.id}.{stamp}.".encode() + self.body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(item, f"v1,{expected}") for item in self.headers["webhook-signature"].split(" "))


Answering = Callable[[Received], int | tuple[int, Mapping[str, str]]]


class Receiver:
    """A receiver that runs; `answering` may be changed while it does."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answering: Answering = lambda _received: 204
        self.all: list[Received] = []
        self.at_once = self.most_at_once = 0
        self._came = queue.SimpleQueue[Received]()
        self._lock = threading.Lock()

        def handle(request: BaseHTTPRequestHandler) -> None:
            self._handle(request)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        for method in ("POST", "GET"):
            setattr(Handler, f"do_{method}", handle)
        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}/hook?from=fleet"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def next(self, timeout_s: float = TIMEOUT_S) -> Received:
        """Return the next request that has come; fails when none comes."""
        try:
            return self._came.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"no request within {timeout_s:g} s; {len(self.all)} before") from None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.command, request.path, headers, body)
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.all.append(received)
        said = self.answering(received)
        status, more = said if isinstance(said, tuple) else (said, {})
        with self._lock:
            self.at_once -= 1
        request.send_response(status)
        for name, value in {"content-length": "0", **more}.items():
            request.send_header(name, value)
        request.end_headers()
        self._came.put(received)


@contextmanager
def receiving(host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(host, port, tls)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
