"""The enrolment server over HTTPS: small answers, bounded in size and time, no redirect followed, no proxy used."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar
from urllib.parse import urlsplit

from device_agent.clock import DeviceClock
from device_agent.tls import TlsError, explain
from protocol.codec import MAX_MESSAGE_BYTES, decode, encode
from protocol.enrolment import (
    MAX_TRUST_BYTES,
    MAX_URL_LENGTH,
    Enrolled,
    EnrolmentRequest,
    RenewalRequest,
    TrustDocument,
)
from protocol.errors import FleetliftError, MessageError

DEFAULT_PORT: Final = 8321
PREFIX: Final = "/api/v1/enrolment"
TIMEOUT_S: Final = 20.0
"""For each of: the connection, each wait for the server, and (three times as long) the whole of an answer."""
_READ_BYTES: Final = 64 * 1024
_CODE: Final = re.compile(r"[a-z0-9_]{1,40}")
T = TypeVar("T")


KEY_TAKEN: Final = "key_taken"
"""Another device has this key: as after a copy of a card. The next try is made with a new one."""


class ServerError(FleetliftError):
    """The server cannot be reached, or did not do it; `code` is what it calls the reason."""

    def __init__(self, message: str, code: str = "unreachable") -> None:
        super().__init__(message)
        self.code = code


def check_server(url: str) -> tuple[str, int]:
    """Return the host and the port of `https://host[:8321]`; raises ServerError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
    if parts.scheme != "https" or not host or any(rest) or len(url) > MAX_URL_LENGTH:
        raise ServerError(f"the server's url {url!r:.200} is not like https://host:{DEFAULT_PORT}", "bad_url")
    return host, port


class EnrolmentServer:
    """The server at `url`, each call a connection of its own with a context made for it; all raise ServerError."""

    def __init__(
        self, url: str, context: Callable[[], ssl.SSLContext], clock: DeviceClock, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = url
        self._host, self._port = check_server(url)
        self._context = context
        self._clock = clock
        self._timeout_s = timeout_s

    def trust(self) -> TrustDocument:
        """Return what the server says is to be trusted: only as good as the context."""
        return self._call("GET", "/trust", None, TrustDocument, MAX_TRUST_BYTES)

    def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Ask to be one of the fleet. The same request with the same key has the same answer."""
        return self._call("POST", "", request, Enrolled, MAX_MESSAGE_BYTES)

    def renew(self, request: RenewalRequest) -> Enrolled:
        """Ask for the next certificate. The same request with the same key has the same answer."""
        return self._call("POST", "/renewal", request, Enrolled, MAX_MESSAGE_BYTES)

    def _call(self, method: str, path: str, message: object, kind: type[T], max_bytes: int) -> T:
        body = None if message is None else encode(message)
        try:
            context = self._context()
        except TlsError as error:
            raise ServerError(str(error)) from error
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)
        try:
            connection.connect()
            with _at_most(3 * self._timeout_s, connection.sock):
                headers = {"Content-Type": "application/json", "Connection": "close"}
                connection.request(method, PREFIX + path, body, headers)
                response = connection.getresponse()
                answer = _read(response, max_bytes)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a host name that is none
            raise ServerError(f"{self.url}: {explain(error, self._clock.wall())}") from error
        finally:
            connection.close()
        if response.status not in (200, 201):
            raise _refusal(self.url, response.status, answer)
        try:
            return decode(answer, kind, max_bytes=max_bytes)
        except MessageError as error:
            raise ServerError(f"{self.url} gave no answer that can be read: {error}", "bad_answer") from error


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    answer = bytearray()
    while block := response.read(min(_READ_BYTES, max_bytes + 1 - len(answer))):
        answer += block
        if len(answer) > max_bytes:
            raise http.client.HTTPException(f"an answer over {max_bytes} bytes")
    if response.length:
        raise http.client.HTTPException("an answer that was cut off")
    return bytes(answer)


@contextlib.contextmanager
def _at_most(allowed_s: float, connected: socket.socket) -> Iterator[None]:
    """End the connection after a while, even if its other side drips: then what reads it fails."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    impatient = threading.Timer(allowed_s, hang_up)
    impatient.daemon = True
    impatient.start()
    try:
        yield
    finally:
        impatient.cancel()


def _refusal(url: str, status: int, answer: bytes) -> ServerError:
    try:
        said = json.loads(answer[:MAX_MESSAGE_BYTES])
        code, text = said.get("code") or said.get("error"), said.get("detail") or said.get("message")
    except (ValueError, AttributeError, RecursionError):
        code = text = None
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else f"http_{status}"
    text = text if isinstance(text, str) else f"HTTP status {status}"
    printable = "".join(letter for letter in text if letter.isprintable())
    return ServerError(f"{url} refused: {printable[:300]} ({code})", code)
