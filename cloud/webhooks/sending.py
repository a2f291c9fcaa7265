"""One try at one delivery: a POST to a checked address, in bounded time, following no redirect, reading little."""

from __future__ import annotations

import asyncio
import importlib.metadata
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx

from cloud.store.errors import InvalidError
from cloud.tls import client_context
from cloud.webhooks.addresses import AddressError, resolve
from cloud.webhooks.values import WebhookView, check_url

CONNECT_TIMEOUT_S: Final = 5.0
TIMEOUT_S: Final = 15.0
"""For everything: a receiver answers first and works afterwards."""
MAX_READ_BYTES: Final = 16 * 1024
MAX_ANSWER: Final = 200
MAX_RETRY_AFTER_S: Final = 86_400
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a try came to, in words too; `gone` asks for no more, `after_s` for none before."""

    taken: bool
    words: str
    gone: bool = False
    after_s: int = 0


class Sender:
    """Sends; `tls` is what receivers' certificates are checked by."""

    def __init__(self, tls: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._tls, self._timeout_s = tls or client_context(), timeout_s
        self._agent = f"Fleetlift/{importlib.metadata.version('fleetlift')}"

    async def send(self, hook: WebhookView, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return what a receiver said; a failure of whatever kind is an answer, too."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(hook, body, headers)
        except TimeoutError:
            return Answer(taken=False, words=f"no answer within {self._timeout_s:g} s")
        except (AddressError, InvalidError) as error:
            return Answer(taken=False, words=_shown(str(error)))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError, ValueError) as error:
            return Answer(taken=False, words=_shown(f"{type(error).__name__}: {error}"))

    async def _send(self, hook: WebhookView, body: bytes, headers: Mapping[str, str]) -> Answer:
        parts = check_url(hook.url, allow_plain=hook.allow_plain, allow_private=hook.allow_private)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        addresses = await resolve(host, port, allow_private=hook.allow_private)
        url = httpx.URL(hook.url)
        # To the address that was checked; the name stays in the Host header, and is what the certificate has to bear.
        told = {**headers, "host": url.netloc.decode("ascii"), "user-agent": self._agent, "accept-encoding": "identity"}
        timeout = httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(verify=self._tls, timeout=timeout, trust_env=False) as http:
            for last in addresses:
                request = http.build_request(
                    *("POST", url.copy_with(host=last)),
                    content=body,
                    headers=told,
                    extensions={"sni_hostname": host},
                )
                try:
                    response = await http.send(request, stream=True, follow_redirects=False)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if last == addresses[-1]:
                        raise
                    continue
                try:
                    return await _read(response)
                finally:
                    await response.aclose()
        raise AddressError(f"{host} has no address")


async def _read(response: httpx.Response) -> Answer:
    read = 0
    async for piece in response.aiter_raw():  # to be polite; what it says is not kept
        read += len(piece)
        if read > MAX_READ_BYTES:
            break
    words = _shown(f"{response.status_code} {response.reason_phrase}".strip())
    if response.has_redirect_location:
        words += ", a redirect, which is not followed"
    after = response.headers.get("retry-after", "")
    return Answer(
        taken=response.is_success,
        words=words,
        gone=response.status_code == HTTPStatus.GONE,
        after_s=min(int(after), MAX_RETRY_AFTER_S) if after.isdecimal() and len(after) < 10 else 0,
    )


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_ANSWER]
