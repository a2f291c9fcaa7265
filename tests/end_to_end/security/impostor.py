"""A man in the middle who ends TLS with a certificate of his own, and says what the server says to anybody."""

import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path

TRUST = b"GET /api/v1/enrolment/trust "
_BLOCK_BYTES = 64 * 1024


class Impostor:
    """Listens on loopback, shows the key and certificate of a PEM file, and writes down what he is told in confidence.

    Whoever asks whom to trust gets the server's own answer, `trust`: it is public.
    """

    def __init__(self, pem: Path, trust: bytes) -> None:
        self.told: list[bytes] = []
        """What came through a handshake that was completed; the question whom to trust is left out."""
        self.refusals: list[str] = []
        """How handshakes failed."""
        self._trust = trust
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, name="impostor", daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(15)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                victim, _ = self._listener.accept()
                victim.settimeout(10)
                self._threads.append(threading.Thread(target=self._deceive, args=(victim,), daemon=True))
                self._threads[-1].start()

    def _deceive(self, victim: socket.socket) -> None:
        with victim:
            try:
                with self._context.wrap_socket(victim, server_side=True) as trusting:
                    said = _request(trusting)
                    if said.startswith(TRUST):
                        trusting.sendall(self._answer())
                    elif said:
                        self.told.append(said)
            except (OSError, ValueError) as error:
                self.refusals.append(str(error))

    def _answer(self) -> bytes:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self._trust)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + self._trust


def _request(connection: ssl.SSLSocket) -> bytes:
    """What comes, to the end of an HTTP request if it is one."""
    said = b""
    while block := connection.recv(_BLOCK_BYTES):
        said += block
        head, end, body = said.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        if not said.startswith((b"GET", b"POST")) or (end and len(body) >= (int(length[1]) if length else 0)):
            break
    return said
