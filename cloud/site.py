"""All that the server answers over HTTP: the API for programs and devices, and the console for people."""

from collections.abc import MutableMapping
from typing import Any, Final

from cloud.api.app import PREFIX, create_app
from cloud.api.backend import Backend
from cloud.api.middleware import App, Receive, Send
from cloud.console.app import create_console

OF_THE_API: Final = ("/api", "/livez", "/readyz")


class Site:
    """Hands each request to the API or to the console, by its path."""

    def __init__(self, api: App, console: App) -> None:
        self._api, self._console = api, console

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = str(scope.get("path", ""))
        ours = path.startswith(f"{PREFIX}/") or any(path == it or path.startswith(f"{it}/") for it in OF_THE_API)
        await (self._api if ours else self._console)(scope, receive, send)


def create_site(backend: Backend) -> Site:
    """Return the API and the console over the same parts."""
    api = create_app(backend)
    return Site(api, create_console(backend, api.state.watching))
