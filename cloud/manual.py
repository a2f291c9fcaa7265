"""The documents: where they are read, the place in them that explains a code, and their site at `/docs/`."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from cloud.config import ServerSettings
from protocol.errors import UserError

PATH: Final = "/docs"
CATALOGUE: Final = "troubleshooting"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Manual:
    """Where the documents are read: the address of their site; nothing is the repository."""

    url: str = ""

    def explain(self, code: str, kind: str = "") -> str:
        """Return where a code is explained; `kind` is `reason`, `wait`, `message`, `control`, `exit`."""
        page = f"{self.url}/{CATALOGUE}.html" if self.url else f"docs/{CATALOGUE}.md"
        return f"{page}#{kind}-{code}" if kind else f"{page}#{code}"


def manual_of(settings: ServerSettings, base_url: str) -> Manual:
    """Return where a server's documents are: where its settings say, else with itself (the catalogue at least)."""
    return Manual(settings.docs_url or f"{base_url}{PATH}")


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the site and most places that show Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


class ManualSite:
    """Serves the built site below `/docs/`: files only, and nothing that a page of it did not bring along runs."""

    def __init__(self, directory: Path) -> None:
        """Take where `make docs` put it; raises UserError if it is not there."""
        if not (directory / "index.html").is_file():
            raise UserError(
                f"docs_dir in the settings says {directory}, and no built site is there. Nothing was started; build it "
                "with `make docs`, or leave docs_dir out."
            )
        self._files = Starlette(routes=[Mount(PATH, StaticFiles(directory=directory))])

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = str(scope["path"])
        if path == PATH:
            await RedirectResponse(f"{PATH}/")(scope, receive, send)
            return
        if path.endswith("/"):
            scope = {**scope, "path": f"{path}index.html"}

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._files(scope, receive, say)
