"""Where a decision comes from: kept beside the request that is served, and written into the record of decisions."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

API, CONSOLE, CLI, SERVER = "api", "console", "cli", "server"
CLI_AGENT: Final = "fleetlift-cli"
"""What the command line's User-Agent begins with."""
SESSION_COOKIES: Final = ("__Host-fleetlift", "fleetlift_session")
"""What a browser that is logged in to the console sends, over TLS and without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request comes from: the address, the way (`api`, `console`, `cli`, `server`), the token, the request.

    `via` is what the caller says of itself, and no proof; the rest is the server's own knowledge.
    """

    address: str = ""
    via: str = API
    token: str = ""
    request: str = ""


ORIGIN: ContextVar[Origin | None] = ContextVar("fleetlift_origin", default=None)
"""Whence the decision comes that is being taken; None where nobody said."""
