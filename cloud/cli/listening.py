"""Where the server listens, and the HTTP server that ends with the loops beside it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from protocol.errors import UserError


class QuietServer(uvicorn.Server):
    """An HTTP server that leaves the signals to us: the loops beside it end with it, in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Connections inherit it. asyncio sets it on sockets of the protocol TCP alone, and this one says 0: without it
        # an answer of two writes waits 40 ms for the acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener  # noqa: TRY300 - what is raised before is ours to explain
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be listened on: {error.strerror}. Nothing was started; choose another port with "
            "--port, or in fleetlift.toml.",
            exit_code=1,
        ) from error
