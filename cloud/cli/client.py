"""The way to the server's API: every failure becomes a sentence and an exit code."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from cloud.config import is_loopback
from cloud.provenance import CLI_AGENT
from cloud.tls import client_context, no_authority
from protocol.errors import UserError

_VERSION: Final = importlib.metadata.version("fleetlift")
API: Final = "/api/v1"
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 60.0
USAGE, FAILED, TIMED_OUT, NOT_ALLOWED, CONFLICT = 2, 1, 3, 4, 5
_EXIT_CODES: Final = {
    400: USAGE,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: FAILED,
    409: CONFLICT,
    413: USAGE,
    422: USAGE,
}

Json = dict[str, Any]


class UnreachableError(UserError):
    """The server was not reached, or went away before it answered: it may come back."""


class AnsweredError(UserError):
    """What the server refused, in its own words; `where` is the place that explains it."""

    def __init__(self, message: str, *, exit_code: int, where: str = "") -> None:
        super().__init__(message, exit_code=exit_code)
        self.where = where


class ApiClient:
    """The server's HTTP API as functions from paths to JSON; raises UserError only."""

    def __init__(self, url: str, token: str, ca: Path | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Take where, the token (empty: none yet), and what the server is known by (default: the system's list)."""
        self.url = url.rstrip("/")
        if urlsplit(self.url).scheme == "http" and (host := urlsplit(self.url).hostname) and not is_loopback(host):
            raise UserError(
                f"{self.url} is not encrypted: everybody on the way could read the token. Nothing was sent; use https."
            )
        known = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        try:
            self._http = httpx.Client(
                base_url=self.url + API,
                headers=known | {"User-Agent": f"{CLI_AGENT}/{_VERSION}"},
                timeout=timeout,
                trust_env=False,
                verify=client_context(ca) if self.url.startswith("https:") else no_authority(),
            )
        except OSError as error:
            raise UserError(f"{ca} holds no certificate authority: {error.strerror}. Nothing was sent.") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise UserError(f"{url!r} is not a server's address: {error}. Nothing was sent.") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, *path: str | int, **query: object) -> Any:
        """Return what stands at a path, each part quoted."""
        return self._json("GET", path, query)

    def post(self, *path: str | int, body: object = None) -> Any:
        """Send a JSON document; return the answer."""
        return self._json("POST", path, {}, json=body if body is not None else {})

    def patch(self, *path: str | int, body: object) -> Any:
        """Send a change; return the answer."""
        return self._json("PATCH", path, {}, json=body)

    def put(self, *path: str | int, body: object) -> Any:
        """Put a JSON document in a place; return the answer."""
        return self._json("PUT", path, {}, json=body)

    def delete(self, *path: str | int) -> Any:
        """Delete what stands at a path."""
        return self._json("DELETE", path, {})

    def post_bytes(self, *path: str | int, content: bytes) -> Any:
        """Send bytes as they are, such as signed metadata."""
        return self._json("POST", path, {}, content=content, headers={"Content-Type": "application/json"})

    def put_stream(self, *path: str | int, content: Iterator[bytes], size_bytes: int) -> Any:
        """Send a stream of known length."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)  # as long as it moves
        return self._json("PUT", path, {}, content=content, headers=headers, timeout=timeout)

    def read(self, *path: str | int) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        answer = self._send("GET", path, {})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        self._check(answer)
        return answer.content

    def lines(self, *path: str | int) -> Iterator[str]:
        """Yield the lines of a long answer as they come."""
        try:
            with self._http.stream("GET", _join(path)) as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                pending = b""
                for block in answer.iter_bytes():
                    *whole, pending = (pending + block).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                if pending:
                    yield pending.decode(errors="replace")
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the connection to {self.url} broke: {error}. Nothing was changed.", exit_code=FAILED
            ) from None

    def link(self, *path: str | int) -> str:
        """Return the address of a page."""
        return self.url + API + _join(path)

    def _json(self, method: str, path: tuple[str | int, ...], query: dict[str, object], **more: Any) -> Any:
        answer = self._send(method, path, query, **more)
        self._check(answer)
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            return answer.json()
        except ValueError:
            raise self._stranger(answer) from None

    def _send(self, method: str, path: tuple[str | int, ...], query: dict[str, object], **more: Any) -> httpx.Response:
        params = {name: _as_query(value) for name, value in query.items() if value is not None}
        try:
            return self._http.request(method, _join(path), params=params, **more)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UserError(
                    f"{self.url} did not prove that it is your server: {error}. Nothing was sent. Your context's `ca` "
                    "says which authority is believed; `fleetlift init` wrote it.",
                    exit_code=FAILED,
                ) from None
            raise UnreachableError(
                f"the server at {self.url} cannot be reached: {error}. Nothing was changed. Start it with "
                "`fleetlift serve`, or name another with --server or FLEETLIFT_SERVER.",
                exit_code=FAILED,
            ) from None
        except httpx.TimeoutException:
            raise UnreachableError(
                f"the server at {self.url} did not answer in time. {_unsure(method)}", exit_code=TIMED_OUT
            ) from None
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the connection to {self.url} broke: {error}. {_unsure(method)}", exit_code=FAILED
            ) from None

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        try:
            body = answer.json()
            message, where = str(body["message"]), str(body.get("help", ""))
        except (ValueError, KeyError, TypeError):
            raise self._stranger(answer) from None
        raise AnsweredError(message, exit_code=_EXIT_CODES.get(answer.status_code, FAILED), where=where)

    def _stranger(self, answer: httpx.Response) -> UserError:
        return UserError(
            f"{answer.request.url} answered {answer.status_code} in a way that a Fleetlift server does not. "
            "Is --server the address of one?",
            exit_code=FAILED,
        )


def _as_query(value: object) -> str | list[str]:
    return [str(it) for it in value] if isinstance(value, list | tuple) else str(value)


def _join(path: tuple[str | int, ...]) -> str:
    return "".join(f"/{quote(str(part), safe='')}" for part in path)


def _unsure(method: str) -> str:
    return "Nothing was changed." if method == "GET" else "Whether the change was made is not known: look before again."
