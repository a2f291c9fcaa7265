"""All that the server answers over HTTP: the API for programs and devices, the console and the documents for people."""

from collections.abc import MutableMapping
from typing import Any, Final

from cloud.api.app import PREFIX, create_app
from cloud.api.backend import Backend
from cloud.api.middleware import App, Receive, Send
from cloud.console.app import create_console
from cloud.manual import PATH as DOCS

OF_THE_API: Final = ("/api", "/livez", "/readyz")


class Site:
    """Hands each request to the API, to the documents if there are any, or to the console, by its path."""

    def __init__(self, api: App, console: App, manual: App | None = None) -> None:
        self._api, self._console, self._manual = api, console, manual

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and self._manual is not None and f"{path}/".startswith(f"{DOCS}/"):
            await self._manual(scope, receive, send)
            return
        ours = path.startswith(f"{PREFIX}/") or any(path == it or path.startswith(f"{it}/") for it in OF_THE_API)
        await (self._api if ours else self._console)(scope, receive, send)


def create_site(backend: Backend, manual: App | None = None) -> Site:
    """Return the API and the console over the same parts, and the documents if they are to be served."""
    api = create_app(backend)
    console = create_console(backend, api.state.watching, api.state.surveying)
    console.state.password_tries = api.state.password_tries  # they count together
    return Site(api, console, manual)
